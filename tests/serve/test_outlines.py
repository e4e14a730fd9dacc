"""Shapes lose nothing: a mask comes back from its run lengths and from its outlines."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deeplab.data.layouts.run_lengths import coco_runs, from_runs
from deeplab.serve.outlines import Ring, coco_counts, features, polygons, run_lengths

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda size: arrays(bool, size))


def inside(ring: Ring, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: pixels whose way to the right crosses the ring an odd number of times."""
    found = np.zeros(size, bool)
    for (x, y), (other_x, other_y) in pairwise(ring):
        if x == other_x:
            found[min(y, other_y) : max(y, other_y), :x] ^= True
    return found


def turned(ring: Ring) -> int:
    return sum(x * other_y - other_x * y for (x, y), (other_x, other_y) in pairwise(ring))


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_a_mask_comes_back_from_its_outlines(mask: np.ndarray) -> None:
    again = np.zeros(mask.shape, int)
    for outer, *holes in polygons(mask):
        area = inside(outer, mask.shape)
        assert turned(outer) > 0
        for hole in holes:
            assert turned(hole) < 0
            assert (inside(hole, mask.shape) <= area).all()
            area ^= inside(hole, mask.shape)
        again += area
    np.testing.assert_array_equal(again, mask)


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_a_mask_comes_back_from_its_run_lengths(mask: np.ndarray) -> None:
    runs = coco_runs(coco_counts(mask))
    np.testing.assert_array_equal(from_runs(runs, mask.shape, by_column=True), mask)


def test_run_lengths_are_cocos() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((97, 130)) > 0.7
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert coco_counts(mask) == theirs["counts"].decode()


def test_classes_are_named_and_those_without_a_name_left_out() -> None:
    labels = np.array([[0, 0, 2], [0, 255, 2]], np.uint8)
    names = ("background", "cat", "dog")
    found = run_lengths(labels, names)
    assert [(each["name"], each["area"]) for each in found["classes"]] == [("background", 3), ("dog", 2)]
    shapes = features(labels, names)["features"]
    assert shapes[1]["properties"] == {"id": 2, "name": "dog", "area": 2}
    assert shapes[1]["geometry"]["coordinates"] == [[[[2, 0], [3, 0], [3, 2], [2, 2], [2, 0]]]]

"""Boundary measures: drawn by hand, and against plain loops over pixels and distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.errors import UserError
from deeplab.evaluation.boundaries import Boundaries

CLASSES = 3


def measured(labels: np.ndarray, predictions: np.ndarray, **options: object) -> Boundaries:
    result = Boundaries(CLASSES, **options)
    result.update(0, labels, predictions)
    return result


def halves(width: int, cut: int, *, height: int = 4) -> np.ndarray:
    """Class 0 to the left of column `cut`, class 1 from there on."""
    return np.tile((np.arange(width) >= cut).astype(np.uint8), (height, 1))


def blobs(random: np.random.Generator, shape: tuple[int, int], *, void: float = 0.0) -> np.ndarray:
    """Coarse random regions, some pixels void."""
    coarse = random.integers(0, CLASSES, (shape[0] // 3 + 1, shape[1] // 3 + 1))
    labels = coarse.repeat(3, 0).repeat(3, 1)[: shape[0], : shape[1]]
    labels[random.random(shape) < void] = 255
    return labels.astype(np.uint8)


def pixels(shape: tuple[int, int]) -> list[tuple[int, int]]:
    return [(y, x) for y in range(shape[0]) for x in range(shape[1])]


def chessboard(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(abs(one[0] - other[0]), abs(one[1] - other[1]))


def mean_iou_loop(pairs: list[tuple[int, int]]) -> float:
    scores = []
    for own in range(CLASSES):
        union = [pair for pair in pairs if own in pair]
        if union:
            scores.append(sum(pair == (own, own) for pair in union) / len(union))
    return sum(scores) / len(scores) if scores else math.nan


def test_trimap_by_hand() -> None:
    # the prediction's edge is one column too far right: in the band of width 1 (2 columns of 4 pixels) one
    # column is wrong: class 0 has 4 of 8, class 1 has 0 of 4; width 2 (4 columns): 8 of 12 and 4 of 8
    trimap = measured(halves(10, 5), halves(10, 6), widths=(2, 1)).trimap()
    assert trimap == {1: pytest.approx((4 / 8 + 0) / 2), 2: pytest.approx((8 / 12 + 4 / 8) / 2)}


def test_trimap_around_void_by_hand() -> None:
    labels = halves(10, 5)
    labels[:, 5] = 255
    wrong = halves(10, 5)
    wrong[:, 4] = 1
    # void column 5; within 1 of it: columns 4 (wrong) and 6 (right)
    assert measured(labels, wrong, widths=(1,), edges="void").trimap() == {1: pytest.approx((0 + 4 / 8) / 2)}
    none = measured(halves(10, 5), wrong, widths=(1,), edges="void")
    assert math.isnan(none.trimap()[1])


def test_boundary_iou_by_hand() -> None:
    # 20 x 20, d = 1 of a diagonal of 28.3 x 2 % = 0.57, at least 1. The outline ring of a 10 x 10 square
    # is 36 pixels; shifted by one column, both rings share the 9 + 9 pixels of the top and bottom rows.
    labels, predictions = np.zeros((2, 20, 20), np.uint8)
    labels[5:15, 5:15] = 1
    predictions[5:15, 6:16] = 1
    result = measured(labels, predictions)
    assert result.depth_counts[:, 1].tolist() == [18, 36, 36]
    assert result.iou_per_class()[1] == pytest.approx(18 / 54)
    # background: the rim of the picture, 76 pixels, in both; the ring around the square, 44 with corners, of
    # which the top and bottom rows share 11 each, less nothing
    assert result.depth_counts[:, 0].tolist() == [76 + 22, 76 + 44, 76 + 44]
    assert result.mean_iou() == pytest.approx((18 / 54 + 98 / 142) / 2)
    assert math.isnan(result.iou_per_class()[2])


def test_f_score_by_hand() -> None:
    # tolerance 0: outline columns 4 | 5 of the truth, 5 | 6 of the prediction; no class meets its own
    assert measured(halves(10, 5), halves(10, 6), tolerance_share=0).mean_f() == 0
    # a tolerance of one pixel (diagonal 10.77) matches every column
    assert measured(halves(10, 5), halves(10, 6), tolerance_share=0.1).mean_f() == 1
    # a bar of class 1 that the prediction leaves out: class 1 gets 0; class 0 has no predicted outline: 0
    bar = np.zeros((5, 9), np.uint8)
    bar[:, 4] = 1
    result = measured(bar, np.zeros_like(bar))
    assert result.f_per_class()[:2].tolist() == [0, 0] and math.isnan(result.f_per_class()[2])
    assert result.outlines[0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [10, 5, 0]]


def outline_loop(labels: np.ndarray) -> dict[tuple[int, int], int]:
    found = {}
    for y, x in pixels(labels.shape):
        for b, a in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= b < labels.shape[0] and 0 <= a < labels.shape[1]
            if inside and labels[b, a] != labels[y, x]:
                found[y, x] = int(labels[y, x])
    return found


def f_loop(labels: np.ndarray, predictions: np.ndarray, tolerance: float) -> list[float]:
    truth = {place: value for place, value in outline_loop(labels).items() if value != 255}
    predicted = outline_loop(predictions)

    def share(own: dict, other: dict, value: int) -> tuple[float, int]:
        places = [place for place in own if own[place] == value]
        found = [p for p in places if any(other[q] == value and math.dist(p, q) <= tolerance for q in other)]
        places = [p for p in places if p in found or labels[p] != 255]
        return len(found) / len(places) if places else 0.0, len(places)

    scores = []
    for value in range(CLASSES):
        precision, many = share(predicted, truth, value)
        recall, more = share(truth, predicted, value)
        both = precision + recall
        scores.append((2 * precision * recall / both if both else 0.0) if many + more else math.nan)
    return scores


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(9, 11), (8, 5), (1, 7)]), st.sampled_from([0.0, 0.15]))
def test_loops_agree(seed: int, shape: tuple[int, int], void: float) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = blobs(random, shape, void=void), blobs(random, shape)
    options = {"widths": (1, 3), "depth_share": 0.15, "tolerance_share": 0.16}
    diagonal = math.hypot(*shape)
    grid = pixels(shape)
    for edges in ("labels", "void"):
        result = measured(labels, predictions, edges=edges, **options)
        for width in (1, 3):
            band = []
            for p in grid:
                near = [labels[q] for q in grid if chessboard(p, q) <= width]
                held = any(v == 255 for v in near) if edges == "void" else any(v != labels[p] for v in near)
                if held and labels[p] != 255:
                    band.append((int(labels[p]), int(predictions[p])))
            assert result.trimap()[width] == pytest.approx(mean_iou_loop(band), nan_ok=True)
    depth = max(1, round(0.15 * diagonal))
    masked = np.where(labels == 255, 255, predictions)
    counts = np.zeros((3, CLASSES), int)
    for value in range(CLASSES):
        inner = []
        for mask in (labels == value, masked == value):
            near = {
                (y, x)
                for y, x in grid
                if mask[y, x]
                and any(
                    not (0 <= b < shape[0] and 0 <= a < shape[1] and mask[b, a])
                    for b in range(y - depth, y + depth + 1)
                    for a in range(x - depth, x + depth + 1)
                )
            }
            inner.append(near)
        counts[:, value] = len(inner[0] & inner[1]), len(inner[0]), len(inner[1])
    np.testing.assert_array_equal(result.depth_counts, counts)
    expected = f_loop(labels, predictions, 0.16 * diagonal)
    assert result.f_per_class().tolist() == pytest.approx(expected, nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_invariants(seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = [(blobs(random, (12, 14), void=0.05), blobs(random, (12, 14))) for _ in range(4)]

    def total(order: list[int]) -> Boundaries:
        result = Boundaries(CLASSES)
        for image in order:
            result.update(image, *pairs[image])
        return result

    whole, parts = total([0, 1, 2, 3]), total([3, 1]) + total([2, 0])
    assert parts.trimap() == whole.trimap()
    np.testing.assert_array_equal(parts.iou_per_class(), whole.iou_per_class())
    assert (parts.mean_f() == whole.mean_f()) and (parts.f_per_class() == whole.f_per_class()).all()
    table = np.append(random.permutation(CLASSES), np.full(253, 255)).astype(np.uint8)
    pairs = [(table[labels], table[predictions]) for labels, predictions in pairs]
    renamed = total([0, 1, 2, 3])
    assert renamed.mean_iou() == pytest.approx(whole.mean_iou(), rel=1e-12)
    assert renamed.f_per_class()[table[:CLASSES]].tolist() == whole.f_per_class().tolist()
    assert renamed.trimap() == pytest.approx(whole.trimap(), rel=1e-12)


def test_a_perfect_prediction_gets_1() -> None:
    labels = blobs(np.random.default_rng(4), (20, 30))
    result = measured(labels, labels)
    assert (result.mean_iou(), result.mean_f(), set(result.trimap().values())) == (1, 1, {1.0})


def test_void_is_nobodys_fault() -> None:
    labels = halves(12, 6, height=8)
    labels[:, 5:7] = 255
    result = measured(labels, halves(12, 6, height=8), widths=(2,))
    assert result.mean_iou() == 1 and result.trimap() == {2: 1.0}
    # the predicted outline lies on void, a pixel from the labelled one, within a tolerance of 1.4
    assert measured(labels, halves(12, 6, height=8), tolerance_share=0.1).mean_f() == 1
    # an outline in the middle of unlabelled ground is not judged; what is labelled there is found
    ground = np.full((20, 20), 255, np.uint8)
    ground[:, :4] = 0
    island = np.zeros((20, 20), np.uint8)
    island[8:12, 12:16] = 1
    assert measured(ground, island, tolerance_share=0.01).outlines[0][1].tolist() == [0, 0, 0]


def test_mistakes_are_named() -> None:
    labels = halves(6, 3)
    with pytest.raises(UserError, match="band widths"):
        Boundaries(2, widths=(0, 1))
    with pytest.raises(UserError, match="edges 'both'; allowed: void, labels"):
        Boundaries(2, edges="both")
    with pytest.raises(UserError, match="shares of the diagonal"):
        Boundaries(2, depth_share=0)
    with pytest.raises(UserError, match="label 7 is no class"):
        measured(labels + 7, labels)
    with pytest.raises(UserError, match="prediction 9 is no class"):
        measured(labels, labels + 9)
    with pytest.raises(UserError, match="one"):
        measured(labels, labels[:2])
    result = measured(labels, labels)
    with pytest.raises(UserError, match="image 0 was measured before"):
        result.update(0, labels, labels)
    with pytest.raises(UserError, match="an image in both"):
        result + result

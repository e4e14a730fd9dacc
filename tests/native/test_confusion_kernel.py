"""The compiled confusion matrix: the same counts as numpy's, the same errors as the plain version."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab.errors import UserError
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.native import build, confusion

PIXELS = 1 << 17  # more than one thread takes at once
needs_compiler = pytest.mark.skipif(bool(confusion.KERNEL.why_not), reason=confusion.KERNEL.why_not)


def maps(classes: int, *, ignored: int = 255, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, classes, (2, PIXELS + 12345))
    labels[random.random(len(labels)) < 0.2] = ignored
    return labels, predictions


def counted(labels: np.ndarray, predictions: np.ndarray, classes: int, ignored: int = 255) -> np.ndarray:
    """By numpy, apart from both versions."""
    kept = labels != ignored
    joint = labels[kept].astype(np.int64) * classes + predictions[kept].astype(np.int64)
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)


@pytest.fixture
def only_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain version must not be asked."""
    monkeypatch.setattr(torch, "bincount", None)


@needs_compiler
@pytest.mark.usefixtures("only_compiled")
@pytest.mark.parametrize("kinds", [("u1", "u1"), ("u1", "i8"), ("u2", "i8"), ("i8", "u2"), ("i8", "i8")])
def test_every_type_and_both_libraries(kinds: tuple[str, str]) -> None:
    labels, predictions = (each.astype(kind) for each, kind in zip(maps(19), kinds, strict=True))
    expected = counted(labels, predictions, 19)
    for convert in (np.asarray, torch.from_numpy):
        matrix = ConfusionMatrix(19)
        for _ in range(2):
            matrix.update(convert(labels), convert(predictions))
        np.testing.assert_array_equal(matrix.counts, 2 * expected)


@needs_compiler
@pytest.mark.usefixtures("only_compiled")
@pytest.mark.parametrize("classes, ignored", [(1, 255), (5, 0), (2, 1), (150, 255), (256, 300), (255, 255)])
def test_ignored_labels_inside_and_outside_the_classes(classes: int, ignored: int) -> None:
    labels, predictions = maps(classes, ignored=ignored)
    matrix = ConfusionMatrix(classes, ignore_label=ignored)
    matrix.update(labels.astype(np.uint16), predictions)
    np.testing.assert_array_equal(matrix.counts, counted(labels, predictions, classes, ignored))


@needs_compiler
@pytest.mark.usefixtures("only_compiled")
def test_strides_shapes_and_whatever_is_predicted_where_pixels_are_ignored() -> None:
    labels, predictions = (each[:PIXELS].reshape(256, 512).astype(np.uint8) for each in maps(4))
    predictions[labels == 255] = 250
    matrix = ConfusionMatrix(4)
    matrix.update(labels.T, predictions.T)
    matrix.update(torch.from_numpy(labels)[:, ::2], np.asfortranarray(predictions[:, ::2]))
    halves = counted(labels[:, ::2].ravel(), predictions[:, ::2].ravel(), 4)
    np.testing.assert_array_equal(matrix.counts, counted(labels.ravel(), predictions.ravel(), 4) + halves)


@needs_compiler
@pytest.mark.usefixtures("only_compiled")
def test_the_number_of_threads_changes_nothing() -> None:
    labels, predictions = maps(19)
    found = []
    threads = torch.get_num_threads()
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        matrix = ConfusionMatrix(19)
        matrix.update(labels, predictions)
        found.append(matrix.counts)
    torch.set_num_threads(threads)
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


@pytest.mark.parametrize(
    "label, prediction, ignored, message",
    [
        (7, 0, 255, r"label 7 is no class \(1 pixels\); allowed: 0\.\.2, and 255"),
        (0, 3, 255, r"prediction 3 is no class \(1 pixels\)"),
        (-1, 0, 255, r"label -1 is out of range"),
        (-1, 0, -1, r"label -1 is out of range"),
        (999, 0, 255, r"label 999 is out of range"),
        (255, 999, 255, r"prediction 999 is out of range"),
        (0, -5, 255, r"prediction -5 is out of range"),
    ],
)
def test_wrong_values_are_named_and_not_counted(
    label: int, prediction: int, ignored: int, message: str
) -> None:
    labels, predictions = np.zeros((2, PIXELS), dtype=np.int64)
    labels[77777], predictions[77777] = label, prediction
    matrix = ConfusionMatrix(3, ignore_label=ignored)
    with pytest.raises(UserError, match=message):
        matrix.update(labels, predictions)
    assert matrix.counts.sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_what_is_no_integer_is_refused_as_ever(dtype: torch.dtype) -> None:
    labels = torch.zeros(PIXELS, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"predictions are .*; allowed: integers"):
        ConfusionMatrix(3).update(labels, labels.to(dtype))


@pytest.mark.parametrize("kind", ["i4", "i2"])
def test_other_integers_are_counted_by_the_plain_version(kind: str) -> None:
    labels, predictions = maps(5)
    matrix = ConfusionMatrix(5)
    matrix.update(labels.astype(kind), predictions)
    np.testing.assert_array_equal(matrix.counts, counted(labels, predictions, 5))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    monkeypatch.setattr(build, "_told", ["nothing new"])
    monkeypatch.setattr(confusion, "KERNEL", replace(confusion.KERNEL))


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler() -> None:
    labels, predictions = maps(5)
    matrix = ConfusionMatrix(5)
    matrix.update(labels, predictions)
    np.testing.assert_array_equal(matrix.counts, counted(labels, predictions, 5))
    assert not confusion.KERNEL.ready()

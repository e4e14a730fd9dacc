"""Our measures against those of torchmetrics and the Cityscapes server's own script, where they are installed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.torch_comparison import peer

from deeplab.data.layouts.cityscapes import TO_TRAIN_IDS, to_label_ids
from deeplab.evaluation.calibration import Calibration
from deeplab.evaluation.instance_iou import AVERAGE_SIZES, CATEGORIES, InstanceIoU
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.evaluation.panoptic import PanopticQuality
from deeplab.imaging.palettes import CITYSCAPES_CLASSES

CLASSES, VOID = 6, 255


@pytest.fixture(params=range(4))
def maps(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels with void, and predictions, int64 [3, 20, 24]; in the last case one class is nowhere labelled."""
    random = np.random.default_rng(request.param)
    labels = random.integers(0, CLASSES - (request.param == 3), (3, 20, 24))
    predictions = np.where(
        random.random(labels.shape) < 0.5, labels, random.integers(0, CLASSES, labels.shape)
    )
    labels[random.random(labels.shape) < 0.15] = VOID
    return torch.from_numpy(labels), torch.from_numpy(predictions)


def test_torchmetrics_confusion_iou_and_accuracy(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    theirs = peer("torchmetrics.classification")
    labels, predictions = maps
    confusion = ConfusionMatrix(CLASSES)
    confusion.update(labels, predictions)
    options: dict[str, Any] = {"num_classes": CLASSES, "ignore_index": VOID}

    def their(kind: str, average: str | None) -> np.ndarray:
        return getattr(theirs, kind)(**options, average=average)(predictions, labels).double().numpy()

    matrix = theirs.MulticlassConfusionMatrix(**options)(predictions, labels)
    np.testing.assert_array_equal(confusion.counts, matrix.numpy())
    labelled = confusion.counts.sum(axis=1) > 0
    iou, accuracy = their("MulticlassJaccardIndex", None), their("MulticlassAccuracy", None)
    np.testing.assert_allclose(confusion.iou_per_class()[labelled], iou[labelled], rtol=1e-6)
    np.testing.assert_allclose(confusion.accuracy_per_class()[labelled], accuracy[labelled], rtol=1e-6)
    assert confusion.pixel_accuracy() == pytest.approx(float(their("MulticlassAccuracy", "micro")), rel=1e-6)
    weighted = float(their("MulticlassJaccardIndex", "weighted"))
    assert confusion.frequency_weighted_iou() == pytest.approx(weighted, rel=1e-6)
    # a class that is only predicted counts as 0 there too
    assert confusion.mean_iou() == pytest.approx(float(their("MulticlassJaccardIndex", "macro")), rel=1e-6)


def test_torchmetrics_calibration(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    theirs = peer("torchmetrics.classification")
    labels, _ = maps
    logits = 3 * torch.randn(3, CLASSES, 20, 24, generator=torch.manual_seed(5))
    probabilities = logits.softmax(1)
    sure, predictions = probabilities.max(1)
    for bins in (10, 15):
        ours = Calibration(bins=bins)
        ours.update(labels.numpy(), predictions.numpy(), sure.numpy())
        for norm, value in (("l1", ours.expected_error()), ("max", ours.maximum_error())):
            judge = theirs.MulticlassCalibrationError(CLASSES, n_bins=bins, norm=norm, ignore_index=VOID)
            assert value == pytest.approx(float(judge(probabilities, labels)), abs=2e-6)


def test_torchmetrics_panoptic_quality() -> None:
    """Without void, whose treatment differs: there a prediction on void is dropped before segments are matched."""
    theirs = peer("torchmetrics.detection")
    random = np.random.default_rng(7)
    things, stuffs = {1, 2}, {3, 4}
    judge = theirs.PanopticQuality(things=things, stuffs=stuffs, return_per_class=True)
    ours = PanopticQuality(5, 0)
    for _ in range(3):
        truth = random.integers(1, 5, (2, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
        change = random.random((8, 8)).repeat(4, axis=0).repeat(4, axis=1) < 0.3
        predicted = np.where(change, random.integers(1, 5, truth.shape), truth)
        for category, instance in (truth, predicted):
            # what is no thing has no instances
            instance[np.isin(category, list(stuffs))] = 0
        ours.compare_and_accumulate(*truth, *predicted)
        batch = (torch.from_numpy(np.stack([*pair], axis=-1)[None]) for pair in (predicted, truth))
        judge.update(*batch)
    np.testing.assert_allclose(ours.result_per_category()[1:], judge.compute()[0].numpy(), rtol=1e-5)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The Cityscapes server's script; it calls numpy's in1d, which is isin under its new name."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    return peer("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")


def street(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Label ids and instance ids as Cityscapes has them, [48, 64], groups of instances among them."""
    labels = random.integers(0, 34, (8, 8)).repeat(6, axis=0).repeat(8, axis=1)
    number = random.integers(-1, 4, (12, 16)).repeat(4, axis=0).repeat(4, axis=1)
    told_apart = np.isin(labels, [24, 25, 26, 27, 28, 29, 30, 31, 32, 33]) & (number >= 0)
    return labels.astype(np.uint8), np.where(told_apart, 1000 * labels + number, labels).astype(np.uint16)


def test_cityscapes_server(server: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(11)
    confusion, instance_iou = ConfusionMatrix(19), InstanceIoU()
    files: dict[str, list[str]] = {"prediction": [], "truth": []}
    for image in range(3):
        labels, instances = street(random)
        truth = np.array(TO_TRAIN_IDS)[labels].astype(np.uint8)
        predicted = np.where(
            (truth != 255) & (random.random(truth.shape) < 0.6), truth, random.integers(0, 19, truth.shape)
        )
        confusion.update(truth, predicted)
        instance_iou.update(image, instances.astype(np.int32), predicted)
        held = {
            "prediction": to_label_ids(predicted),
            "gtFine_labelIds": labels,
            "gtFine_instanceIds": instances,
        }
        for name, values in held.items():
            Image.fromarray(values).save(tmp_path / f"{image}_{name}.png")
        files["prediction"].append(str(tmp_path / f"{image}_prediction.png"))
        files["truth"].append(str(tmp_path / f"{image}_gtFine_labelIds.png"))
    server.args.quiet, server.args.JSONOutput = True, False
    theirs = server.evaluateImgLists(files["prediction"], files["truth"], server.args)
    for name, value in zip(CITYSCAPES_CLASSES, confusion.iou_per_class(), strict=True):
        assert value == pytest.approx(theirs["classScores"][name], rel=1e-12)
    assert confusion.mean_iou("cityscapes") == pytest.approx(theirs["averageScoreClasses"], rel=1e-12)
    for name, value in instance_iou.by_class(confusion).items():
        assert value == pytest.approx(theirs["classInstScores"][name], rel=1e-12)
    assert instance_iou.mean(confusion) == pytest.approx(theirs["averageScoreInstClasses"], rel=1e-12)
    for name, value in instance_iou.by_category(confusion).items():
        assert value == pytest.approx(theirs["categoryInstScores"][name], rel=1e-12)
    assert {name: server.args.avgClassSize[name] for name in AVERAGE_SIZES} == AVERAGE_SIZES
    assert set(CATEGORIES) < set(theirs["categoryInstScores"])

"""Cityscapes' iIoU: by hand, in any order, and the files beside the masks. The server's script: tests/peers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab import DeepLab, DeepLabConfig, LabelSpec, Segmenter
from deeplab.cli.app import main
from deeplab.config import backbone_config
from deeplab.data.layouts.cityscapes import TO_TRAIN_IDS
from deeplab.errors import UserError
from deeplab.evaluation.instance_iou import AVERAGE_SIZES, InstanceIoU, instance_file, read_instances
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.imaging.palettes import CITYSCAPES_CLASSES

PERSON, RIDER, CAR, ROAD = (CITYSCAPES_CLASSES.index(name) for name in ("person", "rider", "car", "road"))
# two persons of 4 and 1 pixels, a crowd of persons, a car of 2, a caravan (not evaluated), road
INSTANCES = np.array([[24001, 24001, 24001, 24001, 24002, 24, 24, 26001, 26001, 29001, 7, 7]])
TRUTH = np.array([[PERSON] * 7 + [CAR] * 2 + [255] + [ROAD] * 2])
PREDICTED = np.array([[PERSON, PERSON, PERSON, RIDER, ROAD, PERSON, ROAD, CAR, PERSON, CAR, CAR, ROAD]])


def measured() -> tuple[InstanceIoU, ConfusionMatrix]:
    result, confusion = InstanceIoU(), ConfusionMatrix(19)
    result.update(0, INSTANCES, PREDICTED)
    confusion.update(TRUTH, PREDICTED)
    return result, confusion


def test_by_hand() -> None:
    result, confusion = measured()
    person, car = AVERAGE_SIZES["person"], AVERAGE_SIZES["car"]
    found = result.by_class(confusion)
    # of both persons together 3/4 and 0 hit; one car pixel is taken for a person; the crowd is no instance
    assert found["person"] == pytest.approx(0.75 * person / (2 * person + 1), rel=1e-12)
    # half of the one car; a road pixel is taken for a car, the caravan counts nowhere
    assert found["car"] == pytest.approx(0.5 * car / (car + 1), rel=1e-12)
    assert found["rider"] == 0 and np.isnan(found["train"])
    assert result.mean(confusion) == pytest.approx((found["person"] + found["car"]) / 3, rel=1e-12)
    human, vehicle = result.by_category(confusion).values()
    # a person taken for a rider is still human
    assert human == pytest.approx(person / (2 * person + 1), rel=1e-12)
    assert vehicle == found["car"]


def test_parts_in_any_order_give_the_same_to_the_last_bit() -> None:
    random = np.random.default_rng(3)
    whole, parts, confusion = InstanceIoU(), [InstanceIoU(), InstanceIoU()], ConfusionMatrix(19)
    for image in range(7):
        instances = random.integers(24000, 24009, (6, 6)) + 1000 * random.integers(0, 10, (6, 6))
        predicted = random.integers(0, 19, (6, 6))
        whole.update(image, instances, predicted)
        parts[image % 2].update(image, instances, predicted)
    for merged in (parts[0] + parts[1], parts[1] + parts[0]):
        assert repr(merged.by_class(confusion)) == repr(whole.by_class(confusion))
    with pytest.raises(UserError, match=r"image in both: \[0, 1"):
        whole + whole


def test_nothing_counted() -> None:
    assert np.isnan(InstanceIoU().mean(ConfusionMatrix(19)))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "bonn_000001_000019_gtFine_instanceIds.png"
    masks = [tmp_path / f"bonn_000001_000019_gtFine_{kind}.png" for kind in ("labelIds", "labelTrainIds")]
    assert [instance_file(mask) for mask in masks] == [None, None]
    Image.fromarray(INSTANCES.astype(np.uint16)).save(path)
    assert [instance_file(mask) for mask in masks] == [path, path]
    assert instance_file(path) is None
    np.testing.assert_array_equal(read_instances(path), INSTANCES)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"instances are \(1, 12\), predictions \(1, 11\)"):
        InstanceIoU().update(0, INSTANCES, PREDICTED[:, 1:])
    with pytest.raises(UserError, match="missing: rider, truck"):
        InstanceIoU(("person", "car", "bus", "train", "motorcycle", "bicycle"))


# two photos cannot show them all
@pytest.mark.filterwarnings("ignore:16 classes never occur in val")
def test_eval_shows_it_where_cityscapes_has_instances(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(5)
    photos, masks = tmp_path / "leftImg8bit/val/bonn", tmp_path / "gtFine/val/bonn"
    photos.mkdir(parents=True)
    masks.mkdir(parents=True)
    torch.manual_seed(0)
    config = DeepLabConfig(backbone=backbone_config("mobilenet_v2", width=0.25), num_classes=19)
    model = DeepLab(config, LabelSpec.named(CITYSCAPES_CLASSES)).eval()
    expected, confusion = InstanceIoU(), ConfusionMatrix(19)
    for image in range(2):
        photo = random.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        labels = random.choice([7, 24, 26], (4, 5)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
        instances = np.where(labels == 7, 7, 1000 * labels.astype(int) + np.arange(20) // 5 + 1).astype(
            np.uint16
        )
        Image.fromarray(photo).save(photos / f"bonn_{image}_0_leftImg8bit.png")
        Image.fromarray(labels).save(masks / f"bonn_{image}_0_gtFine_labelIds.png")
        Image.fromarray(instances).save(masks / f"bonn_{image}_0_gtFine_instanceIds.png")
        predicted = Segmenter(model, device="cpu")(photo).labels
        expected.update(image, instances.astype(np.int32), predicted)
        confusion.update(np.array(TO_TRAIN_IDS)[labels], predicted)
    model.save_pretrained(tmp_path / "model")
    words = ["eval", tmp_path, "-m", tmp_path / "model", "--device", "cpu", "-o", tmp_path / "out"]
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert not stopped.value.code and "iIoU" in capfd.readouterr().out
    held = json.loads((tmp_path / "out/results.json").read_text())["instance-weighted IoU"]
    assert held["mean"] == expected.mean(confusion)
    assert held["by category"]["human"] == expected.by_category(confusion)["human"]

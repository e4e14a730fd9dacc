"""Photos of bands from the doctor to labels: what is pasted trains, and every command reads what the model reads."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.banded_photos import NAMES, scene, write_folder, write_tiff

from deeplab import DeepLab, Segmenter
from deeplab.crf import V2_RESNET101
from deeplab.data.layouts.embedded import read_embedded_photo
from deeplab.data.opening import open_complete
from deeplab.doctor.run import check_data
from deeplab.errors import UserError
from deeplab.export.run import export_model
from deeplab.imaging.bands import Bands
from deeplab.model.checkpoint import load
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.sliding import Window
from deeplab.prediction.videos import PictureLabeller
from deeplab.serve.models import Models
from deeplab.system.processes import ALONE
from deeplab.train.keeper import SILENT
from deeplab.train.recipe import Recipe
from deeplab.train.run import train, training_set
from deeplab.train.teaching import prepare_teachers

KINDS = ("thermal", "infrared", "float")


def recipe_for(root: Path, **changes: Any) -> Recipe:
    """What the doctor says of the photos, pasted into a small recipe."""
    pixels = check_data(root).pixels
    assert pixels is not None
    values: dict[str, Any] = {
        "name": "bands",
        "data": {"root": str(root)},
        "model": {
            "output_stride": 8,
            "backbone": {
                "name": "mobilenet_v2",
                "width": 0.35,
                "in_channels": len(pixels.bands),
                "norm": {"momentum": 0.1},
            },
            "context": {"channels": 16},
            "decoder": {"channels": 16, "low_level_channels": 8},
            "head_norm": {"momentum": 0.1},
            "pixels": pixels.model_dump(),
        },
        "augment": {"crop": [49, 49], "scales": [1.0, 1.25]},
        "optimise": {"steps": 30, "batch_size": 4, "learning_rate": 0.1, "precision": "float32"},
        "workers": 0,
    }
    return Recipe.model_validate(values | changes)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def trained(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """Photos, a model trained on them, and its mean IoU in validation."""
    folder = tmp_path_factory.mktemp(kind)
    root = write_folder(folder / "data", kind)
    every = {"rotate": 10, "copy_paste": 0.3, "copy_paste_classes": ["warm"], "resize": {"min_size": 50}}
    recipe = recipe_for(root, augment={"crop": [49, 49], "scales": [1.0, 1.25], **every})
    optimise = recipe.optimise.model_copy(update={"samples_every": 30, "validate_every": 30})
    recipe = recipe.model_copy(update={"optimise": optimise})
    confusion = train(recipe, folder / "run", device="cpu", watcher=SILENT)
    assert (folder / "run/samples/step-000030.png").exists()
    return root, folder / "run", confusion.mean_iou()


def photo_of(root: Path) -> Path:
    return sorted((root / "images").iterdir())[-1]


def test_they_train_and_every_command_sees_them(
    trained: tuple[Path, Path, float], kind: str, deeplab: Any, tmp_path: Path
) -> None:
    root, model, measured = trained
    assert measured > 0.6, "only the last band shows the rectangle"
    code, _, err = deeplab("eval", root, "-m", model, "-o", tmp_path / "report")
    assert code == 0, err
    assert json.loads((tmp_path / "report/results.json").read_text())["mean IoU"] == pytest.approx(
        measured, abs=1e-4
    )
    code, _, err = deeplab("predict", photo_of(root), "-m", model, "-o", tmp_path / "out")
    assert code == 0, err
    stored, _ = scene(kind, 8)
    segmenter = Segmenter(model, device="cpu")
    found = segmenter(photo_of(root))
    assert found.photo.dtype == stored.dtype
    np.testing.assert_array_equal(found.photo, stored)
    np.testing.assert_array_equal(segmenter(stored).labels, found.labels)
    with Image.open(tmp_path / "out/p8_labels.png") as written:
        np.testing.assert_array_equal(np.array(written), found.labels)
    again = Segmenter(load(model), device="cpu", engine="auto", window=Window(48, 48))
    np.testing.assert_array_equal(again(stored).labels, found.labels)
    assert Segmenter(model, scales=(1.0, 1.5), flip=True, device="cpu")(stored).labels.shape == (48, 48)
    assert load(model).config.pixels == check_data(root).pixels


def test_samples_are_not_rounded_to_bytes(trained: tuple[Path, Path, float], kind: str) -> None:
    image, label = training_set(recipe_for(trained[0]))[0]
    assert image.dtype == torch.float32 and image.shape[1:] == (49, 49) and label.dtype == torch.uint8
    # padding is the mean of each band, which normalises to 0
    padded = image[:, label == 255]
    mean = torch.tensor(load(trained[1]).config.pixels.mean)
    assert padded.numel() == 0 or torch.equal(padded, mean[:, None].expand_as(padded))


def test_other_photos_are_refused_by_every_command(
    trained: tuple[Path, Path, float], kind: str, deeplab: Any, tmp_path: Path
) -> None:
    model = trained[1]
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / "rgb.png")
    said = "rgb.png: has 3 bands of uint8; allowed: "
    code, _, err = deeplab("predict", tmp_path / "rgb.png", "-m", model, "-o", tmp_path / "out")
    assert code == 1
    assert said in json.loads((tmp_path / "out/predictions.json").read_text())[0]["error"]
    with pytest.raises(UserError, match="has 3 bands of uint8"):
        Segmenter(model)(np.zeros((48, 48, 3), np.uint8))
    code, _, err = deeplab("predict", photo_of(trained[0]), "-m", "animals", "-o", tmp_path / "rgb")
    assert code == 1 and "Traceback" not in err
    assert "p8." in json.loads((tmp_path / "rgb/predictions.json").read_text())[0]["error"]


def test_what_needs_8_bit_rgb_says_so(
    trained: tuple[Path, Path, float], deeplab: Any, tmp_path: Path
) -> None:
    root, path, _ = trained
    model = load(path)
    with pytest.raises(UserError, match="exported ones take 8-bit RGB"):
        export_model(model, "onnx", tmp_path / "onnx", name="model")
    with pytest.raises(UserError, match="a server is sent 8-bit RGB photos"):
        Models([str(path)], Labelling(device="cpu"))
    with pytest.raises(UserError, match=r"engine openvino is given 8-bit RGB photos.*fix: engine torch"):
        Segmenter(model, engine="openvino")
    with pytest.raises(UserError, match="sigma_beta is in steps of 8 bits, and this model reads"):
        Segmenter(model, crf=V2_RESNET101)
    with pytest.raises(UserError, match="pictures of clips and cameras are 8-bit RGB"):
        PictureLabeller(Predictor.of(model))
    code, _, err = deeplab("crf", "search", root, "-m", path, "-o", tmp_path / "crf.json")
    assert code == 2 and "this model reads bands" in err


@pytest.mark.parametrize(
    "setting", [{"jitter": [0.1, 0.1, 0.1]}, {"hue": 10}, {"gamma": [0.8, 1.2]}, {"blur": 0.5}]
)
def test_changes_of_colours_are_refused_by_name(setting: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_for(write_folder(tmp_path, "thermal"), augment=setting)
    with pytest.raises(UserError, match=rf"augment\.{next(iter(setting))} changes colours of 8 bits"):
        training_set(recipe)


def test_rgb_recipes_refuse_such_photos_before_a_step(tmp_path: Path, deeplab: Any) -> None:
    write_folder(tmp_path / "data", "thermal")
    code, _, err = deeplab(
        "train", "own-photos", f"data.root={tmp_path / 'data'}", "start=null", "-o", tmp_path / "run"
    )
    assert code == 2 and "Traceback" not in err
    assert "of its 16 bits" in err and "train a model that reads 16 bits" in err


def test_a_teacher_reads_what_its_pupil_reads(tmp_path: Path) -> None:
    recipe = recipe_for(write_folder(tmp_path / "data", "thermal"))
    student = DeepLab(recipe.model.config(len(NAMES)))
    teacher = recipe.model.model_copy(
        update={"pixels": recipe.model.pixels.model_copy(update={"values": "uint8", "range": None})}
    )
    DeepLab(teacher.config(len(NAMES))).save_pretrained(tmp_path / "teacher")
    values = recipe.model_dump() | {
        "distil": {"teacher": [str(tmp_path / "teacher")]},
        "loss": {"class_weights": None},
    }
    taught = Recipe.model_validate(values)
    assert taught.distil is not None
    with pytest.raises(
        UserError, match=r"distil\.teacher: .*reads band 1 \(uint8\) and the model to train band 1 \(uint16\)"
    ):
        prepare_teachers(
            taught.distil,
            training_set(recipe),
            student=student,
            data="",
            world=ALONE,
            on_news=lambda line: None,
        )


def test_a_kept_decoded_photo_is_of_its_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "data", "infrared")
    recipe = recipe_for(root, data={"root": str(root), "keep_decoded": True, "classes": list(NAMES)})
    for _ in range(2):
        image, _ = training_set(recipe).load(0)
        np.testing.assert_array_equal(image, scene("infrared", 0)[0])


def test_masks_of_turned_tiffs_are_turned_along(tmp_path: Path) -> None:
    """Pillow cannot open five bands, and labels drawn on the stored photo are turned by its header alone."""
    root = tmp_path / "data"
    write_folder(root, "float")
    stored = np.random.default_rng(0).normal(0, 1, (40, 60, 5)).astype(np.float32)
    write_tiff(root / "images/p0.tif", stored, extratags=[(274, "H", 1, 6, True)])
    labels = np.zeros((40, 60), np.uint8)
    labels[:5] = 1
    Image.fromarray(labels).save(root / "masks/p0.png")
    source = open_complete(root, "train", bands=Bands(tuple("abcde"), "float32"))
    assert source.photo(0).shape == (60, 40, 5)
    np.testing.assert_array_equal(source.label(0), np.rot90(labels, -1))


def test_photos_inside_annotations_and_shards_are_bands_too(tmp_path: Path) -> None:
    thermal, wanted = scene("thermal", 0)[0], Bands(("thermal",), "uint16")
    held = io.BytesIO()
    Image.fromarray(thermal[..., 0]).save(held, "PNG")
    content = {
        "imagePath": "a.png",
        "imageData": base64.b64encode(held.getvalue()).decode(),
        "shapes": [{"label": "warm", "points": [[2, 2], [20, 2], [20, 20]], "shape_type": "polygon"}],
    }
    (tmp_path / "drawn/train").mkdir(parents=True)
    (tmp_path / "drawn/train/a.json").write_text(json.dumps(content))
    inside = open_complete(tmp_path / "drawn", "train", bands=wanted)
    np.testing.assert_array_equal(inside.photo(0), thermal)
    assert inside.label(0).shape == (48, 48)
    np.testing.assert_array_equal(read_embedded_photo(held.getvalue(), "shard:0", wanted), thermal)
    with pytest.raises(UserError, match=r"a\.json:imageData: of its 16 bits"):
        open_complete(tmp_path / "drawn", "train").photo(0)
    with pytest.raises(UserError, match="shard:0: has 1 band of uint16; allowed: 2 of float32"):
        read_embedded_photo(held.getvalue(), "shard:0", Bands(("vv", "vh"), "float32"))

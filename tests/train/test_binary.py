"""Two classes from one channel and a sigmoid: the loss, training, thresholds, and what becomes of the weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from support.data_folders import grey
from support.training_runs import make_squares, squares_recipe

from deeplab import Segmenter
from deeplab.config import ASPPConfig, DeepLabConfig, backbone_config, parse_config
from deeplab.errors import UserError
from deeplab.model.checkpoint import load, with_classes
from deeplab.model.network import DeepLab
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.train.recipe.loss import LossRecipe, recipe_loss

CLASSES = ("background", "square")
SMALL = {
    "backbone": backbone_config("mobilenet_v2", width=0.25),
    "context": ASPPConfig(channels=8, rates=(2,)),
    "num_classes": 2,
}


def binary(sigmoid: float | None = 0.5, **options: object) -> DeepLab:
    torch.manual_seed(0)
    return DeepLab(DeepLabConfig(**SMALL, sigmoid=sigmoid, **options)).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data with masks of black and white, and the folder of a run on them."""
    from deeplab.cli.app import main

    folder = tmp_path_factory.mktemp("binary")
    data = make_squares(folder / "data", side=40, photos=9)
    for mask in (data / "SegmentationClass").iterdir():
        values = np.array(Image.open(mask))
        grey(mask, np.where((values > 0) & (values < 255), 255, 0))
    recipe = squares_recipe(data, steps=60, batch_size=6, learning_rate=0.1).model_dump(mode="json")
    recipe["data"] |= {"names": CLASSES, "classes": (), "values": (0, 255)}
    recipe["model"]["sigmoid"] = 0.5
    (folder / "t.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(folder / "t.yaml"), "-o", str(folder / "run"), "--device", "cpu"])
    assert not stopped.value.code
    return data, folder / "run"


def test_the_classifier_has_one_channel_and_background_no_weights() -> None:
    model = binary(0.3)
    assert len(model.classifiers["semantic"].convs[0].weight) == 1
    logits = model(torch.randint(0, 256, (2, 3, 33, 49), dtype=torch.uint8))
    assert logits.shape == (2, 2, 33, 49)
    assert torch.allclose(logits[:, 0].sigmoid(), torch.tensor(0.3))
    assert len(logits[:, 1].unique()) > 1
    assert torch.equal(logits.argmax(1).bool(), logits[:, 1].sigmoid() > 0.3)


def test_cross_entropy_of_such_logits_is_binary_cross_entropy() -> None:
    random = torch.manual_seed(0)
    logits = torch.randn(2, 1, 9, 7, generator=random).requires_grad_()
    labels = torch.randint(0, 2, (2, 9, 7), generator=random)
    labels[:, 0] = 255
    valid = labels != 255
    weighted = LossRecipe(class_weights=(1.0, 3.0))
    for recipe, pos_weight in ((LossRecipe(), 1.0), (weighted, 3.0)):
        both = torch.cat([torch.zeros_like(logits), logits], 1)
        (ours,) = torch.autograd.grad(loss := recipe_loss(both, labels, recipe), logits)
        theirs = F.binary_cross_entropy_with_logits(
            logits[:, 0][valid], labels[valid].float(), pos_weight=torch.tensor(pos_weight)
        )
        assert torch.allclose(loss, theirs) and torch.allclose(
            ours, torch.autograd.grad(theirs, logits)[0], atol=1e-7
        )


def test_other_numbers_of_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"sigmoid goes with two classes, .*; found num_classes 3"):
        parse_config(DeepLabConfig, {**binary().config.to_json(), "num_classes": 3}, "here")
    with pytest.raises(UserError, match="sigmoid"):
        parse_config(DeepLabConfig, {**binary().config.to_json(), "sigmoid": 1.0}, "here")


def test_new_classes_replace_the_sigmoid_where_there_are_not_two() -> None:
    assert with_classes(binary(), ("a", "b", "c")).config.sigmoid is None
    assert with_classes(binary(), ("a", "b")).config.sigmoid == 0.5


def test_a_run_on_masks_of_black_and_white_learns(trained: tuple[Path, Path]) -> None:
    _, run = trained
    record = json.loads((run / "run.json").read_text())
    assert record["validation"]["IoU"]["square"] > 0.6
    assert load(run).config.sigmoid == 0.5 and load(run).labels.classes == CLASSES


def test_a_threshold_is_that_of_the_sigmoid(trained: tuple[Path, Path], deeplab, tmp_path: Path) -> None:
    data, run = trained
    photo = np.array(Image.open(data / "JPEGImages/photo8.png"))
    share = Segmenter(run, device="cpu")(photo, probabilities=True).probabilities[1]
    for threshold in (0.1, 0.9):
        for how in ({}, {"scales": (1.0,), "flip": False, "engine": "torch"}):
            found = Segmenter(run, device="cpu", threshold=threshold, **how)(photo).labels
            near = np.abs(share - threshold) < 1e-4
            assert np.array_equal(found[~near], (share > threshold)[~near])
    low, high = (
        (Segmenter(run, device="cpu", threshold=threshold)(photo).labels == 1).sum()
        for threshold in (0.1, 0.9)
    )
    assert low > high > 0
    words = ("--classes", *CLASSES, "--values", 0, 255, "--device", "cpu", "-o", tmp_path / "out")
    code, _, err = deeplab("eval", data, "-m", run, "--threshold", 0.9, *words)
    assert code == 0 and json.loads((tmp_path / "out/results.json").read_text())["threshold"] == 0.9, err
    code, _, err = deeplab(
        "predict", data / "JPEGImages/photo8.png", "-m", run, "-o", tmp_path / "p", "--threshold", 2
    )
    assert code == 2 and "threshold 2; allowed: numbers between 0 and 1" in err


def test_a_threshold_of_two_channels_is_that_of_their_softmax() -> None:
    model = binary(None)
    photo = np.random.default_rng(0).integers(0, 256, (33, 49, 3), dtype=np.uint8)
    share = Predictor.of(model, Labelling(device="cpu")).probabilities_of(photo)[1][1]
    middle = share.median().item()
    found = Predictor.of(model, Labelling(device="cpu", threshold=middle)).labels_of(photo)
    clear = (share - middle).abs() > 1e-6
    assert torch.equal(found.bool()[clear], (share > middle)[clear]) and 0.3 < found.float().mean() < 0.7


def test_a_threshold_for_several_classes_is_refused(squares_model: Path) -> None:
    with pytest.raises(
        UserError, match=r"threshold 0.4 goes with a model of two classes .* this one has \d+ classes"
    ):
        Segmenter(squares_model, device="cpu", threshold=0.4)

"""Training: who decays, what a step does, and that a small run learns and repeats itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import make_squares, squares_recipe

from deeplab import DeepLab, LabelSpec
from deeplab.config import ASPPConfig, DeepLabConfig, backbone_config
from deeplab.errors import UserError
from deeplab.evaluation.photo_by_photo import evaluate
from deeplab.model.checkpoint import load
from deeplab.prediction.predictor import Predictor
from deeplab.train.loop import Objective, batch_loss, train_steps
from deeplab.train.optimiser import parameter_groups, set_learning_rate
from deeplab.train.run import Watcher, train
from deeplab.train.start import start_from

QUIET = Watcher(lambda report: None, lambda: None)


def tiny_model(seed: int = 0) -> DeepLab:
    torch.manual_seed(seed)
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=3,
    )
    return DeepLab(config, LabelSpec.named(["background", "red", "blue"])).train()


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "squares")


def test_learning_rate_reaches_each_group_with_its_multiplier() -> None:
    groups = parameter_groups(tiny_model(), weight_decay=0.1, head_multiplier=10)
    optimiser = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimiser, 0.5)
    assert {group["lr"] for group in optimiser.param_groups} == {0.5, 5.0, 10.0}


def test_a_batch_without_valid_pixels_changes_no_kernel() -> None:
    model = tiny_model()
    images = torch.randint(0, 256, (2, 3, 33, 33), dtype=torch.uint8)
    loss = batch_loss(model, images, torch.full((2, 33, 33), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_a_loss_that_is_not_finite_stops_with_advice() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.classifiers["semantic"].convs[0].bias.fill_(float("nan"))
    batch = (torch.zeros(1, 3, 33, 33, dtype=torch.uint8), torch.zeros(1, 33, 33, dtype=torch.uint8))
    optimiser = torch.optim.SGD(parameter_groups(model, weight_decay=0, head_multiplier=1), lr=0.1)
    with pytest.raises(UserError, match=r"loss became nan at step 0.*lower learning rate"):
        train_steps(Objective(model), [batch], optimiser=optimiser, schedule=lambda step: 0.1)


def test_pyramid_scales_and_their_merge_each_give_a_loss_term() -> None:
    """v2 section 4.1: a loss on each copy and on the fused scores."""
    single = tiny_model().eval()
    config = single.config.model_copy(update={"image_pyramid": (1.0, 0.5)})
    pyramid = DeepLab(config).eval()
    pyramid.load_state_dict(single.state_dict())
    images = torch.randint(0, 256, (1, 3, 65, 65), dtype=torch.uint8)
    labels = torch.randint(0, 3, (1, 65, 65), dtype=torch.uint8)
    with torch.no_grad():
        scales = [logits["semantic"] for logits in pyramid.pyramid_logits(images)]
        merged = torch.maximum(*scales)
        resized = [
            torch.nn.functional.interpolate(x, (65, 65), mode="bilinear", align_corners=True)
            for x in (*scales, merged)
        ]
        expected = sum(torch.nn.functional.cross_entropy(x, labels.long()) for x in resized)
        torch.testing.assert_close(batch_loss(pyramid, images, labels), expected, rtol=1e-5, atol=1e-5)


def test_a_small_run_learns_and_leaves_a_record(squares: Path, tmp_path: Path) -> None:
    recipe = squares_recipe(squares, steps=60)
    confusion = train(recipe, tmp_path / "first", device="cpu", watcher=QUIET)
    assert confusion.mean_iou() > 0.6
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines[:-1]] == list(range(60))
    assert lines[-1] == {"validated_after": 60, **record["validation"]}
    assert lines[-2]["loss"] < 0.5 * lines[0]["loss"]
    assert record["validation"]["mean IoU"] == pytest.approx(confusion.mean_iou(), abs=1e-4)
    assert set(record["validation"]["IoU"]) == {"background", "red", "blue"}
    assert load(tmp_path / "first").provenance["validation"] == record["validation"]


def test_workers_change_nothing(squares: Path, tmp_path: Path) -> None:
    states = []
    for workers in (0, 2):
        recipe = squares_recipe(squares, workers=workers, steps=3)
        train(recipe, tmp_path / str(workers), device="cpu", watcher=QUIET)
        states.append(load(tmp_path / str(workers)).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_evaluation_is_per_photo_at_its_own_size() -> None:
    """Against IoU written out by hand from the model's own labels."""
    model = tiny_model().eval()
    random = np.random.default_rng(1)
    samples = [
        (random.integers(0, 256, (*size, 3), dtype=np.uint8), random.integers(0, 3, size, dtype=np.uint8))
        for size in ((33, 47), (20, 65))
    ]
    samples[0][1][:5] = 255
    hits, union = np.zeros(3), np.zeros(3)
    for photo, labels in samples:
        with torch.inference_mode():
            logits = model(torch.from_numpy(photo).permute(2, 0, 1)[None])
        predicted = logits[0].argmax(0).numpy()
        for value in range(3):
            truth, found = labels == value, (predicted == value) & (labels != 255)
            hits[value] += (truth & found).sum()
            union[value] += (truth | found).sum()
    measured = evaluate(Predictor.as_it_is(model.eval()), samples)
    assert measured.mean_iou() == pytest.approx(np.mean(hits / union), abs=1e-12)


def test_starting_from_a_model_keeps_what_fits(tmp_path: Path) -> None:
    tiny_model(seed=1).save_pretrained(tmp_path)
    config = tiny_model().config.model_copy(update={"num_classes": 5})
    model = DeepLab(config)
    report = start_from(model, str(tmp_path))
    assert report["kept random"] == [
        "classifiers.semantic.convs.0.bias",
        "classifiers.semantic.convs.0.weight",
    ]
    assert report["dropped"] == report["kept random"]
    expected = load(tmp_path).state_dict()["backbone.stem.conv.weight"]
    assert torch.equal(model.state_dict()["backbone.stem.conv.weight"], expected)


def test_what_a_start_of_other_classes_loses_is_said(squares: Path, tmp_path: Path) -> None:
    recipe = squares_recipe(squares, steps=1, batch_size=2)
    DeepLab(recipe.model.config(3)).save_pretrained(tmp_path / "three")
    fewer = recipe.data.model_copy(update={"classes": recipe.data.names[:2]})
    news: list[str] = []
    train(
        recipe.model_copy(update={"start": str(tmp_path / "three"), "data": fewer}),
        tmp_path / "run",
        device="cpu",
        watcher=QUIET._replace(on_news=news.append),
    )
    (told,) = [line for line in news if "dropped" in line]
    taken = len(load(tmp_path / "three").state_dict()) - 2
    assert told == (
        "the start's 2 tensors classifiers.semantic.convs.0.bias, classifiers.semantic.convs.0.weight are dropped: "
        f"this model, of 2 classes, has none of their shapes; {taken} are taken, and 2 of its own begin random"
    )


def test_an_unknown_start_is_named() -> None:
    with pytest.raises(UserError, match=r"start: no model 'imagenet-vgg'.*; did you mean imagenet-vgg16\?"):
        start_from(tiny_model(), "imagenet-vgg")

"""Configs and recipes: typed, serialisable, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeplab.config import (
    ASPPConfig,
    DecoderConfig,
    DeepLabConfig,
    PixelConfig,
    backbone_config,
    parse_config,
)
from deeplab.errors import UserError, require
from deeplab.train.recipe import FOLDER, read_recipe

RECIPES = [FOLDER / "own-photos.yaml"]


def test_json_round_trip_is_equal() -> None:
    config = DeepLabConfig(
        backbone=backbone_config("resnet50_beta", multi_grid=(1, 2, 4)),
        context=ASPPConfig(rates=(6, 12, 18), image_pooling_crop=(33, 49), gate="sigmoid"),
        decoder=DecoderConfig(strides=(8, 4)),
        num_classes=21,
        extra_outputs={"direction": 2},
        pixels=PixelConfig(
            bands=("red", "infrared", "depth"),
            values="uint16",
            range=(0, 16383),
            mean=(1, 2, 3),
            std=(4, 5, 6),
        ),
    )
    assert parse_config(DeepLabConfig, config.to_json(), "test") == config


@pytest.mark.parametrize(
    ("backbone", "more", "message"),
    [
        (
            {"name": "mobilenet_v2", "multi_grid": [1, 2, 4]},
            {},
            "mobilenet_v2 has no key 'multi_grid'; known keys: .*width",
        ),
        ({"name": "resnet50", "width": 0.5}, {}, "resnet50 has no key 'width'; known keys: .*multi_grid"),
        (
            {"name": "xceptoin"},
            {},
            "backbone.name = 'xceptoin': no such name; did you mean 'xception'.*timm:<name>",
        ),
        ({"width": 0.5}, {}, "name is missing; allowed: mobilenet_v2"),
        ({"name": "timm:resnet18", "norm": {}}, {}, "timm has no key 'norm'; known keys: name, in_channels"),
        (
            {"name": "vgg16"},
            {"context": {"kind": "asp"}},
            "context.kind = 'asp': no such kind; did you mean 'aspp'",
        ),
        (
            {"name": "resnet18", "norm": {"esp": 1}},
            {},
            "backbone.norm.esp = 1: unknown key; did you mean 'eps'",
        ),
        (
            {"name": "vgg16"},
            {"context": {"kind": "fc"}},
            "^my.json: context.rates is missing, which fc has to have$",
        ),
        ({"name": "vgg16"}, {"pixels": 3}, "^my.json: pixels = 3: here stand keys .*; known keys: mean, "),
        ({"name": "vgg16"}, {"decoder": {"strides": [4, 8]}}, "must descend"),
        ({"name": "vgg16"}, {"decoder": {"output_is_logits": True}}, "channels == num_classes"),
        ({"name": "vgg16"}, {"classifier_kernel": 3}, "needs classifier_rates"),
        ({"name": "vgg16"}, {"output_stride": 12}, "output_stride = 12"),
        ({"name": "vgg16"}, {"contxt": {}}, "did you mean 'context'"),
        ({"name": "vgg16"}, {"context": {"chanels": 1}}, "did you mean 'channels'"),
        (
            {"name": "vgg16", "in_channels": 4},
            {},
            "in_channels is 4, and pixels has the 3 channels red, green, blue; set .* or pixels.bands to the names",
        ),
        (
            {"name": "vgg16"},
            {"pixels": {"bands": ["a"], "mean": [0], "std": [1]}},
            "in_channels is 3.*channels a;",
        ),
        (
            {"name": "vgg16"},
            {"pixels": {"bands": ["a", "b", "c"]}},
            "a mean and std of their own: deeplab data check",
        ),
        (
            {"name": "vgg16"},
            {"pixels": {"mean": [1.0]}},
            "mean and std have 1 and 3 values for the channels red",
        ),
        ({"name": "vgg16"}, {"pixels": {"std": [1, 0, 1]}}, "every channel's is above 0"),
        ({"name": "vgg16"}, {"pixels": {"values": "uint16"}}, "values and range go with bands"),
        (
            {"name": "vgg16"},
            {"pixels": {"bands": ["a", "b", "a"], "mean": [0, 0, 0], "std": [1, 1, 1]}},
            "two bands have one name",
        ),
    ],
)
def test_what_does_not_fit_is_explained(backbone: dict, more: dict, message: str) -> None:
    values = {"backbone": backbone, "num_classes": 3, **more}
    with pytest.raises(UserError, match=message) as caught:
        parse_config(DeepLabConfig, values, "my.json")
    assert str(caught.value).startswith("my.json: ")


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        (
            "street",
            ["data.root=.", "model.pixels.mean=[1]"],
            "model.pixels: mean and std have 1 and 3 values for the channels red, green, blue; give one each",
        ),
        (
            "street",
            ["data.root=.", "model.backbone.in_channels=4"],
            "model: backbone.in_channels is 4, and pixels",
        ),
        (
            "street",
            ["data.root=.", "loss.outputs={x: 1}"],
            "loss.outputs names 'x'; model.extra_outputs has []",
        ),
        ("street", ["data.root=.", "modle={a: {b: 1}}"], "modle: unknown key; did you mean 'model'?"),
        (
            "street",
            ["data.root=.", "model.backbone=3"],
            "model.backbone = 3: here stand keys with values of their own; known keys: in_channels, name",
        ),
    ],
)
def test_mistakes_are_told_without_all_that_stands_beside_them(
    recipe: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(recipe, overrides)
    (line,) = str(caught.value).splitlines()
    assert f"{recipe}.yaml: {said}" in line
    # what the user did not write is not said
    assert "{" not in line and "crop" not in line


def test_overrides_reach_nested_keys() -> None:
    recipe = read_recipe(RECIPES[0], ["optimise.steps=7", "augment.crop=[65, 97]", "data.root=/photos"])
    assert recipe.optimise.steps == 7
    assert recipe.augment.crop == (65, 97)
    assert recipe.data.root == Path("/photos")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimise.stpes=7", r"optimise\.stpes = 7: unknown key; did you mean 'steps'"),
        ("optimise.steps=many", r"optimise\.steps = 'many'"),
        ("optimise.steps", "not of the form"),
        ("seed.x=1", "holds a value"),
    ],
)
def test_wrong_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_recipe(RECIPES[0], [override])


def test_unreadable_recipes_are_named(tmp_path: Path) -> None:
    for name, text in (("list.yaml", "- 1"), ("broken.yaml", "a: [")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=name):
            read_recipe(tmp_path / name)
    with pytest.raises(UserError, match=r"missing\.yaml"):
        read_recipe(tmp_path / "missing.yaml")


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(UserError, match=r"deeplab-segmentation\[tflite\]"):
        require("no_such_module_here", extra="tflite")

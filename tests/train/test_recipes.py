"""The recipes that come with the project: they parse, build what their preset says, and refuse typos."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deeplab.data.augment_recipe import train_transform
from deeplab.data.layouts import LAYOUTS
from deeplab.data.layouts.ade20k import ADE20K_CLASSES
from deeplab.errors import UserError
from deeplab.imaging.palettes import CITYSCAPES_CLASSES, VOC_CLASSES
from deeplab.model.network import DeepLab
from deeplab.presets import preset
from deeplab.train.recipe import FOLDER, Recipe, read_recipe
from deeplab.train.recipe.schedule import scheduled_rate
from deeplab.train.start import PACKAGED

PATHS = sorted(FOLDER.glob("*.yaml"))
CLASSES = {"voc": len(VOC_CLASSES), "cityscapes": len(CITYSCAPES_CLASSES), "ade20k": len(ADE20K_CLASSES)}
# recipe: the preset with the published numbers
PRESETS = {
    "v1_vgg16": "v1",
    "v1_vgg16_msc": "v1_msc",
    "v1_vgg16_7x7": "v1_7x7",
    "v1_vgg16_4x4": "v1_4x4",
    "v1_vgg16_largefov": "v1_largefov",
    "v1_vgg16_msc_largefov": "v1_msc_largefov",
    "v2_vgg16_largefov": "v2_vgg16_largefov",
    "v2_vgg16_aspp_s": "v2_vgg16_aspp_s",
    "v2_vgg16_aspp_l": "v2_vgg16_aspp_l",
    "v2_resnet101": "v2_resnet101",
    "v2_resnet101_msc": "v2_resnet101_msc",
    "v2_resnet101_msc_coco": "v2_resnet101_msc_coco",
    "v2_resnet101_msc_coco_scales": "v2_resnet101_msc_coco_scales",
    "v2_resnet101_msc_largefov": "v2_resnet101_largefov",
    "v2_resnet101_msc_aspp": "v2_resnet101_aspp",
    "v3_resnet101_os16": "v3_resnet101",
    "v3_resnet101_os8": "v3_resnet101",
    "v3_resnet101_cascade": "v3_resnet101_cascade",
    "v3_resnet101_cityscapes": "v3_resnet101_cityscapes",
    "v3_mobilenetv2": "mobilenetv2_coco_voc_trainaug",
    "v3_mobilenetv2_dm05": "mobilenetv2_dm05_coco_voc_trainaug",
    "v3_mobilenetv2_cityscapes": "mobilenetv2_coco_cityscapes_trainfine",
    "v3plus_resnet101": "v3plus_resnet101",
    "v3plus_xception65": "v3plus_xception65_coco",
    "v3plus_xception65_cityscapes": "xception65_cityscapes_trainfine",
    "v3plus_xception65_ade20k": "xception65_ade20k_train",
    "v3plus_xception71_cityscapes": "v3plus_xception71_cityscapes",
    "v3plus_mobilenetv2_ade20k": "mobilenetv2_ade20k_train",
    "lraspp_mobilenetv3_large_cityscapes": "mobilenetv3_large_cityscapes_trainfine",
    "lraspp_mobilenetv3_small_cityscapes": "mobilenetv3_small_cityscapes_trainfine",
}


def named(name: str) -> Recipe:
    return read_recipe(name, ["data.root=photos"])


def class_count(recipe: Recipe) -> int:
    # with layout "auto" the data say it, and any number will do here
    return len(recipe.data.classes) or CLASSES.get(recipe.data.layout, 2)


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_recipe_builds_a_model_and_a_transform(path: Path) -> None:
    recipe = named(path.stem)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    with torch.device("meta"):
        model = DeepLab(recipe.model.config(class_count(recipe)))
    assert next(model.parameters()).is_meta
    assert recipe.data.layout in {"auto", *LAYOUTS}
    # what the recipe does not say, the data do
    classes = recipe.data.classes or recipe.augment.rare_classes
    transform = train_transform(recipe.augment, classes=classes, pixels=recipe.model.pixels)
    assert transform.crop_size == recipe.augment.crop


@pytest.mark.parametrize("name", PRESETS)
def test_recipe_trains_the_published_architecture(name: str) -> None:
    recipe = named(name)
    found, wanted = recipe.model.config(class_count(recipe)), preset(PRESETS[name], class_count(recipe))
    changed = {}
    if recipe.start in PACKAGED:
        # weights that are at hand were trained on pixels half a grey level off the authors'
        assert found.pixels == PACKAGED[recipe.start].pixels
        changed["pixels"] = found.pixels
    if name.endswith("_os8"):
        rates = tuple(2 * rate for rate in wanted.context.rates)
        changed |= {"output_stride": 8, "context": wanted.context.model_copy(update={"rates": rates})}
    assert found == wanted.model_copy(update=changed)
    assert recipe.name == name


@pytest.mark.parametrize("name", PRESETS)
def test_comment_on_top_names_its_source(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    top = text[: text.index("\nname:")]
    assert all(line.startswith("# ") and len(line) <= 110 for line in top.splitlines())
    assert "section" in top or "the reference's" in top


def test_every_published_recipe_is_looked_at() -> None:
    own = {"animals", "animals-int8", "street", "street-fine", "own-photos"}
    assert {path.stem for path in PATHS} - own == set(PRESETS)


def test_second_stage_follows_the_first() -> None:
    first, second = named("v3_resnet101_os16"), named("v3_resnet101_os8")
    assert second.start == f"runs/{first.name}"
    assert (first.optimise.freeze_norm, second.optimise.freeze_norm) == ("none", "all")
    assert (first.optimise.learning_rate, second.optimise.learning_rate) == (0.007, 0.001)
    # the same weights: only strides and rates differ
    own = {"output_stride", "context"}
    assert first.model.model_dump(exclude=own) == second.model.model_dump(exclude=own)


def test_settings_of_v1_and_v2_by_hand() -> None:
    largefov = named("v1_vgg16_largefov")
    settings = largefov.optimise
    assert (settings.steps, settings.batch_size, settings.learning_rate) == (6000, 20, 1e-3)
    assert (settings.momentum, settings.weight_decay, settings.head_multiplier) == (0.9, 5e-4, 10)
    assert (largefov.augment.crop, largefov.augment.scales) == ((321, 321), (1.0, 1.0))
    assert not largefov.loss.upsample
    rates = [
        scheduled_rate(step, settings.schedule, base=settings.learning_rate, total_steps=settings.steps)
        for step in (0, 1999, 2000, 4000)
    ]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    aspp = named("v2_resnet101_msc_aspp")
    assert (aspp.optimise.steps, aspp.optimise.batch_size) == (20000, 10)
    assert (aspp.optimise.learning_rate, aspp.optimise.freeze_norm) == (2.5e-4, "all")
    assert aspp.augment.scales == (0.5, 1.5)
    assert aspp.model.image_pyramid == (1.0, 0.75, 0.5)


@pytest.mark.parametrize(
    ("override", "wrong", "right"),
    [
        ("sed=3", "sed", "seed"),
        ("data.trian=x", "data.trian", "train"),
        ("model.image_pyramids=[1]", "model.image_pyramids", "image_pyramid"),
        ("model.backbone.multigrid=[1,2,4]", "model.backbone.multigrid", "multi_grid"),
        ("model.context.seperable=true", "model.context.seperable", "separable"),
        ("augment.jiter=[0,0,0]", "augment.jiter", "jitter"),
        ("augment.resize.min_sise=3", "augment.resize.min_sise", "min_size"),
        ("loss.lovas=1", "loss.lovas", "lovasz"),
        ("optimise.learning_rat=1", "optimise.learning_rat", "learning_rate"),
    ],
)
def test_a_typo_names_its_key_and_the_nearest_right_one(override: str, wrong: str, right: str) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(FOLDER / "v3plus_xception65_ade20k.yaml", [override])
    assert f"v3plus_xception65_ade20k.yaml: {wrong} = " in str(caught.value)
    assert f"; did you mean {right!r}?" in str(caught.value)


def test_every_key_of_a_model_can_be_set_but_the_number_of_classes() -> None:
    path = FOLDER / "v1_vgg16_msc.yaml"
    words = ["model.pyramid_merge=mean", "model.extra_outputs={edges: 2}", "model.resize=half_pixel"]
    config = read_recipe(path, words).model.config(21)
    assert config.outputs == {"semantic": 21, "edges": 2}
    assert (config.pyramid_merge, config.resize) == ("mean", "half_pixel")
    with pytest.raises(UserError, match=r"model\.num_classes = 3: unknown key"):
        read_recipe(path, ["model.num_classes=3"])
    with pytest.raises(UserError, match=r"model\.classifier_kernel = 0: Input should be greater than 0"):
        read_recipe(path, ["model.classifier_kernel=0"])

"""Named models: what is in the zoo and the papers, and counted costs against the published ones."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from support.shared_folder import shared

from deeplab import DeepLab, DeepLabConfig
from deeplab.cli.app import main
from deeplab.cli.models import describe_head
from deeplab.errors import UserError
from deeplab.model.cost import cost
from deeplab.presets import PRESETS, find_preset, preset

torch.set_num_threads(1)

# reference facts 7.1 and 7.2: thousand millions of multiply-adds at (size, output stride)
PUBLISHED = [
    ("mobilenetv2_dm05_coco_voc_trainaug", 16, 0.88),
    ("mobilenetv2_dm05_coco_voc_trainval", 8, 2.84),
    ("mobilenetv2_coco_voc_trainaug", 16, 2.75),
    ("xception65_coco_voc_trainaug", 16, 54.17),
    ("mobilenetv2_coco_cityscapes_trainfine", 16, 21.27),
    ("xception65_cityscapes_trainfine", 16, 418.64),
    ("xception71_dpc_cityscapes_trainfine", 16, 502.07),
    ("edgetpu_deeplab", 32, 5.6),
    ("edgetpu_deeplab", 16, 7.1),
    ("edgetpu_deeplab_slim", 32, 3.5),
    ("edgetpu_deeplab_slim", 16, 4.3),
]


@pytest.mark.parametrize(("name", "output_stride", "published"), PUBLISHED)
def test_multiply_adds_are_the_published_ones(name: str, output_stride: int, published: float) -> None:
    """Ours are those of convolutions; the profiler's are 0.1 to 3 % more, since it counts biases and more.

    The published numbers are rounded, EdgeTPU's to 0.1.
    """
    entry = PRESETS[name]
    counted = cost(entry.build(), entry.size, output_stride=output_stride).multiply_adds / 1e9
    rounding = 0.05 if name.startswith("edgetpu") else 0.005
    assert 0.97 * published < counted <= published + rounding


@pytest.mark.parametrize(("size", "published"), [("large", 15.95), ("small", 4.63)])
def test_mobilenet_v3_rows_count_additions_apart(size: str, published: float) -> None:
    """These two rows count a multiply-add twice, and element-wise operations (swish, gates) as well."""
    entry = PRESETS[f"mobilenetv3_{size}_cityscapes_trainfine"]
    twice = 2 * cost(entry.build(), entry.size).multiply_adds / 1e9
    assert 0.84 * published < twice < published


@pytest.mark.parametrize(
    ("name", "millions"), [("v1", 65.1), ("v1_7x7", 134.3), ("v1_4x4", 65.1), ("v1_largefov", 20.5)]
)
def test_parameters_are_those_of_v1_table_2(name: str, millions: float) -> None:
    entry = PRESETS[name]
    assert round(cost(entry.build(), (65, 65)).parameters / 1e6, 1) == millions


def test_the_zoo_has_24_archives_each_once() -> None:
    archives = [entry.archive for entry in PRESETS.values() if entry.archive]
    assert len(archives) == len(set(archives)) == 24
    assert all(entry.source == "model zoo" for entry in PRESETS.values() if entry.archive)
    assert sum(entry.dataset == "ImageNet" for entry in PRESETS.values()) == 6


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_config_that_survives_json(name: str) -> None:
    entry = PRESETS[name]
    config = preset(name)
    assert DeepLabConfig.model_validate(json.loads(json.dumps(config.to_json()))) == config
    assert preset(name, num_classes=7).num_classes == 7
    assert describe_head(config)
    assert all(result.output_stride in (8, 16, 32, None) for result in entry.results)
    classes = {"PASCAL VOC 2012": 21, "Cityscapes": 19, "ADE20K": 151, "ImageNet": 21}
    assert config.num_classes == classes.get(entry.dataset, config.num_classes)


@pytest.mark.parametrize("name", [name for name, entry in PRESETS.items() if entry.results])
def test_every_score_stands_in_its_source(name: str) -> None:
    """The zoo's in the rows of the reference's tables, by file name; the papers' in the list of their facts."""
    entry = PRESETS[name]
    source = shared("spec/tf-reference.md" if entry.archive else "spec/papers.md").read_text()
    if entry.archive:
        lines = [line for line in source.splitlines() if line.startswith(f"| {name} |")]
        (source,) = lines or [line for line in source.splitlines() if f"`{entry.archive}` |" in line]
    for result in entry.results:
        written = f"{result.mean_iou:.2f}", f"{result.mean_iou:.1f}"
        assert any(re.search(rf"(?<![\d.]){re.escape(score)}(?!\d)", source) for score in written), result


def test_the_released_large_fov_networks_smooth_before_fc6() -> None:
    smooth = {name for name in PRESETS if getattr(preset(name).context, "smooth", False)}
    assert smooth == {"v1_largefov", "v1_msc_largefov", "v2_vgg16_largefov"}


def test_a_score_without_a_stated_stride_is_described() -> None:
    described = [result.describe() for result in find_preset("v3plus_xception71_cityscapes").results]
    assert described == ["79.55 (val)", "82.10 (test)"]


def test_published_scores_are_described() -> None:
    described = [result.describe() for result in find_preset("xception65_coco_voc_trainaug").results]
    assert described == ["82.20 (val, OS 16)", "83.58 (val, OS 8, multi-scale, flip)"]


def test_a_preset_with_other_classes_labels_photos() -> None:
    model = DeepLab(preset("mobilenetv3_small_cityscapes_trainfine", num_classes=3)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 65, 65)).shape == (1, 3, 65, 65)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no preset 'v1_largefv'; did you mean .*v1_largefov"):
        preset("v1_largefv")


@pytest.mark.parametrize("format", ["yaml", "json"])
def test_the_command_shows_a_config(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["models", "v3plus_resnet101", "--format", format])
    assert not stopped.value.code
    text = capsys.readouterr().out
    values = json.loads(text) if format == "json" else yaml.safe_load(text)
    assert DeepLabConfig.model_validate(values) == preset("v3plus_resnet101")


def test_the_command_lists_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: PRESETS[name] for name in ("mobilenetv2_coco_voc_trainaug", "v1_msc_largefov")}
    monkeypatch.setattr("deeplab.presets.PRESETS", few)
    with pytest.raises(SystemExit):
        main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "PASCAL VOC 2012, 513 x 513"
    mobile = next(line for line in lines if "mobilenetv2_coco_voc_trainaug" in line)
    for word in (
        "mobilenet_v2",
        "image pooling",
        "2.11 M",
        "2.74 G",
        "75.32 (val, OS 16)",
        "model zoo",
    ):
        assert word in mobile
    assert any(
        "v1_msc_largefov" in line and "fc 3x3 rates 12 MSc" in line and "v1 table 1" in line for line in lines
    )

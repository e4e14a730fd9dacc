"""Starting from a model: weights are taken only where they compute what they did there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab import DeepLab, DeepLabConfig
from deeplab.errors import UserError
from deeplab.importers.torch.layers import TORCH_PIXELS
from deeplab.prediction.fold import folded
from deeplab.train.compatibility import differences, refuse_other_backbone
from deeplab.train.norms import settle
from deeplab.train.start import start_from

FOUR = {
    "bands": ["red", "Green", "blue", "infrared"],
    "values": "uint16",
    "mean": [900.0, 800.0, 700.0, 3000.0],
    "std": [300.0, 300.0, 300.0, 900.0],
}
PLAIN = {
    "backbone": {"name": "mobilenet_v2", "width": 0.25},
    "context": {"channels": 8, "rates": [6]},
    "num_classes": 3,
}
RESNET = {
    "backbone": {"name": "resnet18"},
    "context": {"kind": "none"},
    "num_classes": 2,
}
VGG = {**RESNET, "backbone": {"name": "vgg16"}, "output_stride": 8}
NAS = {**RESNET, "backbone": {"name": "hnasnet", "filters": 4}, "output_stride": 8}


def changed(base: dict, change: dict, device: str = "cpu") -> DeepLab:
    values = {**base, **change}
    values["backbone"] = {**base["backbone"], **change.get("backbone", {})}
    with torch.device(device):
        return DeepLab(DeepLabConfig.model_validate(values))


def saved(base: dict, folder: Path) -> str:
    torch.manual_seed(7)
    changed(base, {}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("base", "change", "named"),
    [
        (PLAIN, {"backbone": {"padding": "symmetric"}}, r'backbone\.padding is "symmetric" .* need "same"'),
        (PLAIN, {"backbone": {"norm": {"eps": 1e-3}}}, r"backbone\.norm\.eps is 0\.001 .* need 1e-05"),
        (PLAIN, {"backbone": {"rate_grows_at": "unit"}}, r"backbone\.rate_grows_at"),
        (PLAIN, {"backbone": {"divisor": 8}}, r"backbone\.divisor is 8 and the weights need null"),
        (PLAIN, {"pixels": TORCH_PIXELS.model_dump()}, r"pixels\.mean is \[123\.675"),
        (PLAIN, {"pixels": {"channels": "bgr"}}, r'pixels\.channels is "bgr"'),
        (PLAIN, {"backbone": {"name": "mobilenet_v3_small"}}, r"backbone\.name"),
    ],
)
def test_a_backbone_that_would_compute_something_else_is_refused(
    base: dict, change: dict, named: str, tmp_path: Path
) -> None:
    source = saved(base, tmp_path)
    model = changed(base, change)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=rf"{tmp_path}.*{named}.*fix: give the recipe's model those values"):
        start_from(model, source)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (PLAIN, {"output_stride": 8, "context": {"channels": 8, "rates": [12]}}),
        (PLAIN, {"backbone": {"norm": {"momentum": 0.1}}}),
        (PLAIN, {"head_norm": {"momentum": 0.5}, "image_pyramid": [1.0, 0.5]}),
    ],
)
def test_what_leaves_the_weights_their_meaning_is_free(base: dict, change: dict, tmp_path: Path) -> None:
    source = saved(base, tmp_path)
    model = changed(base, change)
    assert start_from(model, source)["differs"] == []
    kept = DeepLab.from_pretrained(source).state_dict()
    key = next(key for key in kept if key.endswith("norm.weight"))
    assert torch.equal(model.state_dict()[key], kept[key])


def test_a_first_convolution_for_other_bands_is_widened_by_the_rule_and_told(tmp_path: Path) -> None:
    source = saved({**PLAIN, "pixels": TORCH_PIXELS.model_dump()}, tmp_path)
    model = changed(PLAIN, {"backbone": {"in_channels": 4}, "pixels": FOUR})
    (told,) = start_from(model, source)["differs"]
    assert told.endswith(
        "it takes the mean over all of them for infrared and the weights of equal names, all times 3/4"
    )
    kept = DeepLab.from_pretrained(source)
    given, found = kept.backbone.stem.conv.weight, model.backbone.stem.conv.weight
    # RGB there deviates by 1 after normalising, as bands with a measured std do
    torch.testing.assert_close(found[:, :3], given * 0.75)
    torch.testing.assert_close(found[:, 3], given.mean(1) * 0.75)
    # the same photo in all bands says the same
    grey = torch.rand(1, 1, 33, 33) * 255
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (TORCH_PIXELS.mean, TORCH_PIXELS.std))
    seen = kept.backbone.stem.conv(((grey - mean) / std).mean(1, keepdim=True).expand(-1, 3, -1, -1))
    again = model.backbone.stem.conv(((grey - mean) / std).mean(1, keepdim=True).expand(-1, 4, -1, -1))
    torch.testing.assert_close(again, seen, rtol=1e-4, atol=1e-5)
    rest = kept.state_dict().keys() - {"backbone.stem.conv.weight"}
    assert all(torch.equal(model.state_dict()[key], kept.state_dict()[key]) for key in rest)


def test_weights_that_expect_another_spread_are_multiplied_by_it(tmp_path: Path) -> None:
    """Caffe's networks subtract a mean and divide by nothing: their weights expect values that deviate by 58."""
    pixels = {"mean": [104.0, 117.0, 123.0], "std": [1.0, 1.0, 1.0], "channels": "bgr"}
    source = saved({**VGG, "pixels": pixels}, tmp_path)
    one = {"bands": ["thermal"], "values": "uint16", "mean": [7600.0], "std": [300.0]}
    model = changed(VGG, {"backbone": {"in_channels": 1}, "pixels": one})
    (told,) = start_from(model, source)["differs"]
    assert told.endswith("to read thermal: it takes the mean over all of them for thermal, all times 3/1")
    given = next(iter(DeepLab.from_pretrained(source).backbone.parameters()))
    spread = torch.tensor([57.375, 57.12, 58.395]).view(1, 3, 1, 1)
    torch.testing.assert_close(next(iter(model.backbone.parameters())), (given * spread).sum(1, keepdim=True))


def test_bands_go_on_from_bands_and_back_to_rgb(tmp_path: Path) -> None:
    wide = {"backbone": {**PLAIN["backbone"], "in_channels": 4}, "pixels": FOUR}
    source = saved({**PLAIN, **wide}, tmp_path)
    same = changed(PLAIN, {"backbone": {"in_channels": 4}, "pixels": FOUR})
    assert start_from(same, source)["differs"] == []
    other = {**FOUR, "mean": [0.0, 0.0, 0.0, 0.0]}
    with pytest.raises(UserError, match=r"pixels\.mean is \[0\.0"):
        start_from(changed(PLAIN, {"backbone": {"in_channels": 4}, "pixels": other}), source)
    plain = changed(PLAIN, {"pixels": TORCH_PIXELS.model_dump()})
    (told,) = start_from(plain, source)["differs"]
    assert told.endswith("it takes nothing of infrared and the weights of equal names, all times 4/3")
    given = DeepLab.from_pretrained(source).backbone.stem.conv.weight
    torch.testing.assert_close(plain.backbone.stem.conv.weight, given[:, :3] * 4 / 3)


def test_large_backbones_follow_the_same_rule() -> None:
    """Without memory for weights: only configs and shapes are compared."""
    for base, change, named in (
        (RESNET, {"strides_at": "first"}, r'backbone\.strides_at is "first" .* need "last"'),
        (NAS, {"remove_os32_stride": True}, r"backbone\.remove_os32_stride"),
        (RESNET, {"cascade": 1}, None),
        (VGG, {"padding": "caffe"}, r"backbone\.padding"),
        (NAS, {"drop_path_keep": 0.5}, None),
    ):
        other, model = changed(base, {}, "meta"), changed(base, {"backbone": change}, "meta")
        if named is None:
            refuse_other_backbone(model, other, "weights")
        else:
            with pytest.raises(UserError, match=named):
                refuse_other_backbone(model, other, "weights")


def test_changed_heads_and_rates_are_reported_with_the_value_to_set(tmp_path: Path) -> None:
    source = saved(PLAIN, tmp_path / "plain")
    change = {"resize": "half_pixel", "head_norm": {"eps": 1e-3}, "context": {"channels": 8, "rates": [12]}}
    report = start_from(changed(PLAIN, change), source)["differs"]
    assert [line.split(" is ")[0] for line in report] == ["context.rates", "head_norm.eps", "resize"]
    assert 'unless that is meant: resize: "align_corners"' in report[2]
    grid, plain = (
        changed(RESNET, {"backbone": {"multi_grid": rates}}, "meta").config for rates in ([1, 2], [])
    )
    report = differences(grid, plain, heads=True)
    assert [line.split(" is ")[0] for line in report] == ["backbone.multi_grid"]


@pytest.mark.parametrize(
    ("backbone", "named"),
    [
        ({"norm": {"eps": 1e-5}}, r"trained with backbone\.padding symmetric; found same"),
        ({"padding": "symmetric", "norm": {"eps": 1e-3}}, r"fix: backbone\.norm\.eps: 1e-05"),
    ],
)
def test_packaged_weights_need_their_borders_and_epsilon(backbone: dict, named: str) -> None:
    values = {"name": "mobilenet_v2", **backbone}
    config = DeepLabConfig.model_validate({"backbone": values, "num_classes": 2, "pixels": TORCH_PIXELS})
    with torch.device("meta"):
        model = DeepLab(config)
    with pytest.raises(UserError, match=named):
        start_from(model, "imagenet-mobilenet-v2")


MOBILENET_V3 = {**PLAIN, "backbone": {"name": "mobilenet_v3_small"}}


@pytest.mark.parametrize("base", [PLAIN, MOBILENET_V3], ids=["plain", "squeezing"])
@torch.no_grad()
def test_norms_that_a_file_had_folded_are_put_back_and_change_nothing_but_how_it_trains(
    base: dict, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    source = changed(base, {}).eval()
    for layer in source.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.weight, layer.running_var):
                values.uniform_(0.5, 2)
            for values in (layer.bias, layer.running_mean):
                values.normal_()
    folded(source).save_pretrained(tmp_path / "folded")
    photos = [np.random.default_rng(seed).integers(0, 256, (65, 81, 3), np.uint8) for seed in range(4)]
    seen = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)

    # an epsilon means nothing without norms
    other = {"backbone": {"norm": {"eps": 1e-3}}} if base is PLAIN else {}
    model = changed(base, other).eval()
    report = start_from(model, str(tmp_path / "folded"))
    assert not report["kept random"] and not report["dropped"]
    fresh, stem = DeepLab(model.config).backbone.stem.conv.weight, model.backbone.stem.conv.weight
    length = stem.flatten(1).norm(dim=1) / fresh.flatten(1).norm(dim=1).mean()
    assert length.min() > 0.5 and length.max() < 2
    torch.testing.assert_close(model(seen), source(seen), rtol=1e-4, atol=1e-4)

    settle(model, report["norms put back"], photos)
    torch.testing.assert_close(model(seen), source(seen), rtol=1e-4, atol=1e-4)
    assert (model.get_submodule("backbone.stem.norm").running_mean != 0).all()
    # what training normalises by is by now what these photos hold, but for the convolutions' padding at the rim of one
    for norm in (layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.train().momentum = 0.0
    torch.testing.assert_close(model(seen), source(seen), rtol=1e-2, atol=1e-2)


def test_a_folded_model_is_not_given_to_one_that_folds_what_has_norms(tmp_path: Path) -> None:
    start = saved(PLAIN, tmp_path)
    with pytest.raises(UserError, match="folded is true and the weights need false"):
        start_from(changed(PLAIN, {"folded": True}), start)

"""Caffe models of v1 and v2: synthesised files with the released models' layers, against Caffe's rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.caffe_writer import Layer, Network, Style, encode, run

from deeplab import DeepLab
from deeplab.errors import UserError
from deeplab.importers import Hints, import_weights
from deeplab.importers.caffe.file import CaffeLayer, is_caffemodel
from deeplab.importers.caffe.networks import plan_network, without_copies
from deeplab.importers.report import ImportReport

# the released models' mean, blue first (prototxt: mean_value 104.008, 116.669, 122.675)
MEAN = torch.tensor([104.008, 116.669, 122.675]).view(1, 3, 1, 1)
VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
DEPTHS = (64, 128, 256, 512)
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# the same networks with few channels: the mapping does not depend on them
NARROW_VGG = tuple((width // 32, count) for width, count in VGG)
NARROW_DEPTHS = (4, 6, 8, 10)
CLASSES = 5
V1 = Style(v1=True, old_shapes=True, dilation=False)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our VGG-16 and ResNets as narrow as the files."""
    monkeypatch.setattr("deeplab.backbones.vgg.STAGES", NARROW_VGG)
    monkeypatch.setattr("deeplab.model.network.VGG_STAGES", NARROW_VGG)
    monkeypatch.setattr("deeplab.backbones.resnet.DEPTHS", NARROW_DEPTHS)


def vgg(network: Network, *, stride: tuple[int, ...] = (2, 2, 2, 1, 1)) -> str:
    """conv1_1 to pool5 as in the released prototxts."""
    top, channels = "data", 3
    for stage, (width, count) in enumerate(VGG if network.hollow else NARROW_VGG):
        rate = 2 if stage == 4 and stride[3] == 1 else 1
        for index in range(count):
            top = network.conv(
                f"conv{stage + 1}_{index + 1}", top, (channels, width), kernel=3, pad=rate, rate=rate
            )
            network.relu(top)
            channels = width
        pool = Layer(f"pool{stage + 1}", "Pooling", (top,), kernel=3, stride=stride[stage], pad=1)
        top = network.add(pool)
    return top


def branch(
    network: Network, bottom: str, ends: tuple[str, str], *, width: int, kernel: int, rate: int
) -> str:
    """fc6-fc7-fc8; `ends` are the suffixes of fc6 and fc7, and of fc8."""
    pad = rate * (kernel - 1) // 2
    channels = VGG[-1][0] if network.hollow else NARROW_VGG[-1][0]
    window = {"kernel": kernel, "pad": pad, "rate": rate}
    top = network.relu(network.conv(f"fc6{ends[0]}", bottom, (channels, width), **window))
    top = network.relu(network.conv(f"fc7{ends[0]}", top, (width, width)))
    return network.conv(f"fc8{ends[1]}", top, (width, CLASSES))


def large_fov(seed: int = 0) -> Network:
    network = Network(seed)
    pool5 = vgg(network)
    smooth = network.add(Layer("pool5a", "Pooling", (pool5,), kernel=3, pad=1, mean=True))
    branch(network, smooth, ("", "_voc12"), width=12, kernel=3, rate=12)
    return network


def imported(
    layers: list[Layer], path: Path, style: Style, *, rates: tuple[int, ...] | None = None
) -> tuple[DeepLab, ImportReport]:
    path.write_bytes(encode(layers, style))
    return import_weights(path, Hints(rates=rates))


def photo(height: int, width: int) -> torch.Tensor:
    """RGB, 0 to 255."""
    return torch.from_numpy(
        np.random.default_rng(7).integers(0, 256, (1, 3, height, width)).astype(np.float32)
    )


def caffe_input(image: torch.Tensor) -> torch.Tensor:
    return image[:, [2, 1, 0]] - MEAN


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("size", [(65, 97), (64, 90)])
@pytest.mark.usefixtures("narrow")
def test_large_fov_gives_caffes_scores(tmp_path: Path, size: tuple[int, int]) -> None:
    network = large_fov()
    model, report = imported(network.layers, tmp_path / "largefov.caffemodel", V1)
    config, image = model.config, photo(*size)
    assert (config.context.rates, config.context.kernel, config.context.smooth) == ((12,), 3, True)
    assert (config.num_classes, config.output_stride) == (CLASSES, 8)
    scores = run(network.layers, caffe_input(image))["fc8_voc12"]
    assert_close(model.low_resolution_logits(image)["semantic"], scores)
    assert (report.variables, report.parameters, report.unused, report.new) == (32, 32, 0, 0)
    if size == (65, 97):
        # Interp with zoom_factor 8: corners stay where they are
        assert_close(model(image), F.interpolate(scores, size, mode="bilinear", align_corners=True))


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_v2s_vgg_branches_are_summed_into_one_classifier(tmp_path: Path) -> None:
    network = Network(1)
    pool5 = vgg(network)
    rates = (6, 12, 18, 24)
    scores = [
        branch(network, pool5, (f"_{number}", f"_voc12_{number}"), width=8, kernel=3, rate=rate)
        for number, rate in enumerate(rates, 1)
    ]
    network.add(Layer("fc8_voc12", "Eltwise", tuple(scores)))
    model, report = imported(network.layers, tmp_path / "aspp", Style())
    image = photo(49, 65)
    assert model.config.context.rates == rates
    assert not model.config.context.smooth
    assert_close(
        model.low_resolution_logits(image)["semantic"], run(network.layers, caffe_input(image))["fc8_voc12"]
    )
    assert report.variables == 2 * (13 + 4 * 3)
    assert report.parameters == 2 * (13 + 4 * 2 + 1)
    assert any("concatenated" in note for note in report.notes)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "rate"), [(4, 4), (4, 8), (7, 4)])
@pytest.mark.usefixtures("narrow")
def test_v1s_other_kernels_and_rates_come_from_the_padding(tmp_path: Path, kernel: int, rate: int) -> None:
    network = Network(2)
    branch(network, vgg(network), ("", "_pascal"), width=4, kernel=kernel, rate=rate)
    model, _ = imported(network.layers, tmp_path / "v1", V1)
    assert (model.config.context.kernel, model.config.context.rates) == (kernel, (rate,))
    image = photo(41, 57)
    assert_close(
        model.low_resolution_logits(image)["semantic"], run(network.layers, caffe_input(image))["fc8_pascal"]
    )


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_v1s_multi_scale_branches_join_the_classifier(tmp_path: Path) -> None:
    network = Network(3)
    scores = [branch(network, vgg(network), ("", "_voc12"), width=4, kernel=4, rate=4)]
    # the training network: every branch ends at output stride 8
    strides = {"data": 8, "pool1": 4, "pool2": 2, "pool3": 1, "pool4": 1}
    widths = (3, *(width for width, _ in NARROW_VGG))
    for (name, stride), channels in zip(strides.items(), widths, strict=False):
        top = network.conv(f"{name}_conv", name, (channels, 6), kernel=3, pad=1, stride=stride)
        top = network.relu(network.conv(f"{name}_fc", network.relu(top), (6, 6)))
        scores.append(network.conv(f"{name}_ms", top, (6, CLASSES)))
    network.add(Layer("fc_fusion", "Eltwise", tuple(scores)))
    model, report = imported(network.layers, tmp_path / "msc", V1)
    image = photo(49, 65)
    assert_close(
        model.low_resolution_logits(image)["semantic"], run(network.layers, caffe_input(image))["fc_fusion"]
    )
    assert report.variables == 2 * (13 + 3 + 15)
    # the test network's branches have stride 1 and upsampled scores; its weights are the same
    tested = [replace(layer, stride=1) if layer.name.endswith("_conv") else layer for layer in network.layers]
    again, _ = imported(tested, tmp_path / "msc", V1)
    assert torch.equal(
        again.low_resolution_logits(image)["semantic"], model.low_resolution_logits(image)["semantic"]
    )


def resnet(network: Network, depth: int, *, eps: float = 1e-5, output_stride: int = 8) -> str:
    """conv1 to res5c; strides are in the first 1x1, res4 has rate 2 and res5 rate 4 at output stride 8."""
    top = network.conv("conv1", "data", (3, 64), bias=False, kernel=7, stride=2, pad=3)
    network.norm("_conv1", top, 64, eps=eps)
    top = network.add(Layer("pool1", "Pooling", (network.relu(top),), kernel=3, stride=2, pad=1))
    channels = 64
    depths = DEPTHS if network.hollow else NARROW_DEPTHS
    for block, (narrow, count) in enumerate(zip(depths, UNITS[depth], strict=True), 2):
        wide = 4 * narrow
        dilated = output_stride == 8 and block > 3
        numbered = depth == 101 and block in (3, 4)
        rate = 2 ** (block - 3) if dilated else 1
        for unit in range(count):
            letter = f"b{unit}" if numbered and unit else "abcdef"[unit]
            stride = 2 if unit == 0 and block > 2 and not dilated else 1
            name, entry = f"{block}{letter}", top
            if unit == 0:
                branch1 = network.conv(f"res{name}_branch1", top, (channels, wide), bias=False, stride=stride)
                entry = network.norm(f"{name}_branch1", branch1, wide, eps=eps)
            widths = {"2a": (channels, narrow), "2b": (narrow, narrow), "2c": (narrow, wide)}
            middle = {"kernel": 3, "pad": rate, "rate": rate}
            for part, width in widths.items():
                window = middle if part == "2b" else {"stride": stride} if part == "2a" else {}
                top = network.conv(f"res{name}_branch{part}", top, width, bias=False, **window)
                network.norm(f"{name}_branch{part}", top, width[1], eps=eps)
                if part != "2c":
                    network.relu(top)
            top = network.relu(network.add(Layer(f"res{name}", "Eltwise", (entry, top))))
            channels = wide
    return top


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_v2s_resnet_with_the_image_pyramid(tmp_path: Path) -> None:
    network = Network(4)
    top = resnet(network, 101)
    for index, rate in enumerate((6, 12, 18, 24)):
        width = (4 * NARROW_DEPTHS[-1], CLASSES)
        network.conv(f"fc1_voc12_c{index}", top, width, kernel=3, pad=rate, rate=rate)
    scores = tuple(f"fc1_voc12_c{index}" for index in range(4))
    network.add(Layer("fc1_voc12", "Eltwise", scores))
    # the copies for smaller images share their weights with the first; two stand for all
    copies = [
        Layer(f"conv1{end}", "Convolution", ("data",), network.layers[0].blobs, kernel=7, stride=2, pad=3)
        for end in ("_res075", "_res05")
    ]
    model, report = imported([*network.layers, *copies], tmp_path / "v2", Style())
    assert model.config.image_pyramid == (1.0, 0.75, 0.5)
    assert model.config.classifier_rates == (6, 12, 18, 24)
    image = photo(33, 41)

    def at_full_size(scale: float) -> torch.Tensor:
        sides = [int((side - 1) * scale) + 1 for side in image.shape[-2:]]
        data = F.interpolate(caffe_input(image), sides, mode="bilinear", align_corners=True)
        found = run(network.layers, data)["fc1_voc12"]
        return F.interpolate(found, (5, 6), mode="bilinear", align_corners=True)

    expected = torch.stack([at_full_size(scale) for scale in (1.0, 0.75, 0.5)]).amax(0)
    assert_close(model.low_resolution_logits(image)["semantic"], expected)
    assert report.variables == 104 + 104 * 5 + 8
    assert report.parameters == 104 + 104 * 4 + 8


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_an_imagenet_resnet_starts_a_model_with_a_new_head(tmp_path: Path) -> None:
    network = Network(5)
    resnet(network, 50, eps=1e-4, output_stride=32)
    classifier = Layer("fc1000", "InnerProduct", (), (np.zeros((7, 3), np.float32), np.zeros(7, np.float32)))
    model, report = imported([*network.layers, classifier], tmp_path / "r101", Style())
    assert (report.unused, model.config.backbone.norm.eps) == (2, pytest.approx(1e-4))
    assert model.config.backbone.name == "resnet50"
    assert report.new > 0
    image = photo(33, 65)
    model.output_stride = 32
    features, _ = model.backbone(caffe_input(image))
    assert_close(features, run(network.layers, caffe_input(image))["res5c"])


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("kind", "blob", "value", "message"),
    [
        ("BatchNorm", 1, -1, "holds negative variances"),
        # what its mean and variance are stored times
        ("BatchNorm", 2, np.nan, "holds NaN or infinity"),
        ("Scale", 0, np.inf, "holds NaN or infinity"),
        ("Convolution", 0, np.nan, "holds NaN or infinity"),
    ],
)
def test_values_that_no_network_has_are_refused(
    kind: str, blob: int, value: float, message: str, tmp_path: Path
) -> None:
    network = Network(5)
    resnet(network, 50, output_stride=32)
    next(layer for layer in network.layers if layer.kind == kind).blobs[blob].flat[0] = value
    with pytest.raises(UserError, match=rf"r50: .*{message}"):
        imported(network.layers, tmp_path / "r50", Style())


@pytest.mark.usefixtures("narrow")
def test_an_imagenet_vgg_starts_a_model_with_a_new_head(tmp_path: Path) -> None:
    network = Network(6)
    pool5 = vgg(network, stride=(2, 2, 2, 2, 2))
    shapes = {"fc6": (4, 25088), "fc7": (4, 4), "fc8": (1000, 4)}
    full = [
        Layer(name, "InnerProduct", (pool5,), (np.ones(shape, np.float32), np.ones(shape[0], np.float32)))
        for name, shape in shapes.items()
    ]
    model, report = imported([*network.layers, *full], tmp_path / "vgg", V1)
    assert (report.variables, report.unused) == (26, 6)
    assert (model.config.backbone.name, model.config.context.kind) == ("vgg16", "fc")
    expected = next(layer.blobs for layer in network.layers if layer.name == "conv4_2")
    conv = model.backbone.stages[3][1].conv
    assert torch.equal(conv.weight, torch.from_numpy(expected[0]))
    assert torch.equal(conv.bias, torch.from_numpy(expected[1]))


@pytest.mark.usefixtures("narrow")
def test_a_file_that_training_began_from_has_no_classifier(tmp_path: Path) -> None:
    model, report = imported(large_fov().without("fc8_voc12"), tmp_path / "init", V1)
    assert report.new == 2
    assert any("no classifier" in note for note in report.notes)
    assert model.config.num_classes == 21


@pytest.mark.usefixtures("narrow")
def test_files_without_windows_have_the_released_rates_or_the_users(tmp_path: Path) -> None:
    bare = Style(windows=False)
    layers = large_fov().without("pool5a")
    model, report = imported(layers, tmp_path / "bare", bare)
    assert (model.config.context.rates, model.config.output_stride) == ((12,), 8)
    assert any("no strides and rates" in note for note in report.notes)
    model, _ = imported(layers, tmp_path / "bare", bare, rates=(24,))
    assert model.config.context.rates == (24,)
    with pytest.raises(UserError, match="leave --rates away"):
        imported(layers, tmp_path / "full", V1, rates=(24,))


@pytest.mark.usefixtures("narrow")
def test_unpacked_floats_and_new_layers_read_the_same(tmp_path: Path) -> None:
    layers = large_fov().layers
    old, _ = imported(layers, tmp_path / "old", V1)
    # unpacked floats cost six bytes in Python each: the small layers alone
    small = [layer for layer in layers if sum(blob.size for blob in layer.blobs) < 50_000]
    mixed = encode([layer for layer in layers if layer not in small], Style())
    (tmp_path / "new").write_bytes(mixed + encode(small, Style(packed=False))[len("net") + 2 :])
    new, _ = import_weights(tmp_path / "new")
    for key, value in old.state_dict().items():
        assert torch.equal(value, new.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("pool1", {"kernel": 2}, r"pool1 is a window of 2x2, stride 2, padding 1.*has a window of 3x3"),
        ("conv5_2", {"rate": 1, "pad": 1}, "conv5_2 is .* rate 1; .* rate 2 there"),
        ("conv3_1", {"blobs": ()}, "no weights for conv3_1"),
        ("pool3", {"stride": 3}, "strides multiply to 12"),
        ("pool5a", {"mean": False}, "pool5a is a window of 3x3"),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_what_parts_from_the_released_models_is_named(
    tmp_path: Path, name: str, values: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        imported(large_fov().changed(name, **values), tmp_path / "other", Style())


@pytest.mark.usefixtures("narrow")
def test_layers_without_a_place_are_named(tmp_path: Path) -> None:
    network = large_fov()
    network.conv("extra", "pool5", (16, 3))
    with pytest.raises(UserError, match="extra have weights, and no place"):
        imported(network.layers, tmp_path / "extra", Style())
    with pytest.raises(UserError, match="neither VGG-16's conv1_1 nor a ResNet's"):
        imported(
            [Layer("ip1", "InnerProduct", (), (np.ones((2, 2), np.float32),))], tmp_path / "lenet", Style()
        )


@pytest.mark.usefixtures("narrow")
def test_damaged_files_are_named_and_never_read(tmp_path: Path) -> None:
    network = Network(8)
    network.conv("conv1_1", "data", (3, 2), kernel=3, pad=1)
    whole = encode(network.layers, Style())
    path = tmp_path / "cut"
    for length in range(60, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut: "):
            import_weights(path)
    path.write_bytes(whole.replace(b"\x0a\x04\x02\x03\x03\x03", b"\x0a\x04\x02\x03\x03\x07"))
    with pytest.raises(UserError, match="conv1_1: a blob of shape 2x3x3x7 holds 216 bytes"):
        import_weights(path)


@pytest.mark.parametrize("style", [Style(), V1, Style(network="a" * 200)])
@pytest.mark.usefixtures("narrow")
def test_files_are_recognised_by_content(style: Style) -> None:
    head = encode([Layer("data", "Convolution", ("in",))] if style.v1 else large_fov().layers[:1], style)[
        :4096
    ]
    assert is_caffemodel(head)
    assert not is_caffemodel(b"\x0a\x05input\x12\x0bPlaceholder")
    assert not is_caffemodel(b"\x08\x07\x12\x07pytorch")
    assert not is_caffemodel(b"PK\x03\x04" + head)


@pytest.mark.parametrize("name", ["largefov", "resnet101"])
def test_the_released_models_shapes_are_the_models(name: str) -> None:
    network = Network(hollow=True)
    if name == "largefov":
        branch(network, vgg(network), ("", "_voc12"), width=1024, kernel=3, rate=12)
    else:
        top = resnet(network, 101)
        for index, rate in enumerate((6, 12, 18, 24)):
            network.conv(f"fc1_voc12_c{index}", top, (2048, CLASSES), kernel=3, pad=rate, rate=rate)
    layers = {layer.name: CaffeLayer(layer.name, layer.kind, layer.blobs, None) for layer in network.layers}
    with torch.device("meta"):
        plan = plan_network(without_copies(layers, rates=None, sha256=""))
    for path, names in plan.convs.items():
        shapes = [blob.shape for blob in layers[names[0]].blobs]
        assert [tuple(value.shape) for value in plan.model.get_submodule(path).parameters()] == shapes, path
    # parameters of the published networks without their norms
    counts = {"largefov": 14_714_688 + 4_719_616 + 1_049_600 + 5_125, "resnet101": 42_394_816 + 4 * 92_165}
    convs = [plan.model.get_submodule(path) for path in plan.convs]
    assert sum(value.numel() for conv in convs for value in conv.parameters()) == counts[name]

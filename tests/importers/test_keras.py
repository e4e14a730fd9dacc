"""Keras Applications' networks: synthesised files of every kind, against Keras's layers by hand."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplab.config import PixelConfig, backbone_config
from deeplab.errors import UserError
from deeplab.importers import import_weights
from deeplab.importers.new_head import new_head

h5py = pytest.importorskip("h5py", reason="the extra keras is not installed")

VGG = ((4, 2), (4, 2), (6, 3), (8, 3), (8, 3))
XCEPTION = (*((6, 6), (8, 8), (10, 10)), *((10, 10, 10),) * 8, (10, 12))
XCEPTION_TAIL = (14, 16)
# (expansion, channels at width 0.35 in multiples of 8, repeats, stride), arXiv 1801.04381 table 2
MOBILENET = (
    (1, 8, 1, 1),
    (6, 8, 2, 2),
    (6, 16, 3, 2),
    (6, 24, 4, 2),
    (6, 32, 3, 1),
    (6, 56, 3, 2),
    (6, 112, 1, 1),
)
# Keras: mean of ImageNet, blue first, for VGG16's preprocess_input
MEAN = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
CLASSES = {
    "kernel": "Conv2D",
    "depthwise_kernel": "DepthwiseConv2D",
    "pointwise_kernel": "SeparableConv2D",
    "gamma": "BatchNormalization",
}


class Named(NamedTuple):
    """A layer as Keras has it."""

    name: str
    arrays: dict[str, np.ndarray]

    @property
    def kind(self) -> str:
        if self.arrays.get("kernel", np.ones(1)).ndim == 2:
            return "Dense"
        return next(kind for name, kind in reversed(CLASSES.items()) if name in self.arrays)


class Files:
    """Random layers of one of the three networks, and Keras's arithmetic on them."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(3)
        self.layers: list[Named] = []

    def kernel(self, *shape: int) -> np.ndarray:
        values = self.generator.standard_normal(shape, dtype=np.float32)
        return values * np.float32(np.sqrt(2 / np.prod(shape[:2]) / (shape[2] if shape[3] > 1 else 1)))

    def conv(self, x, name: str, width: int, *, size: int, stride: int = 1, bias: bool = False, valid=False):
        arrays = {"kernel": self.kernel(size, size, x.shape[1], width)}
        if bias:
            arrays["bias"] = self.generator.standard_normal(width, dtype=np.float32)
        self.layers.append(Named(name, arrays))
        weight = torch.from_numpy(arrays["kernel"]).permute(3, 2, 0, 1)
        x = x if valid else same(x, size, stride)
        return F.conv2d(x, weight, torch.from_numpy(arrays["bias"]) if bias else None, stride)

    def depthwise(self, x, name: str, *, stride: int = 1, pointwise: int | None = None):
        """DepthwiseConv2D, or SeparableConv2D to `pointwise` channels."""
        channels = x.shape[1]
        arrays = {"depthwise_kernel": self.kernel(3, 3, channels, 1)}
        weight = torch.from_numpy(arrays["depthwise_kernel"]).permute(2, 3, 0, 1)
        x = F.conv2d(same(x, 3, stride), weight, None, stride, groups=channels)
        if pointwise:
            arrays["pointwise_kernel"] = self.kernel(1, 1, channels, pointwise)
            x = F.conv2d(x, torch.from_numpy(arrays["pointwise_kernel"]).permute(3, 2, 0, 1))
        self.layers.append(Named(name, arrays))
        return x

    def norm(self, x, name: str):
        channels = x.shape[1]
        gamma, variance = self.generator.uniform(0.5, 1.5, (2, channels)).astype(np.float32)
        beta, mean = 0.1 * self.generator.standard_normal((2, channels), dtype=np.float32)
        values = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}
        self.layers.append(Named(name, values))
        return F.batch_norm(
            x, *(torch.from_numpy(v) for v in (mean, variance, gamma, beta)), False, 0.0, 1e-3
        )


def same(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """x padded by Keras's padding='same'."""
    pads = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def vgg16(files: Files, x: torch.Tensor) -> torch.Tensor:
    for block, (width, count) in enumerate(VGG, 1):
        for index in range(1, count + 1):
            x = F.relu(files.conv(x, f"block{block}_conv{index}", width, size=3, bias=True))
        # Keras pools 2x2; DeepLab 3x3, see below
        x = F.max_pool2d(same(x, 3, 2, -torch.inf), 3, 2)
    return x


def xception(files: Files, x: torch.Tensor) -> torch.Tensor:
    for index, (width, stride) in enumerate(((32, 2), (64, 1)), 1):
        x = F.relu(
            files.norm(
                files.conv(x, f"block1_conv{index}", width, size=3, stride=stride), f"block1_conv{index}_bn"
            )
        )
    numbered = 0
    for block, widths in enumerate(XCEPTION, 2):
        entry = x
        for index, width in enumerate(widths, 1):
            name = f"block{block}_sepconv{index}"
            x = files.norm(files.depthwise(F.relu(x), name, pointwise=width), f"{name}_bn")
        if len(widths) == 3:
            x = x + entry
            continue
        end = f"_{numbered}" if numbered else ""
        shortcut = files.conv(entry, f"conv2d{end}", widths[-1], size=1, stride=2)
        x = F.max_pool2d(same(x, 3, 2, -torch.inf), 3, 2) + files.norm(shortcut, f"batch_normalization{end}")
        numbered += 1
    for index, width in enumerate(XCEPTION_TAIL, 1):
        name = f"block14_sepconv{index}"
        x = F.relu(files.norm(files.depthwise(x, name, pointwise=width), f"{name}_bn"))
    return x


def correct_pad(x: torch.Tensor) -> torch.Tensor:
    """Keras's own padding of strided layers in MobileNetV2: (0, 1) before an even side, (1, 1) an odd one."""
    left, top = (x.shape[-1] % 2, x.shape[-2] % 2)
    return F.pad(x, (left, 1, top, 1))


def mobilenet_v2(files: Files, x: torch.Tensor) -> torch.Tensor:
    x = files.conv(correct_pad(x), "Conv1", 16, size=3, stride=2, valid=True)
    x = F.relu6(files.norm(x, "bn_Conv1"))
    block = 0
    for expansion, width, repeats, first in MOBILENET:
        for repeat in range(repeats):
            entry, name = x, f"block_{block}_" if block else "expanded_conv_"
            if block:
                x = files.conv(x, f"{name}expand", expansion * x.shape[1], size=1)
                x = F.relu6(files.norm(x, f"{name}expand_BN"))
            stride = first if repeat == 0 else 1
            padded = correct_pad(x) if stride == 2 else F.pad(x, (1, 1, 1, 1))
            x = strided(files, padded, f"{name}depthwise", stride)
            x = F.relu6(files.norm(x, f"{name}depthwise_BN"))
            x = files.norm(files.conv(x, f"{name}project", width, size=1), f"{name}project_BN")
            x = x + entry if repeat else x
            block += 1
    features = x
    files.norm(files.conv(x, "Conv_1", 20, size=1), "Conv_1_bn")
    files.layers.append(
        Named("predictions", {"kernel": np.ones((20, 5), np.float32), "bias": np.ones(5, np.float32)})
    )
    return features


def strided(files: Files, padded: torch.Tensor, name: str, stride: int) -> torch.Tensor:
    """A depthwise layer with padding 'valid'."""
    kernel = files.kernel(3, 3, padded.shape[1], 1)
    files.layers.append(Named(name, {"depthwise_kernel": kernel}))
    return F.conv2d(
        padded, torch.from_numpy(kernel).permute(2, 3, 0, 1), None, stride, groups=padded.shape[1]
    )


def write_by_name(path: Path, layers: list[Named], *, weight_name: str, root: str = "") -> Path:
    """An .h5 file of Keras 1 and 2: names in attributes; `weight_name` is a pattern of layer and array."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        group.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            inside = group.create_group(layer.name)
            names = [weight_name.format(layer=layer.name, array=array) for array in layer.arrays]
            inside.attrs["weight_names"] = [name.encode() for name in names]
            for name, values in zip(names, layer.arrays.values(), strict=True):
                inside[name] = values
    return path


def snake(kind: str) -> str:
    return {"Conv2D": "conv2d", "Dense": "dense", "BatchNormalization": "batch_normalization"}.get(
        kind, kind.replace("Conv2D", "_conv2d").lower()
    )


def fill_numbered(group, layers: list[Named]) -> None:
    """Keras 3's groups: layers of a class are numbered in order."""
    seen: Counter[str] = Counter()
    for layer in layers:
        key = snake(layer.kind)
        number = f"_{seen[key]}" if seen[key] else ""
        seen[key] += 1
        for index, values in enumerate(layer.arrays.values()):
            group[f"layers/{key}{number}/vars/{index}"] = values


def write_archive(path: Path, layers: list[Named]) -> Path:
    """A .keras file in which the network is one layer of a bigger model, with a dense layer behind."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill_numbered(file.create_group("layers/functional"), layers)
        file["layers/dense/vars/0"] = np.ones((2, 2), np.float32)
    inner = [{"class_name": "InputLayer", "config": {"name": "input"}}]
    inner += [{"class_name": layer.kind, "config": {"name": layer.name}} for layer in layers]
    outer = [
        {"class_name": "Functional", "config": {"name": "xception", "layers": inner}},
        {"class_name": "Dense", "config": {"name": "dense"}},
    ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": outer}}))
        archive.writestr("model.weights.h5", buffer.getvalue())
    return path


def photo(height: int, width: int) -> torch.Tensor:
    """RGB, 0 to 255."""
    return torch.from_numpy(
        np.random.default_rng(7).integers(0, 256, (1, 3, height, width)).astype(np.float32)
    )


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our VGG-16 and Xception with few channels; the mapping does not depend on them."""
    monkeypatch.setattr("deeplab.backbones.vgg.STAGES", VGG)
    for module in ("deeplab.backbones.xception_original", "deeplab.importers.keras.backbones"):
        monkeypatch.setattr(f"{module}.MODULES", XCEPTION)
        monkeypatch.setattr(f"{module}.TAIL", XCEPTION_TAIL)


@torch.no_grad()
@pytest.mark.parametrize("size", [(65, 97), (64, 90)])
@pytest.mark.parametrize(
    ("weight_name", "root"),
    [("{layer}/{array}:0", ""), ("{layer}/{array}:0", "model_weights"), ("{layer}_2/{array}", "")],
)
def test_mobilenet_v2_gives_keras_features(
    tmp_path: Path, size: tuple[int, int], weight_name: str, root: str
) -> None:
    files, image = Files(), photo(*size)
    expected = mobilenet_v2(files, image / 127.5 - 1)
    path = write_by_name(tmp_path / "mobilenet.h5", files.layers, weight_name=weight_name, root=root)
    model, report = import_weights(path)
    assert (model.config.backbone.width, model.config.backbone.divisor) == (0.35, 8)
    model.output_stride = 32
    features, _ = model.backbone((image - 127.5) / 127.5)
    assert_close(features, expected)
    # 34 convolutions and 17 depthwise ones, a norm each; Conv_1, its norm and the dense layer are left
    assert (report.variables, report.unused) == (51 + 51 * 4, 7)


@torch.no_grad()
@pytest.mark.parametrize(
    ("array", "value", "message"),
    [
        ("moving_variance", -1, "holds negative variances"),
        ("moving_variance", np.inf, "holds NaN or infinity"),
        ("depthwise_kernel", np.nan, "holds NaN or infinity"),
    ],
)
def test_values_that_no_network_has_are_refused(
    array: str, value: float, message: str, tmp_path: Path
) -> None:
    files = Files()
    mobilenet_v2(files, torch.zeros(1, 3, 33, 33))
    next(layer for layer in files.layers if array in layer.arrays).arrays[array].flat[0] = value
    path = write_by_name(tmp_path / "mobilenet.h5", files.layers, weight_name="{layer}/{array}:0")
    with pytest.raises(UserError, match=rf"mobilenet\.h5: .*{message}"):
        import_weights(path)


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("size", [(65, 97), (64, 90)])
def test_xception_gives_keras_features(tmp_path: Path, size: tuple[int, int]) -> None:
    files, image = Files(), photo(*size)
    expected = xception(files, image / 127.5 - 1)
    model, report = import_weights(write_archive(tmp_path / "model.keras", files.layers))
    assert model.config.backbone.name == "xception"
    model.output_stride = 32
    features, _ = model.backbone((image - 127.5) / 127.5)
    assert_close(features, expected)
    # 2 stem convolutions and 34 separable ones, 4 shortcuts, a norm each; the dense layer is left
    assert (report.variables, report.unused) == (2 + 2 * 34 + 4 + 4 * 40, 1)


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_xceptions_values_do_not_depend_on_the_output_stride(tmp_path: Path) -> None:
    files, image = Files(), photo(65, 97)
    expected = xception(files, image / 127.5 - 1)
    model, _ = import_weights(write_archive(tmp_path / "model.keras", files.layers))
    for output_stride in (16, 8):
        model.output_stride = output_stride
        features, _ = model.backbone((image - 127.5) / 127.5)
        step = 32 // output_stride
        assert_close(features[..., ::step, ::step], expected)


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", ["keras 1", "keras 2", "no names"])
def test_vgg16_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    files, image = Files(), photo(65, 97)
    expected = vgg16(files, image[:, [2, 1, 0]] - MEAN)
    path = tmp_path / "vgg.h5"
    if kind == "no names":
        with h5py.File(path, "w") as file:
            fill_numbered(file, files.layers)
    elif kind == "keras 1":
        old = [
            Named(
                layer.name,
                {
                    f"{layer.name}_{new}_1": layer.arrays[name]
                    for name, new in (("kernel", "W"), ("bias", "b"))
                },
            )
            for layer in files.layers
        ]
        write_by_name(path, old, weight_name="{array}:0")
    else:
        write_by_name(path, files.layers, weight_name="{layer}/{array}:0")
    model, report = import_weights(path)
    assert (model.config.pixels.channels, model.config.pixels.mean) == ("bgr", (103.939, 116.779, 123.68))
    assert (report.variables, report.unused) == (26, 0)
    model.output_stride = 32
    features, _ = model.backbone(model._normalise(image))
    assert_close(features, expected)


def test_another_keras_network_is_named(tmp_path: Path) -> None:
    files = Files()
    files.norm(files.conv(torch.zeros(1, 3, 8, 8), "conv1_conv", 4, size=7), "conv1_bn")
    path = write_by_name(tmp_path / "resnet.h5", files.layers, weight_name="{layer}/{array}:0")
    with pytest.raises(UserError, match=r"conv1_conv, conv1_bn.*another network; allowed: VGG16, Xception"):
        import_weights(path)
    files.depthwise(torch.zeros(1, 4, 8, 8), "conv_dw_1")
    path = write_by_name(tmp_path / "mobilenet.h5", files.layers, weight_name="{layer}/{array}:0")
    with pytest.raises(UserError, match="1 convolutions; MobileNetV2 has 34"):
        import_weights(path)


@pytest.mark.usefixtures("narrow")
def test_a_network_that_is_not_whole_is_named(tmp_path: Path) -> None:
    files = Files()
    xception(files, torch.zeros(1, 3, 33, 33))
    layers = [layer for layer in files.layers if layer.name != "block9_sepconv2"]
    with pytest.raises(UserError, match="no layer block9_sepconv2"):
        import_weights(write_by_name(tmp_path / "x.h5", layers, weight_name="{layer}/{array}:0"))
    layers = [layer for layer in files.layers if layer.name != "conv2d_3"]
    with pytest.raises(UserError, match="no layer of class conv2d"):
        import_weights(write_by_name(tmp_path / "x.h5", layers, weight_name="{layer}/{array}:0"))


@pytest.mark.usefixtures("narrow")
def test_damaged_files_are_named(tmp_path: Path) -> None:
    files = Files()
    vgg16(files, torch.zeros(1, 3, 33, 33))
    path = write_by_name(tmp_path / "vgg.h5", files.layers, weight_name="{layer}/{array}:0")
    whole = path.read_bytes()
    for length in (600, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"vgg\.h5"):
            import_weights(path)
    archive = write_archive(tmp_path / "vgg.keras", files.layers)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"vgg\.keras: cannot be read as a Keras model"):
        import_weights(archive)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["x"] = np.ones(3)
    with pytest.raises(UserError, match=r"empty\.h5: an HDF5 file without Keras.s layers .it holds: x."):
        import_weights(tmp_path / "empty.h5")


@pytest.mark.parametrize(
    ("name", "published"),
    # Keras's own counts of the networks without top; MobileNetV2's less its last convolution and norm
    [("vgg16", 14_714_688), ("xception", 20_861_480), ("mobilenet_v2", 2_257_984 - 320 * 1280 - 4 * 1280)],
)
def test_the_published_networks_have_as_many_values(name: str, published: int) -> None:
    with torch.device("meta"):
        model = new_head(backbone_config(name), pixels=PixelConfig())
    values = {key: value for key, value in model.backbone.state_dict().items() if "num_batches" not in key}
    assert sum(value.numel() for value in values.values()) == published

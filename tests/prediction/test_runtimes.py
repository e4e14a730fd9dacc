"""Other runtimes: the same logits as PyTorch's, converted once, refused with the reason where they cannot run."""

from __future__ import annotations

import copy
import functools
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from support.torch_comparison import randomise

from deeplab.backbones.resnet import UNITS
from deeplab.backbones.xception import LAYOUTS
from deeplab.config import (
    ASPPConfig,
    ContextConfig,
    DecoderConfig,
    DeepLabConfig,
    FullyConnectedConfig,
    NoContextConfig,
    backbone_config,
)
from deeplab.errors import UserError
from deeplab.layers.conv import AtrousConv2d
from deeplab.layers.packed_conv import PackedConv
from deeplab.model.network import DeepLab
from deeplab.native import dense_conv
from deeplab.prediction.runtimes import ENGINES, engine_network, program
from deeplab.prediction.runtimes.int8 import write_int8
from deeplab.prediction.segmenter import Segmenter
from deeplab.presets import PRESETS, preset

torch.set_num_threads(1)

CPU = torch.device("cpu")
SIZES = ((1, 3, 65, 97), (2, 3, 64, 50), (1, 3, 33, 120))


def small_model() -> DeepLab:
    config = DeepLabConfig(
        backbone=backbone_config("resnet18"),
        context=ASPPConfig(rates=(2, 4), channels=16, separable=True),
        decoder=DecoderConfig(channels=16, low_level_channels=8),
        num_classes=4,
    )
    return randomise(DeepLab(config))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache folder for all of the module: conversion takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield patch


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path))
    return tmp_path


def photos(shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_logits_are_pytorchs_at_every_size(engine: str, cache: pytest.MonkeyPatch) -> None:
    pytest.importorskip(engine)
    if engine == "onnxruntime":
        pytest.importorskip("onnxscript")
    model = small_model()
    name, network = engine_network(model, engine, device=CPU)
    assert name == engine
    for shape in SIZES:
        images = photos(shape)
        with torch.inference_mode():
            expected = model.low_resolution_logits(images)["semantic"]
        found = network(images)["semantic"]
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.std().item())
    # converted once, for all sizes and whoever asks next
    cache.setattr(
        f"deeplab.prediction.runtimes.{engine}.exported", lambda model: pytest.fail("converted twice")
    )
    _, again = engine_network(small_model(), engine, device=CPU)
    np.testing.assert_array_equal(again(images)["semantic"], found)


def families() -> dict[str, DeepLabConfig]:
    """Of all presets the first with each kind of backbone, head and pyramid, narrow where its config lets it be."""
    found: dict[tuple[object, ...], tuple[str, DeepLabConfig]] = {}
    for name in PRESETS:
        config = preset(name, num_classes=5)
        context, decoder = config.context.model_dump(), config.decoder
        kind = (
            re.sub(r"\d{2,}|_large|_small", "", config.backbone.name),
            *(context.get(part) is not None for part in ("image_pooling_crop", "gate", "branches")),
            context["kind"],
            decoder and (decoder.merge, decoder.output_is_logits),
            (config.image_pyramid, config.resize, config.multi_scale_features is not None),
        )
        if kind not in found:
            values = config.to_json()
            for part in filter(None, (values["context"], values["decoder"])):
                part.update({"channels": 8} if part.get("channels", 0) > 8 else {})
            values["backbone"].update({"width": 0.35} if "width" in values["backbone"] else {})
            found[kind] = name, DeepLabConfig.model_validate(values)
    return dict(found.values())


# searched networks are no presets, as nothing was published of them; the first comes back from stride 32 by doubling
SEARCHED = {
    name: DeepLabConfig(
        backbone=backbone_config(name, filters=4),
        context=ASPPConfig(channels=8),
        num_classes=5,
        output_stride=8,
    )
    for name in ("hnasnet", "pnasnet")
}
FAMILIES = families() | SEARCHED
# odd, even, wide, one pixel: none of them traced
UNLIKE = ((1, 3, 65, 97), (1, 3, 64, 50), (1, 3, 33, 161), (1, 3, 1, 1))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones as short as they can be with every kind of layer that they have: conversion takes seconds."""
    for place in ("deeplab.backbones.vgg.STAGES", "deeplab.model.network.VGG_STAGES"):
        monkeypatch.setattr(place, ((8, 1), (8, 1), (8, 1), (16, 1), (16, 1)))
    # decoders read the first block before its last unit, and multi-grid names three rates
    for depth in UNITS:
        monkeypatch.setitem(UNITS, depth, (2, 1, 1, 3))
    for name, layout in LAYOUTS.items():
        monkeypatch.setitem(LAYOUTS, name, layout._replace(middle=1))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_right_at_sizes_unlike_the_first(
    name: str, cache: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, shallow: None
) -> None:
    """In every engine. Random weights amplify rounding, so the measure is PyTorch's own float32."""
    engines = [engine for engine in ENGINES if find_spec(engine) is not None]
    if not engines:
        pytest.skip("no engine is installed")
    model = randomise(DeepLab(FAMILIES[name]))
    exact = copy.deepcopy(model).double()
    expected, own = [], 0.0
    for images in map(photos, UNLIKE):
        with torch.inference_mode():
            expected.append(exact.low_resolution_logits(images.double())["semantic"])
            off = (model.low_resolution_logits(images)["semantic"] - expected[-1]).abs().max()
        own = max(own, off.item())
    # half of the time goes there
    once = functools.cache(program.exported)
    for engine in engines:
        monkeypatch.setattr(f"deeplab.prediction.runtimes.{engine}.exported", once)
        _, network = engine_network(model, engine, device=CPU)
        for shape, right in zip(UNLIKE, expected, strict=True):
            found = network(photos(shape))["semantic"]
            assert (found - right).abs().max() <= 5 * own + 5e-5 * expected[0].std(), (engine, shape)


def test_bfloat16_is_near_and_not_the_same(cache: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    model, images = small_model(), photos(SIZES[0])
    with torch.inference_mode():
        expected = model.low_resolution_logits(images)["semantic"]
    _, network = engine_network(model, "openvino", device=CPU, precision="bfloat16")
    found = network(images)["semantic"]
    difference = (found - expected).abs().max() / expected.std()
    # processors without the instructions compute in float32
    assert difference < 0.2


def test_int8_is_near_and_made_once_for_the_same_photos(cache: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    model, images = small_model(), photos(SIZES[0])
    examples = [*program.as_photos(images).numpy(), *program.as_photos(photos(SIZES[2])).numpy()]
    with torch.inference_mode():
        expected = model.low_resolution_logits(images)["semantic"]
    _, network = engine_network(model, "openvino", device=CPU, precision="int8", calibration=examples)
    found = network(images)["semantic"].clone()
    difference = (found - expected).abs().mean() / expected.std()
    assert 1e-4 < difference < 0.1
    with cache.context() as patch:
        patch.setattr(
            "deeplab.prediction.runtimes.int8.write_int8", lambda *of: pytest.fail("converted twice")
        )
        name, again = engine_network(
            small_model(), "auto", device=CPU, precision="int8", calibration=examples
        )
        assert name == "openvino"
        np.testing.assert_array_equal(again(images)["semantic"], found)
        with pytest.raises(BaseException, match="converted twice"):
            engine_network(model, "openvino", device=CPU, precision="int8", calibration=examples[:1])


def test_int8_with_pytorch_is_near_and_ranges_are_gathered_once(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = small_model(), photos(SIZES[0])
    examples = [*program.as_photos(images).numpy(), *program.as_photos(photos(SIZES[2])).numpy()]
    how = {"precision": "int8", "calibration": examples, "device": "cpu"}
    expected = Segmenter(model, device="cpu").predictor.logits_of(examples[0])
    found = Segmenter(model, **how)
    assert found.predictor.engine == "torch"
    logits = found.predictor.logits_of(examples[0])
    assert 1e-4 < (logits - expected).abs().mean() / expected.std() < 0.1
    monkeypatch.setattr("deeplab.prediction.int8._gathered", lambda *of: pytest.fail("gathered twice"))
    again = Segmenter(small_model(), scales=(1.0, 0.5), **how).predictor
    assert torch.equal(again.logits_of(examples[0]), logits)
    with pytest.raises(BaseException, match="gathered twice"):
        Segmenter(model, **{**how, "calibration": examples[:1]})


def test_auto_is_pytorch_in_int8_where_openvino_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [*program.as_photos(photos(SIZES[0])).numpy()]
    found = object()
    monkeypatch.setattr("deeplab.prediction.runtimes.ENGINES", {"openvino": lambda *_, **__: found})
    for place, expected in (("found", ("openvino", found)), (None, None)):
        monkeypatch.setattr("deeplab.prediction.runtimes.find_spec", lambda name, place=place: place)
        made = engine_network(small_model(), "auto", device=CPU, precision="int8", calibration=examples)
        assert made == expected


def test_int8_without_what_it_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, photo = small_model(), np.zeros((33, 33, 3), np.uint8)
    with pytest.raises(UserError, match="the device is meta; fix: device cpu, or another precision"):
        Segmenter(model, precision="int8", calibration=[photo], device="meta")
    with pytest.raises(UserError, match="there are none; fix: --calibration FOLDER"):
        Segmenter(model, precision="int8", engine="openvino")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UserError, match=r"nncf.*\[int8\]"):
        write_int8(Path("network.xml"), [photo], Path("int8.xml"))


def test_a_missing_runtime_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine, extra in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        monkeypatch.setitem(sys.modules, engine, None)
        with pytest.raises(UserError, match=rf"{engine}.*\[{extra}\]"):
            engine_network(small_model(), engine, device=CPU)


def test_what_an_engine_cannot_run_is_said() -> None:
    model = small_model()
    with pytest.raises(UserError, match="no engine 'tensorrt'; allowed: auto, torch, openvino, onnxruntime"):
        engine_network(model, "tensorrt", device=CPU)
    with pytest.raises(UserError, match="the device is meta; fix: engine torch"):
        engine_network(model, "openvino", device=torch.device("meta"))
    for engine, precisions in (("openvino", "float32, bfloat16, int8"), ("onnxruntime", "float32")):
        with pytest.raises(UserError, match=f"'float16'; allowed: {precisions}$"):
            engine_network(model, engine, device=CPU, precision="float16")
    model._eight_bit = True
    with pytest.raises(UserError, match="8 bits"):
        engine_network(model, "openvino", device=CPU)
    assert engine_network(model, "auto", device=CPU) is None


@pytest.mark.parametrize(
    "context",
    [NoContextConfig(), FullyConnectedConfig(rates=(2,), channels=8), ASPPConfig(channels=8)],
    ids=lambda context: context.kind,
)
def test_only_a_fixed_pooling_window_keeps_a_context_from_several_passes(context: ContextConfig) -> None:
    backbone = backbone_config("mobilenet_v2", width=0.25)
    model = DeepLab(DeepLabConfig(backbone=backbone, context=context, num_classes=4))
    assert (
        program.RuntimeNetwork(model.pyramid_logits, model, version="", one_pass=False).config is model.config
    )
    if isinstance(context, ASPPConfig):
        fixed = context.model_copy(update={"image_pooling_crop": (65, 65)})
        model = DeepLab(DeepLabConfig(backbone=backbone, context=fixed, num_classes=4))
        with pytest.raises(UserError, match="several passes"):
            program.RuntimeNetwork(model.pyramid_logits, model, version="", one_pass=False)


def test_torch_is_no_stand_in() -> None:
    assert engine_network(small_model(), "torch", device=CPU) is None


def test_auto_is_pytorch_where_its_own_convolutions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = object()
    monkeypatch.setattr("deeplab.prediction.runtimes.find_spec", lambda name: "found")
    monkeypatch.setattr("deeplab.prediction.runtimes.ENGINES", {"openvino": lambda *_, **__: found})
    if dense_conv.KERNEL.why_not:
        pytest.skip(dense_conv.KERNEL.why_not)
    model = small_model()
    for capability in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert engine_network(model, "auto", device=CPU) is None
        assert engine_network(model, "auto", device=CPU, precision="bfloat16") == ("openvino", found)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert engine_network(model, "auto", device=CPU) == ("openvino", found)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("DEEPLAB_KERNELS", "plain")
    monkeypatch.setattr(dense_conv, "KERNEL", replace(dense_conv.KERNEL))
    assert engine_network(model, "auto", device=CPU) == ("openvino", found)


def test_auto_goes_on_to_pytorch_where_nothing_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: DeepLab, **options: object) -> None:
        raise UserError("cannot")

    monkeypatch.setattr("deeplab.prediction.runtimes.find_spec", lambda name: "found")
    monkeypatch.setattr("deeplab.prediction.runtimes.ENGINES", dict.fromkeys(ENGINES, refuse))
    assert engine_network(small_model(), "auto", device=CPU) is None


def test_programs_are_kept_by_weights_and_stride(empty_cache: Path) -> None:
    made: list[str] = []

    def converted(model: DeepLab) -> Path:
        def convert(path: Path) -> None:
            path.write_text(f"program {len(made)}")
            path.with_suffix(".bin").write_text("its weights")
            made.append(path.name)

        return program.converted(model, "network.xml", runtime="some 1.0", convert=convert)

    first = converted(small_model())
    assert converted(small_model()) == first and first.read_text() == "program 0"
    assert first.with_suffix(".bin").exists() and len(made) == 1
    other = small_model()
    other.classifiers["semantic"].state_dict().popitem()[1].add_(1)
    strided = small_model()
    strided.output_stride = 8
    assert len({first, converted(other), converted(strided)}) == 3


def test_a_failed_conversion_leaves_nothing(empty_cache: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        program.converted(small_model(), "network.xml", runtime="some 1.0", convert=fail)
    assert [path for path in empty_cache.rglob("*") if path.is_file()] == []


def test_a_segmenter_names_its_engine_and_labels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in is asked for photos' logits, at the stride that was chosen, and for nothing else."""
    model, asked = small_model(), []

    def stand_in(source: DeepLab, *, precision: str, calibration: list[np.ndarray]) -> program.Network:
        def network(images: torch.Tensor) -> dict[str, torch.Tensor]:
            asked.append((source.output_stride, precision, tuple(images.shape)))
            return source.low_resolution_logits(images)

        return network

    monkeypatch.setitem(ENGINES, "openvino", stand_in)
    photo = photos((65, 97, 3)).numpy()
    expected = Segmenter(model, output_stride=8)(photo)
    assert expected.labels.std() > 0
    segmenter = Segmenter(model, output_stride=8, engine="openvino", precision="bfloat16")
    np.testing.assert_array_equal(segmenter(photo).labels, expected.labels)
    assert segmenter.predictor.engine == "openvino" and asked == [(8, "bfloat16", (1, 3, 65, 97))]
    segmenter(photo, probabilities=True)
    assert len(asked) == 2 and model.output_stride == 16
    passes = {"output_stride": 8, "scales": (1.0, 0.5), "flip": True}
    several = Segmenter(model, engine="openvino", **passes)(photo).labels
    # resized photos are rounded for the runtime
    assert (several == Segmenter(model, **passes)(photo).labels).mean() > 0.99
    assert [shape for *_, shape in asked[2:]] == 2 * [(1, 3, 65, 97)] + 2 * [(1, 3, 33, 49)]


def test_auto_is_pytorch_for_several_passes() -> None:
    assert Segmenter(small_model(), engine="auto", scales=(1.0, 0.5)).predictor.engine == "torch"


@pytest.mark.parametrize("engine", ["torch", *ENGINES])
def test_threads_do_not_disturb_each_other(engine: str, empty_cache: Path) -> None:
    for module in {"onnxruntime": ("onnxruntime", "onnxscript")}.get(engine, (engine,)):
        pytest.importorskip(module)
    segmenter = Segmenter(small_model(), engine=engine, device="cpu")
    images = [photos((65 + number, 97, 3)).numpy() for number in range(16)]
    alone = [segmenter(image).labels for image in images]
    with ThreadPoolExecutor(4) as threads:
        for found, expected in zip(
            threads.map(lambda image: segmenter(image).labels, 4 * images), 4 * alone, strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_weights_laid_out_for_another_threads_place_are_not_taken() -> None:
    """Another thread may lay them out anew at any moment, so also while this one does."""

    class Disturbed(PackedConv):
        """After every look at what is kept, another thread's place is there."""

        @property
        def _packed(self) -> object:
            kept, self.__dict__["kept"] = self.__dict__.get("kept"), (("there",), "theirs")
            return kept

        @_packed.setter
        def _packed(self, kept: object) -> None:
            self.__dict__["kept"] = kept

    layer = Disturbed.of(AtrousConv2d(2, 3, kernel=1), torch.nn.Identity())
    assert layer.laid_out(("here",), lambda: "ours") == "ours"
    layer.laid_out(("here",), lambda: "ours")
    assert layer.laid_out(("here",), lambda: "ours") == "ours"


def test_the_program_computes_the_models_logits() -> None:
    model = small_model()
    images = photos(SIZES[1])
    with torch.inference_mode():
        expected = model.low_resolution_logits(images)
        results = program.PhotosToLogits(model)(program.as_photos(images))
    found = program.as_logits(["semantic"], results)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected["semantic"].std().item())

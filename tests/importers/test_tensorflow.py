"""Checkpoints and frozen graphs of the TensorFlow reference: read, recognised, converted, refused.

The real checkpoint among the golden vectors judges reading; the vectors' lists of variables judge what is
inferred; their logits judge whole imports of checkpoints written here from the vectors' recipe.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.weights import recipe_value
from support.shared_folder import SHARED, shared
from support.tensorflow_files import plain_crc32c, write_checkpoint

from deeplab import DeepLab
from deeplab.cli.app import main
from deeplab.config import MobileNetConfig
from deeplab.errors import UserError
from deeplab.importers import import_weights
from deeplab.importers.hints import Hints
from deeplab.importers.tensorflow.bundle import is_index, read_bundle
from deeplab.importers.tensorflow.graph import is_graph, read_graph
from deeplab.importers.tensorflow.names import tensorflow_variables
from deeplab.importers.tensorflow.options import build_config, infer
from deeplab.importers.tensorflow.resolve import resolve
from deeplab.presets import preset
from deeplab.presets.reference import config_from_options
from deeplab.system.files.crc32c import crc32c

CASES = sorted(SHARED.glob("golden/[a-g]*.npz"))
# options that no list of variables can tell
UNTOLD = (
    *(
        "atrous_rates",
        "output_stride",
        "multi_grid",
        "dense_prediction_cell_config",
        "image_pyramid",
        "merge_method",
    ),
    *("image_pooling_crop_size", "image_pooling_stride", "image_se_uses_qsigmoid", "use_bounded_activation"),
)


@pytest.fixture(scope="module")
def published() -> Path:
    return shared("golden/m_mnv2_dm025_voc")


@pytest.fixture(scope="module")
def expected(published: Path) -> Any:
    return np.load(published / "expected.npz")


def load_case(name: str) -> tuple[Any, dict[str, Any], dict[str, tuple[int, ...]]]:
    data = np.load(shared(f"golden/{name}.npz"))
    variables = {item: tuple(shape) for item, shape in json.loads(str(data["variables"]))}
    return data, json.loads(str(data["options"])), variables


def recipe(options: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: recipe_value(name, shape, options["gain"]) for name, shape in shapes.items()}


def without_graphs(published: Path, folder: Path, *, meta: bool) -> Path:
    for path in published.glob("model.ckpt-1234.*"):
        if meta or path.suffix != ".meta":
            shutil.copy(path, folder / path.name)
    return folder


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"", 0),
        (b"a", 0xC1D04330),
    ],
)
def test_crc32c_is_the_standards(data: bytes, check: int) -> None:
    """Values of RFC 3720, appendix B.4, and of the algorithm's catalogue entry."""
    assert crc32c(data) == check


def test_crc32c_of_long_data_equals_the_plain_algorithm() -> None:
    data = np.random.default_rng(0).integers(0, 256, 100_001, dtype=np.uint8).tobytes()
    assert crc32c(data) == plain_crc32c(data)


def test_checkpoint_holds_what_was_saved(published: Path, expected: Any) -> None:
    bundle = read_bundle(published / "model.ckpt-1234.index")
    meta = json.loads(str(expected["meta"]))
    for name, shape, _ in meta["variables"]:
        assert list(bundle.entries[name].shape) == shape, name
    assert bundle.read("global_step") == 1234
    np.testing.assert_allclose(bundle.read("logits/semantic/biases"), meta["logits_biases"], atol=1e-6)
    depthwise = "MobilenetV2/expanded_conv_3/depthwise/depthwise_weights"
    np.testing.assert_array_equal(
        bundle.read(depthwise), recipe_value(depthwise, bundle.entries[depthwise].shape, 1.0)
    )
    slot = "aspp0/weights/Momentum"
    seeded = np.random.RandomState(zlib.crc32(slot.encode()))
    drawn = seeded.standard_normal(bundle.entries[slot].shape)
    np.testing.assert_array_equal(bundle.read(slot), (0.01 * drawn).astype(np.float32))


def test_graph_holds_the_checkpoints_weights(published: Path) -> None:
    bundle = read_bundle(published / "model.ckpt-1234.index")
    graph = read_graph(published / "frozen_inference_graph.pb")
    name = "MobilenetV2/expanded_conv_16/project/weights"
    np.testing.assert_array_equal(graph.constant(f"{name}/read"), bundle.read(name))
    assert graph.nodes["aspp0/Conv2D"].integers("strides") == (1, 1, 1, 1)
    block = "MobilenetV2/expanded_conv_15/depthwise/depthwise/SpaceToBatchND/block_shape"
    assert graph.constant(block).tolist() == [2, 2]


def test_recognised_by_content_alone(published: Path) -> None:
    heads = {path.name: path.read_bytes()[:4096] for path in published.iterdir()}
    assert [name for name, head in heads.items() if is_index(head)] == ["model.ckpt-1234.index"]
    assert [name for name, head in heads.items() if is_graph(head)] == ["frozen_inference_graph.pb"]
    assert not is_index(b"") and not is_graph(b"") and not is_graph(b"\x0a\xff\xff\xff\xff")


def test_checkpoint_and_graph_make_one_model(published: Path, expected: Any) -> None:
    from_checkpoint, report = import_weights(published / "model.ckpt-1234")
    from_graph, _ = import_weights(published / "frozen_inference_graph.pb")
    assert from_checkpoint.config == from_graph.config
    other = from_graph.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in from_checkpoint.state_dict().items())
    assert "all 272 arrays equal those in the graph beside the checkpoint" in report.notes
    assert "left aside: 164 optimiser slots, 1 training counters" in report.notes
    assert from_checkpoint.config == config_from_options(json.loads(str(expected["meta"]))["options"])


def test_meta_describes_a_checkpoint_without_frozen_graph(published: Path, tmp_path: Path) -> None:
    whole, _ = import_weights(published)
    described, report = import_weights(without_graphs(published, tmp_path, meta=True))
    assert described.config == whole.config
    assert report.facts["output stride"] == "16 (from the graph)"


def test_checkpoint_alone_has_an_assumed_output_stride(published: Path, tmp_path: Path) -> None:
    alone = without_graphs(published, tmp_path, meta=False)
    assert import_weights(alone)[1].facts["output stride"] == "16 (assumed; the model runs at others too)"
    assert import_weights(alone, Hints(output_stride=8))[0].config.output_stride == 8


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda index, data: _flip(index, 100), "a block does not match its checksum"),
        (lambda index, data: index.write_bytes(index.read_bytes()[:9000]), "truncated or of another kind"),
        (lambda index, data: _flip(data, 10), "does not match its checksum: the file is damaged"),
        (lambda index, data: data.write_bytes(data.read_bytes()[:-999]), "it is truncated, fetch it again"),
        (lambda index, data: data.unlink(), "an .index file and its .data files"),
    ],
)
def test_damage_is_noticed(published: Path, tmp_path: Path, harm: Any, message: str) -> None:
    without_graphs(published, tmp_path, meta=False)
    for path in tmp_path.iterdir():
        path.chmod(0o644)
    harm(tmp_path / "model.ckpt-1234.index", tmp_path / "model.ckpt-1234.data-00000-of-00001")
    with pytest.raises(UserError, match=message):
        import_weights(tmp_path / "model.ckpt-1234.index")


@pytest.mark.parametrize("size", [200, 5000, 600_000])
def test_truncated_graph_is_refused(published: Path, tmp_path: Path, size: int) -> None:
    graph = tmp_path / "graph.pb"
    graph.write_bytes((published / "frozen_inference_graph.pb").read_bytes()[:size])
    with pytest.raises(UserError, match=r"graph\.pb"):
        import_weights(graph)


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_variables_tell_all_that_variables_can(path: Path) -> None:
    _, options, shapes = load_case(path.stem)
    structure = infer(shapes)
    told = {**structure.options, **{name: options[name] for name in UNTOLD}}
    if "nas_architecture_options" in told:
        flags = options["nas_architecture_options"]
        told["nas_architecture_options"]["nas_remove_os32_stride"] = flags["nas_remove_os32_stride"]
    wanted = config_from_options(options)
    found = build_config(structure, told)
    # a divisor that changes no width leaves no trace
    backbone = found.backbone
    if isinstance(backbone, MobileNetConfig):
        backbone = backbone.model_copy(update={"divisor": wanted.backbone.divisor})
    assert found.model_copy(update={"backbone": backbone}) == wanted
    assert structure.new is None


def test_what_is_open_is_asked_for_by_flag() -> None:
    structure = infer(load_case("d03_r101beta_os8_mg124_dec4_65")[2])
    with pytest.raises(UserError) as caught:
        resolve(structure, None, Hints(output_stride=8))
    assert "rates of its 3 atrous branches (such as --rates 6 12 18)" in str(caught.value)
    assert "--multi-grid 1 2 4" in str(caught.value)
    assert "--output-stride" not in str(caught.value)
    with pytest.raises(UserError, match="--rates has 2 rates; the file has 3"):
        resolve(structure, None, Hints(rates=(6, 12)))


def test_a_hint_cannot_contradict_the_file() -> None:
    structure = infer(load_case("a05_mnv2_os16_aspp_dec4_129")[2])
    with pytest.raises(UserError, match=r"--decoder-strides says \[8\], the file says \[4\]"):
        resolve(structure, None, Hints(decoder_strides=(8,)))
    with pytest.raises(UserError, match="--output-stride says 8, the file says 16"):
        resolve(structure, {"output_stride": 16, "atrous_rates": [6, 12, 18]}, Hints(output_stride=8))
    with pytest.raises(UserError, match="has no gate: leave --gate away"):
        resolve(structure, None, Hints(gate="sigmoid"))


def test_a_cell_is_read_from_its_file(tmp_path: Path) -> None:
    _, case, shapes = load_case("e03_mnv2_dpc_custom_pyramid_os16_129")
    cell = tmp_path / "cell.json"
    cell.write_text(json.dumps(case["dense_prediction_cell_config"]))
    structure = infer(shapes)
    options, _ = resolve(structure, None, Hints(cell=cell))
    assert build_config(structure, options) == config_from_options(case)
    with pytest.raises(UserError, match=r"its dense prediction cell \(--cell FILE\.json\)"):
        resolve(structure, None, Hints())
    cell.write_text('{"op": "conv"}')
    with pytest.raises(UserError, match=r"cell\.json is no dense prediction cell"):
        resolve(structure, None, Hints(cell=cell))


@pytest.mark.parametrize(
    ("case", "facts"),
    [
        ("c02_xc65_os16_dec4_97x129", {"atrous_rates": [6, 12, 18], "output_stride": 16}),
        (
            "b_mnv3_small_published_1025x2049",
            {
                "output_stride": 32,
                "image_pooling_crop_size": [769, 769],
                "image_pooling_stride": [4, 5],
                "image_se_uses_qsigmoid": True,
            },
        ),
    ],
)
def test_published_models_need_no_questions(case: str, facts: dict[str, Any]) -> None:
    options, origins = resolve(infer(load_case(case)[2]), None, Hints())
    assert {name: options[name] for name in facts} == facts
    assert all(origins[name].startswith("as in the zoo's") for name in facts)


def test_published_cell_is_the_references() -> None:
    _, case, shapes = load_case("e01_xc71_dpc_os16_dec4_129")
    structure = infer(shapes)
    options, _ = resolve(structure, None, Hints())
    assert build_config(structure, options) == config_from_options(case)


@pytest.mark.parametrize(
    ("case", "hints"),
    [
        ("a07_mnv2_dm05_os8_aspp_dec4_65", Hints(rates=(12, 24, 36), output_stride=8)),
        ("b_mnv3_small_os32_257x289", Hints(pooling_crop=(129, 129))),
        ("g09_logits_kernel3_deeplabv2", Hints(rates=(6, 12, 18), output_stride=16)),
        ("g20_se_sigmoid_concatproj", Hints(rates=(6, 12, 18), output_stride=16, gate="sigmoid")),
    ],
)
def test_imported_logits_are_the_references(tmp_path: Path, case: str, hints: Hints) -> None:
    data, options, shapes = load_case(case)
    index = write_checkpoint(tmp_path / "model.ckpt", recipe(options, shapes))
    model, _ = import_weights(index, hints)
    with torch.inference_mode():
        logits = model.low_resolution_logits(torch.from_numpy(data["input"]).permute(2, 0, 1)[None])
    ours = logits["semantic"][0].permute(1, 2, 0).numpy()
    assert np.abs(ours - data["logits"]).max() <= 2e-4 * data["logits"].std()


@pytest.mark.parametrize(
    ("ending", "value", "message"),
    [
        ("moving_variance", -1, "holds negative variances"),
        ("moving_mean", np.inf, "holds NaN or infinity"),
        ("weights", np.nan, "holds NaN or infinity"),
    ],
)
def test_values_that_no_network_has_are_refused(
    ending: str, value: float, message: str, tmp_path: Path
) -> None:
    _, options, shapes = load_case("a01_mnv2_os16_plain_65")
    arrays = recipe(options, shapes)
    arrays[next(name for name in sorted(arrays) if name.endswith(ending))].flat[0] = value
    index = write_checkpoint(tmp_path / "model.ckpt", arrays)
    with pytest.raises(UserError, match=rf"model\.ckpt.*: .*{message}"):
        import_weights(index, Hints(output_stride=16))


def test_weights_of_one_class_become_two_and_averages_are_not_invented(tmp_path: Path) -> None:
    _, options, shapes = load_case("a01_mnv2_os16_plain_65")
    shapes |= {"logits/semantic/weights": (1, 1, 256, 1), "logits/semantic/biases": (1,)}
    arrays = recipe(options, shapes)
    index = write_checkpoint(tmp_path / "model.ckpt", arrays)
    model, report = import_weights(index, Hints(output_stride=16, threshold=0.25))
    (weight,) = model.classifiers["semantic"].convs[0].weight.detach()[:, :, 0, 0].numpy()
    assert model.config.sigmoid == 0.25 and len(model.labels.classes) == 2
    np.testing.assert_array_equal(weight, arrays["logits/semantic/weights"][0, 0, :, 0])
    assert any("pixels above 0.25 are class 1" in note for note in report.notes)
    with pytest.raises(UserError, match="holds no moving averages: leave --weights away"):
        import_weights(index, Hints(output_stride=16, weights="ema"))


def test_slim_edgetpu_keeps_its_last_convolution(tmp_path: Path) -> None:
    """Upstream's issue 8366: the published 0.75 network, from slim's own definition, ends in 1280 channels."""
    torch.manual_seed(0)
    original = DeepLab(preset("edgetpu_deeplab_slim")).eval()
    state = original.state_dict()
    arrays = {
        name: state[key].permute(2, 3, 1, 0).numpy() if len(shape) == 4 else state[key].numpy()
        for key, (name, shape) in tensorflow_variables(original).items()
    }
    depthwise = [name for name in arrays if name.endswith("depthwise_weights")]
    arrays |= {name: arrays[name].transpose(0, 1, 3, 2) for name in depthwise}
    shapes = {name: value.shape for name, value in arrays.items()}
    assert shapes["MobilenetEdgeTPU/expanded_conv_21/project/weights"] == (1, 1, 960, 144)
    assert shapes["MobilenetEdgeTPU/Conv_1/weights"] == (1, 1, 144, 1280)
    assert shapes["image_pooling/weights"] == (1, 1, 1280, 128)
    index = write_checkpoint(
        tmp_path / "model.ckpt", {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    )
    model, _ = import_weights(index, Hints(output_stride=16))
    assert model.config.backbone == original.config.backbone
    assert model.config.backbone.last_channels == 1280
    photo = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model.eval()(photo), original(photo))
    # the reference's own rule, by which the width goes for the last convolution too
    narrow = {**shapes, "MobilenetEdgeTPU/Conv_1/weights": (1, 1, 144, 960)}
    narrow |= {name: (960,) for name in shapes if name.startswith("MobilenetEdgeTPU/Conv_1/BatchNorm")}
    assert infer(narrow).backbone == {}


def imagenet_checkpoint(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A classification checkpoint as slim saves it: averages, RMSProp slots, last layers, ranges."""
    _, options, shapes = load_case("a06_mnv2_dm05_os16_plain_65_random")
    arrays = recipe(options, {name: shape for name, shape in shapes.items() if name.startswith("Mobilenet")})
    arrays["MobilenetV2/Logits/Conv2d_1c_1x1/weights"] = np.zeros((1, 1, 8, 5), np.float32)
    arrays["MobilenetV2/Logits/Conv2d_1c_1x1/biases"] = np.zeros(5, np.float32)
    stem = "MobilenetV2/Conv/weights"
    arrays[f"{stem}/ExponentialMovingAverage"] = arrays[stem] + 1
    arrays[f"{stem}/RMSProp"] = arrays[f"{stem}/RMSProp_1"] = arrays[stem]
    arrays["MobilenetV2/Conv/weights_quant/min"] = np.array(-6.0, np.float32)
    arrays["MobilenetV2/Conv/act_quant/MobilenetV2/Conv/act_quant/max/biased"] = np.array(6.0, np.float32)
    arrays["global_step"] = np.array(99, np.int64)
    return write_checkpoint(folder / "model.ckpt", arrays), arrays


def test_classification_checkpoint_starts_a_model(tmp_path: Path) -> None:
    index, arrays = imagenet_checkpoint(tmp_path)
    model, report = import_weights(index)
    averaged = arrays["MobilenetV2/Conv/weights"] + 1
    stem = model.backbone.stem.conv.weight.detach().permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(stem, averaged)
    assert (model.config.backbone.width, model.config.num_classes) == (0.5, 21)
    plain, other = import_weights(index, Hints(weights="plain"))
    stem = plain.backbone.stem.conv.weight.detach().permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(stem, arrays["MobilenetV2/Conv/weights"])
    assert any("averages of these weights are left aside" in note for note in other.notes)
    text = " ".join(report.notes)
    assert "2 optimiser slots" in text and "2 quantisation ranges" in text and "1 training counters" in text
    assert "2 arrays of the classification network's last layers" in text
    assert "1 arrays are moving averages" in text and "the head is new and random" in text
    with pytest.raises(UserError, match="no head: leave --rates away"):
        import_weights(index, Hints(rates=(6, 12, 18)))


def test_a_changed_network_is_refused(tmp_path: Path) -> None:
    _, options, shapes = load_case("a06_mnv2_dm05_os16_plain_65_random")
    arrays = recipe(options, shapes)
    missing = {name: value for name, value in arrays.items() if name != "aspp0/BatchNorm/beta"}
    with pytest.raises(UserError, match="it lacks aspp0/BatchNorm/beta"):
        import_weights(write_checkpoint(tmp_path / "missing", missing))
    surplus = {**arrays, "aspp0/biases": np.zeros(256, np.float32)}
    with pytest.raises(UserError, match="aspp0/biases is in no layer of the model"):
        import_weights(write_checkpoint(tmp_path / "surplus", surplus))
    other = {name.replace("MobilenetV2", "InceptionV3"): value for name, value in arrays.items()}
    with pytest.raises(UserError, match=r"no backbone of the reference among the scopes InceptionV3"):
        import_weights(write_checkpoint(tmp_path / "other", other))


def test_command_line_passes_hints_and_reports_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, options, shapes = load_case("g22_aspp_filters64_dec_filters48")
    index = write_checkpoint(tmp_path / "model.ckpt", recipe(options, shapes))
    with pytest.raises(SystemExit) as stopped:
        main(["import", str(index), "-o", str(tmp_path / "out")])
    assert stopped.value.code == 2 and "--rates 6 12 18" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    words = ["--rates", "6", "12", "18", "--output-stride", "16"]
    with pytest.raises(SystemExit) as stopped:
        main(["import", str(index), "-o", str(tmp_path / "out"), *words])
    out = capsys.readouterr().out
    assert not stopped.value.code and "rates: 6, 12, 18 (given)" in out
    assert (tmp_path / "out" / "model.safetensors").is_file()

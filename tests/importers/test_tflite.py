"""TensorFlow Lite files in: what is inferred, filled and refused, and parity with the published files."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from deeplab import DeepLab
from deeplab.config import (
    ASPPConfig,
    ContextConfig,
    DecoderConfig,
    DeepLabConfig,
    NoContextConfig,
    PixelConfig,
    backbone_config,
)
from deeplab.errors import UserError

pytest.importorskip("tflite", reason="reading .tflite files needs the extra `tflite`")

from support.tflite_rewrites import FORMS, drawn, rewritten
from support.tflite_writer import Style, graph_of, int8_scales, quantised, to_bytes, uint8_scale

from deeplab import importers
from deeplab.cli.app import main
from deeplab.importers.tflite.file import Graph, Op, Quantisation, Tensor
from deeplab.system.files.content import describe

SIZE = (33, 49)


def small_config(*, context: ContextConfig | None = None, **changes: object) -> DeepLabConfig:
    backbone = changes.pop("backbone", backbone_config("mobilenet_v2", width=0.25))
    values = {"num_classes": 5, "folded": True, "output_stride": 16, **changes}
    return DeepLabConfig(backbone=backbone, context=context or ASPPConfig(channels=8), **values)


def random_model(config: DeepLabConfig) -> DeepLab:
    torch.manual_seed(0)
    model = DeepLab(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
    return model


@pytest.fixture
def import_graph(tmp_path: Path) -> Callable[[Graph], importers.Imported]:
    def run(graph: Graph) -> importers.Imported:
        path = tmp_path / "weights.bin"
        path.write_bytes(to_bytes(graph))
        return importers.import_weights(path)

    return run


ROUND_TRIPS = {
    "light head, stride 8": (small_config(output_stride=8), Style()),
    "atrous branches as space-to-batch": (
        small_config(context=ASPPConfig(channels=8, rates=(2, 3, 5)), output_stride=8),
        Style(atrous="space_to_batch", labels=True),
    ),
    "plain branches, no pooling": (
        small_config(context=ASPPConfig(channels=8, rates=(2, 4), separable=False, image_pooling=False)),
        Style(own_activation=True),
    ),
    "decoder, half-pixel centres, symmetric padding": (
        small_config(
            backbone=backbone_config("mobilenet_v2", width=0.35, padding="symmetric"),
            decoder=DecoderConfig(channels=12, low_level_channels=6),
            resize="half_pixel",
        ),
        Style(),
    ),
    "two decoder steps, plain, legacy resizes": (
        small_config(
            decoder=DecoderConfig(strides=(8, 4), channels=12, low_level_channels=6, separable=False),
            resize="legacy",
        ),
        Style(own_activation=True, labels=True),
    ),
    "bounded head, no projection": (
        small_config(context=ASPPConfig(channels=8, rates=(3,), projection=False), bounded=True),
        Style(weights="float32"),
    ),
    "1x1 alone": (small_config(context=ASPPConfig(channels=8, image_pooling=False)), Style()),
    "no context": (small_config(context=NoContextConfig(), output_stride=32), Style()),
    "MobileNet-EdgeTPU, slim": (
        small_config(backbone=backbone_config("mobilenet_edgetpu", width=0.25, last_channels=1280)),
        Style(),
    ),
    "MobileNet-EdgeTPU, dilated": (
        small_config(
            backbone=backbone_config("mobilenet_edgetpu", width=0.35, padding="symmetric"), output_stride=8
        ),
        Style(own_activation=True, labels=True),
    ),
    "unusual width and divisor": (
        small_config(backbone=backbone_config("mobilenet_v2", width=0.5, divisor=8)),
        Style(),
    ),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_graph_gives_back_the_model_that_it_was_written_from(case: str, import_graph) -> None:
    config, style = ROUND_TRIPS[case]
    model = random_model(config)
    imported, report = import_graph(graph_of(model, SIZE, style))
    assert imported.config == config
    ours, theirs = imported.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert report.variables == report.parameters == len(theirs)
    images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(imported(images), model(images))


def test_pooling_window_smaller_than_the_map_becomes_a_crop(import_graph) -> None:
    graph = graph_of(random_model(small_config()), (65, 65))
    ops = [
        replace(op, options=op.options | {"FilterHeight": 3, "FilterWidth": 4, "StrideH": 2, "StrideW": 1})
        if op.kind == "AVERAGE_POOL_2D"
        else op
        for op in graph.ops
    ]
    model, _ = import_graph(replace(graph, ops=tuple(ops)))
    assert model.config.context.image_pooling_crop == (33, 49)  # windows of 3 and 4 at stride 16
    assert model.config.context.image_pooling_stride == (2, 1)


@pytest.fixture(scope="module")
def model() -> DeepLab:
    context, decoder = ASPPConfig(channels=8, rates=(2, 3)), DecoderConfig(channels=12, low_level_channels=6)
    return random_model(small_config(context=context, decoder=decoder))


class TestEquivalentForms:
    """A graph is known by what it computes, not by how a converter writes it; `tflite_rewrites` lists how."""

    # even sides tell TensorFlow's padding from PyTorch's
    size = (34, 50)

    def check(self, graph: Graph, model: DeepLab, import_graph) -> None:
        imported, _ = import_graph(graph)
        assert imported.config == model.config
        ours, theirs = imported.state_dict(), model.state_dict()
        assert ours.keys() == theirs.keys()
        # constants that are joined to weights are rounded once more
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("form", FORMS)
    def test_alone(self, form: str, model: DeepLab, import_graph) -> None:
        self.check(rewritten(graph_of(model, self.size), form), model, import_graph)

    @pytest.mark.parametrize("seed", range(16))
    def test_together(self, seed: int, model: DeepLab, import_graph) -> None:
        self.check(rewritten(graph_of(model, self.size), *drawn(seed)), model, import_graph)

    def test_weights_follow_maps_that_are_joined_in_another_order_without_projection(
        self, import_graph
    ) -> None:
        context, decoder = ASPPConfig(channels=8, rates=(2,), projection=False), DecoderConfig(channels=12)
        model = random_model(small_config(context=context, decoder=decoder))
        self.check(rewritten(graph_of(model, self.size), "concatenations reversed"), model, import_graph)

    @pytest.mark.parametrize("threshold", [None, 0.3])
    def test_one_logit_and_a_sigmoid_are_two_classes(self, threshold: float | None, tmp_path: Path) -> None:
        model = random_model(small_config(num_classes=1))
        graph = graph_of(model, SIZE)
        logits = graph.outputs[0]
        sigmoid = Op(len(graph.ops), "LOGISTIC", (logits,), (len(graph.tensors),), {})
        graph = replace(
            graph,
            tensors=(*graph.tensors, graph.tensors[logits]),
            ops=(*graph.ops, sigmoid),
            outputs=sigmoid.outputs,
        )
        (tmp_path / "one.tflite").write_bytes(to_bytes(graph))
        imported, _ = importers.import_weights(tmp_path / "one.tflite", importers.Hints(threshold=threshold))
        images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
        with torch.inference_mode():
            object_at = model(images).sigmoid()[:, 0] > (threshold or 0.5)
            assert torch.equal(imported(images).argmax(1).bool(), object_at)

    def test_labels_that_are_made_before_the_resize_are_noted(self, import_graph) -> None:
        graph = graph_of(random_model(small_config()), SIZE)
        resize = last(graph, "RESIZE_BILINEAR")
        low = graph.tensors[resize.inputs[0]]
        soft = Op(len(graph.ops), "SOFTMAX", resize.inputs[:1], (len(graph.tensors),), {"Beta": 1})
        ops = [*graph.ops[: resize.number], soft, replace(resize, inputs=(*soft.outputs, resize.inputs[1]))]
        ops[-1] = replace(ops[-1], number=len(ops) - 1)
        _, report = import_graph(replace(graph, tensors=(*graph.tensors, low), ops=tuple(ops)))
        assert any("the file resizes what softmax makes of the logits" in note for note in report.notes)


class TestScaling:
    @pytest.mark.parametrize(
        ("kind", "mean", "std"),
        [("float", 127.5, 127.5), ("scaled", 127.5, 127.5), ("uint8", 128.0, 128.0), ("int8", 128.0, 128.0)],
    )
    def test_pixels_follow_from_the_input(self, kind: str, mean: float, std: float, import_graph) -> None:
        model, report = import_graph(graph_of(random_model(small_config()), SIZE, Style(input=kind)))
        assert model.config.pixels == PixelConfig(mean=(mean,) * 3, std=(std,) * 3)
        assumed = any("does not say how its input is scaled" in note for note in report.notes)
        assert assumed == (kind == "float")

    def test_a_raw_float_input_scaled_in_the_graph_is_not_scaled_twice(self, import_graph) -> None:
        model = random_model(small_config(pixels=PixelConfig(mean=(127.5,) * 3, std=(127.5,) * 3)))
        imported, _ = import_graph(graph_of(model, SIZE, Style(input="scaled")))
        images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(imported(images), model(images), rtol=1e-5, atol=1e-6)


class TestDequantisation:
    def test_per_tensor(self) -> None:
        q = Quantisation(np.array([0.5]), np.array([3]), 0)
        tensor = Tensor("t", (2, 2), "uint8", np.array([[3, 4], [0, 255]], np.uint8), q)
        np.testing.assert_array_equal(tensor.real(), [[0.0, 0.5], [-1.5, 126.0]])

    def test_per_channel_along_the_last_axis(self) -> None:
        q = Quantisation(np.array([0.5, 2.0]), np.array([0, 1]), 1)
        tensor = Tensor("t", (2, 2), "int8", np.array([[-128, 1], [4, -1]], np.int8), q)
        np.testing.assert_array_equal(tensor.real(), [[-64.0, 0.0], [2.0, -4.0]])

    def test_biases_are_int32(self) -> None:
        q = Quantisation(np.array([0.25]), np.array([0]), 0)
        tensor = Tensor("t", (2,), "int32", np.array([-(2**20), 6], np.int32), q)
        np.testing.assert_array_equal(tensor.real(), [-(2.0**18), 1.5])

    @pytest.mark.parametrize("kind", ["uint8", "int8"])
    def test_weights_of_a_whole_file(self, kind: str, import_graph) -> None:
        model = random_model(small_config())
        imported, report = import_graph(graph_of(model, SIZE, Style(weights=kind, input="uint8")))
        for key, value in model.state_dict().items():
            if key.endswith("bias"):
                expected = np.round(value.numpy() * 2.0**20) / 2.0**20
            else:
                array = value.numpy()
                q = uint8_scale(array) if kind == "uint8" else int8_scales(array, 0)
                steps = quantised(array, q, kind).astype(np.float64)
                expected = (steps - q.zero_point.reshape(-1, 1, 1, 1)) * q.scale.reshape(-1, 1, 1, 1)
            np.testing.assert_allclose(imported.state_dict()[key], expected, rtol=1e-6, atol=1e-7)
        assert f"{kind} weights per {'tensor' if kind == 'uint8' else 'channel'}" in report.format

    def test_half_precision(self, import_graph) -> None:
        model = random_model(small_config())
        imported, _ = import_graph(graph_of(model, SIZE, Style(weights="float16")))
        key = "backbone.stem.conv.weight"
        assert torch.equal(imported.state_dict()[key], model.state_dict()[key].half().float())


def with_op(graph: Graph, number: int, **changes: object) -> Graph:
    ops = list(graph.ops)
    ops[number] = replace(ops[number], **changes)
    return replace(graph, ops=tuple(ops))


def last(graph: Graph, kind: str) -> Op:
    return [op for op in graph.ops if op.kind == kind][-1]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return graph_of(random_model(small_config(output_stride=8)), SIZE)


class TestRefusals:
    """Whatever is not understood is named; nothing is ignored."""

    def test_unknown_operation(self, graph: Graph, import_graph) -> None:
        with pytest.raises(UserError, match=r"operation 4 \(HARD_SWISH\) is not understood; known.*CONV_2D"):
            import_graph(with_op(graph, 4, kind="HARD_SWISH", options={}))

    def test_unknown_clip(self, graph: Graph, import_graph) -> None:
        options = graph.ops[2].options | {"FusedActivationFunction": 2}
        with pytest.raises(UserError, match=r"operation 2 \(CONV_2D\) clips by fused activation number 2"):
            import_graph(with_op(graph, 2, options=options))

    def test_relu_where_the_reference_has_relu6(self, graph: Graph, import_graph) -> None:
        options = graph.ops[3].options | {"FusedActivationFunction": 1}
        with pytest.raises(UserError, match=r"blocks\.1\.expand \(operation 3\).*'ReLU'.*'ReLU6'"):
            import_graph(with_op(graph, 3, options=options))

    def test_rate_that_no_output_stride_gives(self, graph: Graph, import_graph) -> None:
        number = last(graph, "DEPTHWISE_CONV_2D").number
        options = graph.ops[number].options | {"DilationHFactor": 3, "DilationWFactor": 3}
        with pytest.raises(UserError, match=r"blocks\.16\.depthwise.*\(3, 3\).*\(4, 4\)"):
            import_graph(with_op(graph, number, options=options))

    def test_missing_skip(self, graph: Graph, import_graph) -> None:
        add = last(graph, "ADD")
        reader = next(op for op in graph.ops if add.outputs[0] in op.inputs)
        bypass = tuple(add.inputs[0] if number == add.outputs[0] else number for number in reader.inputs)
        graph = with_op(graph, reader.number, inputs=bypass)
        ops = tuple(op for op in graph.ops if op.number != add.number)
        with pytest.raises(UserError, match="skip connections"):
            import_graph(replace(graph, ops=ops))

    def test_labels_along_another_axis(self, import_graph) -> None:
        graph = graph_of(random_model(small_config()), SIZE, Style(labels=True))
        axis = last(graph, "ARG_MAX").inputs[1]
        tensors = list(graph.tensors)
        tensors[axis] = replace(tensors[axis], data=np.array(2, np.int32))
        with pytest.raises(
            UserError, match=r"ARG_MAX\) takes the largest along axis 2; known: 3, the classes"
        ):
            import_graph(replace(graph, tensors=tuple(tensors)))

    def test_activation_of_one_reader_among_several(self, graph: Graph, import_graph) -> None:
        linear = last(graph, "ADD").inputs[0]
        relu = Op(len(graph.ops), "RELU", (linear,), (len(graph.tensors),), {})
        tensors = (*graph.tensors, replace(graph.tensors[linear], name="spare"))
        with pytest.raises(
            UserError, match=r"\(RELU\) does not follow a convolution that nothing else reads"
        ):
            import_graph(replace(graph, tensors=tensors, ops=(*graph.ops, relu)))

    def test_two_resize_rules(self, import_graph) -> None:
        graph = graph_of(random_model(small_config(decoder=DecoderConfig(channels=8))), SIZE)
        number = last(graph, "RESIZE_BILINEAR").number
        with pytest.raises(UserError, match="different rules in one file: align_corners, legacy"):
            import_graph(with_op(graph, number, options={"AlignCorners": 0, "HalfPixelCenters": 0}))

    def test_stored_array_that_no_layer_uses(self, graph: Graph, import_graph) -> None:
        spare = Tensor("spare/weights", (3,), "float32", np.ones(3, np.float32), None)
        with pytest.raises(UserError, match="1 stored arrays belong to no layer, such as spare/weights"):
            import_graph(replace(graph, tensors=(*graph.tensors, spare)))

    def test_layer_beside_the_network(self, graph: Graph, import_graph) -> None:
        stem = graph.ops[0]
        spare = replace(graph.tensors[stem.outputs[0]], name="spare")
        twin = replace(
            graph.ops[1], inputs=(stem.outputs[0], *graph.ops[1].inputs[1:]), outputs=(len(graph.tensors),)
        )
        with pytest.raises(
            UserError, match=r"blocks\.0\.depthwise: .* one depthwise 3x3 convolution.*found 2"
        ):
            import_graph(replace(graph, tensors=(*graph.tensors, spare), ops=(*graph.ops, twin)))

    @pytest.mark.parametrize("value", [torch.nan, -torch.inf])
    def test_not_a_number(self, value: float, import_graph) -> None:
        model = random_model(small_config())
        with torch.no_grad():
            model.backbone.stem.conv.weight[0, 0, 0, 0] = value
        with pytest.raises(UserError, match=r"backbone\.stem\.conv\.weight holds NaN or infinity"):
            import_graph(graph_of(model, SIZE))

    def test_operation_that_lacks_an_input(self, graph: Graph, import_graph) -> None:
        with pytest.raises(UserError, match=r"its graph does not hold together \(IndexError"):
            import_graph(with_op(graph, 3, inputs=graph.ops[3].inputs[:1]))

    def test_file_is_named(self, graph: Graph, import_graph) -> None:
        with pytest.raises(UserError, match=r"weights\.bin: operation 4"):
            import_graph(with_op(graph, 4, kind="HARD_SWISH", options={}))


@pytest.fixture(scope="module")
def data(graph: Graph) -> bytes:
    return to_bytes(graph)


class TestDamagedFiles:
    @pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.9999])
    def test_cut_short(self, share: float, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / "cut.tflite"
        path.write_bytes(data[: max(8, int(len(data) * share))])
        with pytest.raises(UserError, match=r"cut\.tflite: .*(damaged or cut short|not|needs)"):
            importers.import_weights(path)

    def test_flipped_bytes_never_give_anything_but_a_user_error(self, data: bytes, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        refused = 0
        for _ in range(60):
            broken = bytearray(data)
            # the tables lie around the arrays: most flips should hit a table
            for position in random.integers(8, len(data), 40):
                broken[position] ^= 1 << random.integers(8)
            start = int(random.integers(8, 4000))
            broken[-start] ^= 0xFF
            path = tmp_path / "flipped.tflite"
            path.write_bytes(broken)
            try:
                importers.import_weights(path)
            except UserError:
                refused += 1
        assert refused > 20


CONTENTS = [
    (b"", "an empty file"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    (b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl", "a PyTorch checkpoint (.pth, .pt)"),
    (b"PK\x03\x04" + b"\0" * 26 + b"hello.txt", "a zip archive"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a Python pickle (a legacy PyTorch .pth?)"),
    (b"\x40\0\0\0\0\0\0\0" + b'{"__metadata__":{}}', "a safetensors file"),
    (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file (Keras .h5 weights, or MATLAB)"),
    (b"\x1f\x8b\x08\0", "a gzip archive (.tar.gz, .gz)"),
    (b"<!DOCTYPE html>\n<html>", "an HTML page (a failed download?)"),
    (
        b"version https://git-lfs.github.com/spec/v1\n",
        "a Git LFS pointer; the file it stands for was not fetched",
    ),
    (b'{"error": "not found"}', "JSON text"),
    (b"Not Found", "text"),
    (b"\xfe\x03\x01\x02", "binary data of an unknown kind"),
]


@pytest.mark.parametrize(("content", "seems"), CONTENTS, ids=[seems for _, seems in CONTENTS])
def test_what_content_seems_to_be(content: bytes, seems: str) -> None:
    assert describe(content) == seems


class TestSources:
    """A source is recognised by content; a wrong one is refused with what it seems to be."""

    @pytest.mark.parametrize(
        "seems", ["an empty file", "a PNG image", "a JPEG image", "JSON text", "text", "binary data"]
    )
    def test_wrong_file_under_a_right_name(self, seems: str, tmp_path: Path) -> None:
        path = tmp_path / "deeplab.tflite"
        path.write_bytes(next(content for content, name in CONTENTS if name.startswith(seems)))
        with pytest.raises(UserError, match=rf"deeplab\.tflite: this seems to be {seems}.*known sources"):
            importers.import_weights(path)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nowhere\.tflite: cannot be read \(No such file"):
            importers.import_weights(tmp_path / "nowhere.tflite")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> importers.Imported:
    path = tmp_path_factory.mktemp("report") / "small.tflite"
    config = small_config(context=ASPPConfig(channels=8, rates=(2, 3)), num_classes=21)
    path.write_bytes(to_bytes(graph_of(random_model(config), SIZE, Style(labels=True))))
    return importers.import_weights(path)


class TestReport:
    def test_lines_outside_a_terminal(self, imported: importers.Imported) -> None:
        out = io.StringIO()
        imported.report.show(Console(file=out, width=40))
        lines = dict(line.split(": ", 1) for line in out.getvalue().splitlines())
        assert lines["source"] == "small.tflite"
        assert lines["classes"] == "21"
        assert lines["context"] == "image pooling + 1x1 + atrous + atrous, rates 2, 3; 8 channels"
        assert lines["output stride"] == "16"
        assert lines["input"] == "33x49, (pixel - 127.5) / 127.5"
        assert lines["output"] == "logits then arg_max"
        assert lines["class names"] == "21 classes: taken to be PASCAL VOC's"

    def test_table_on_a_terminal(self, imported: importers.Imported) -> None:
        out = io.StringIO()
        imported.report.show(Console(file=out, width=100, force_terminal=True, color_system=None))
        assert "Import of small.tflite" in out.getvalue()
        assert "┃" in out.getvalue() or "│" in out.getvalue()

    def test_provenance_names_the_source(self, imported: importers.Imported) -> None:
        record = imported.model.provenance["import"]
        assert record["source"] == "small.tflite"
        assert record["sha256"] == imported.report.sha256 and len(record["sha256"]) == 64
        assert record["inferred"]["width"] == "0.25"
        assert imported.model.labels.classes[15] == "person"


class TestCommand:
    def test_import_writes_a_model_that_loads(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = random_model(small_config())
        source, target = tmp_path / "small.tflite", tmp_path / "out"
        source.write_bytes(to_bytes(graph_of(model, SIZE)))
        with pytest.raises(SystemExit) as stopped:
            main(["import", str(source), "-o", str(target)])
        assert not stopped.value.code
        assert "variables: " in capsys.readouterr().out
        loaded = DeepLab.from_pretrained(target).eval()
        assert loaded.provenance["import"]["source"] == "small.tflite"
        images = torch.randint(0, 256, (1, 3, 40, 30), dtype=torch.uint8)
        with torch.inference_mode():
            assert torch.equal(loaded(images), model(images))

    def test_wrong_file_ends_with_a_message_and_no_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = tmp_path / "photo.tflite"
        source.write_bytes(b"\xff\xd8\xff\xe0")
        with pytest.raises(SystemExit) as stopped:
            main(["import", str(source), "-o", str(tmp_path / "out")])
        assert stopped.value.code == 2
        assert "a JPEG image" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

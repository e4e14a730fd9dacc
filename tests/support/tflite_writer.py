"""Write TensorFlow Lite files for tests: a folded DeepLab as the graph that converters make of it.

The graph follows the reference (tf-reference 2.4, 3.2, 3.4), and the bytes the public schema; nothing of the
importer under test is used but its plain dataclasses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import flatbuffers
import numpy as np
import tflite as schema
from torch import nn

from deeplab import DeepLab
from deeplab.importers.tflite.file import Graph, Op, Quantisation, Tensor
from deeplab.layers.conv import ConvNormAct, SeparableConv

OPTION_TABLES = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "CONCATENATION": "ConcatenationOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
}
FUSED = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 3}
FLAGS = {"align_corners": (1, 0), "half_pixel": (0, 1), "legacy": (0, 0)}


@dataclass(frozen=True)
class Style:
    """How a converter writes things that mean the same.

    atrous: 'dilation' or 'space_to_batch'. own_activation: RELU operations instead of fused ones. weights:
    'float32', 'float16' (behind DEQUANTIZE), 'uint8' per tensor or 'int8' per channel. input: 'float',
    'uint8', 'int8' (quantised) or 'scaled' (x / 127.5 - 1 in the graph). labels: end in ARG_MAX.
    """

    atrous: str = "dilation"
    own_activation: bool = False
    weights: str = "float32"
    input: str = "float"
    labels: bool = False
    reverse_concat: bool = False


@dataclass
class GraphWriter:
    """A graph under construction; maps are NHWC with batch 1."""

    style: Style
    tensors: list[Tensor] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    def tensor(
        self, shape: tuple[int, ...], data: np.ndarray | None = None, q: Quantisation | None = None
    ) -> int:
        dtype = "float32" if data is None else data.dtype.name
        self.tensors.append(Tensor(f"t{len(self.tensors)}", tuple(shape), dtype, data, q))
        return len(self.tensors) - 1

    def constant(self, values: Any, dtype: str = "int32") -> int:
        data = np.asarray(values, dtype)
        return self.tensor(data.shape, data)

    def op(self, kind: str, inputs: list[int], shape: tuple[int, ...], **options: int) -> int:
        output = self.tensor(shape)
        self.ops.append(Op(len(self.ops), kind, tuple(inputs), (output,), options))
        return output

    def shape(self, number: int) -> tuple[int, ...]:
        return self.tensors[number].shape

    def conv(self, module: ConvNormAct | nn.Conv2d, x: int) -> int:
        conv = module.conv if isinstance(module, ConvNormAct) else module
        activation = FUSED[type(module.activation)] if isinstance(module, ConvNormAct) else 0
        depthwise = conv.groups > 1
        _, height, width, _ = self.shape(x)
        size = tuple(math.ceil(side / conv.stride[0]) for side in (height, width))
        spread = self.style.atrous == "space_to_batch" and conv.dilation != (1, 1)
        rate = (1, 1) if spread else conv.dilation
        source, padding = x, 0
        if spread:
            source, padding = self.space_to_batch(x, conv), 1
        elif conv.stride[0] > 1 and conv.padding_rule == "symmetric":
            source, padding = self.pad(x), 1
        inner = self.shape(source)
        shape = (*((inner[0], inner[1] - 2, inner[2] - 2) if spread else (1, *size)), conv.out_channels)
        out = self.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [source, self.weight(conv, depthwise), self.bias(conv)],
            shape,
            StrideH=conv.stride[0],
            StrideW=conv.stride[1],
            DilationHFactor=rate[0],
            DilationWFactor=rate[1],
            Padding=padding,
            FusedActivationFunction=0 if self.style.own_activation else activation,
            **({"DepthMultiplier": 1} if depthwise else {}),
        )
        if spread:
            out = self.batch_to_space(out, (1, height, width, conv.out_channels), conv.dilation)
        if self.style.own_activation and activation:
            out = self.op({1: "RELU", 3: "RELU6"}[activation], [out], self.shape(out))
        return out

    def weight(self, conv: nn.Conv2d, depthwise: bool) -> int:
        value = conv.weight.detach().numpy()
        value = np.ascontiguousarray(value.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        if self.style.weights == "float32":
            return self.tensor(value.shape, value)
        if self.style.weights == "float16":
            half = self.tensor(value.shape, value.astype(np.float16))
            return self.op("DEQUANTIZE", [half], value.shape)
        axis = 3 if depthwise else 0
        q = uint8_scale(value) if self.style.weights == "uint8" else int8_scales(value, axis)
        return self.tensor(value.shape, quantised(value, q, self.style.weights), q)

    def bias(self, conv: nn.Conv2d) -> int:
        value = conv.bias.detach().numpy()
        if self.style.weights in ("float32", "float16"):
            return self.tensor(value.shape, value)
        q = Quantisation(np.array([2.0**-20]), np.array([0]), 0)
        return self.tensor(value.shape, quantised(value, q, "int32"), q)

    def pad(self, x: int) -> int:
        _, height, width, channels = self.shape(x)
        pads = self.constant([[0, 0], [1, 1], [1, 1], [0, 0]])
        return self.op("PAD", [x, pads], (1, height + 2, width + 2, channels))

    def space_to_batch(self, x: int, conv: nn.Conv2d) -> int:
        _, height, width, channels = self.shape(x)
        rate = conv.dilation[0]
        ends = [rate + (-(side + 2 * rate)) % rate for side in (height, width)]
        self.crops = [[0, end - rate] for end in ends]
        pads = self.constant([[rate, end] for end in ends])
        sides = [(side + rate + end) // rate for side, end in zip((height, width), ends, strict=True)]
        block = self.constant([rate, rate])
        return self.op("SPACE_TO_BATCH_ND", [x, block, pads], (rate * rate, *sides, channels))

    def batch_to_space(self, x: int, shape: tuple[int, ...], rate: tuple[int, int]) -> int:
        return self.op("BATCH_TO_SPACE_ND", [x, self.constant(rate), self.constant(self.crops)], shape)

    def resize(self, x: int, size: tuple[int, int], rule: str) -> int:
        align, half = FLAGS[rule]
        shape = (1, *size, self.shape(x)[3])
        return self.op(
            "RESIZE_BILINEAR", [x, self.constant(size)], shape, AlignCorners=align, HalfPixelCenters=half
        )

    def concat(self, parts: list[int]) -> int:
        shape = (*self.shape(parts[0])[:3], sum(self.shape(part)[3] for part in parts))
        return self.op("CONCATENATION", parts, shape, Axis=3, FusedActivationFunction=0)

    def spatial(self, module: SeparableConv | ConvNormAct, x: int) -> int:
        if isinstance(module, SeparableConv):
            return self.conv(module.pointwise, self.conv(module.depthwise, x))
        return self.conv(module, x)


def uint8_scale(value: np.ndarray) -> Quantisation:
    """Asymmetric per-tensor quantisation whose range holds 0."""
    low, high = min(value.min(), 0.0), max(value.max(), 0.0)
    scale = float(np.float32((high - low) / 255))
    return Quantisation(np.array([scale]), np.array([round(-low / scale)]), 0)


def int8_scales(value: np.ndarray, axis: int) -> Quantisation:
    """Symmetric quantisation with a scale for each slice along `axis`."""
    largest = np.abs(np.moveaxis(value, axis, 0)).reshape(value.shape[axis], -1).max(1)
    scale = (largest / 127).astype(np.float32).astype(np.float64)
    return Quantisation(scale, np.zeros(len(scale), np.int64), axis)


def quantised(value: np.ndarray, q: Quantisation, dtype: str) -> np.ndarray:
    """`value` on the grid of `q`, clipped to the type."""
    along = [1] * value.ndim
    if len(q.scale) > 1:
        along[q.axis] = -1
    steps = np.round(value / q.scale.reshape(along)) + q.zero_point.reshape(along)
    limits = np.iinfo(dtype)
    return steps.clip(limits.min, limits.max).astype(dtype)


def graph_of(model: DeepLab, size: tuple[int, int], style: Style = Style()) -> Graph:
    """`model` (MobileNetV2, folded norms) for images of `size` as one graph."""
    writer = GraphWriter(style)
    source = writer.tensor((1, *size, 3))
    x, taps = _backbone(writer, model, _scaled(writer, source))
    x = _decoder(writer, model, _context(writer, model, x), taps, size)
    x = writer.conv(model.classifiers["semantic"].convs[0], x)
    x = writer.resize(x, size, model.config.resize)
    if style.labels:
        x = writer.op("ARG_MAX", [x, writer.constant(3)], (1, *size))
    return Graph(tuple(writer.tensors), tuple(writer.ops), (source,), (x,), "written by a test")


def _scaled(writer: GraphWriter, source: int) -> int:
    kind = writer.style.input
    if kind in ("uint8", "int8"):
        q = Quantisation(np.array([1 / 128]), np.array([128 if kind == "uint8" else 0]), 0)
        writer.tensors[source] = replace(writer.tensors[source], dtype=kind, quantisation=q)
    elif kind == "scaled":
        shape = writer.shape(source)
        factor = writer.constant([1 / 127.5], "float32")
        source = writer.op("MUL", [source, factor], shape, FusedActivationFunction=0)
        one = writer.constant(1.0, "float32")
        source = writer.op("SUB", [source, one], shape, FusedActivationFunction=0)
    return source


def _backbone(writer: GraphWriter, model: DeepLab, x: int) -> tuple[int, dict[int, int]]:
    taps = {}
    x = writer.conv(model.backbone.stem, x)
    for index, block in enumerate(model.backbone.blocks):
        hidden = x if isinstance(block.expand, nn.Identity) else writer.conv(block.expand, x)
        hidden = taps[index] = writer.conv(block.depthwise, hidden)
        out = writer.conv(block.project, hidden)
        x = writer.op("ADD", [out, x], writer.shape(x), FusedActivationFunction=0) if block.skip else out
    # decoder end points by stride: 3rd, 6th and 13th bottleneck (tf-reference 2.4)
    return x, {4: taps[2], 8: taps[5], 16: taps[12]}


def _context(writer: GraphWriter, model: DeepLab, x: int) -> int:
    if model.config.context.kind == "none":
        return x
    context, parts = model.context, []
    _, height, width, channels = writer.shape(x)
    if context.image_pooling is not None:
        window = {"FilterHeight": height, "FilterWidth": width, "StrideH": 1, "StrideW": 1}
        pooled = writer.op(
            "AVERAGE_POOL_2D", [x], (1, 1, 1, channels), **window, Padding=1, FusedActivationFunction=0
        )
        pooled = writer.conv(context.image_pooling.project, pooled)
        parts.append(writer.resize(pooled, (height, width), model.config.resize))
    parts.append(writer.conv(context.pointwise, x))
    parts += [writer.spatial(branch, x) for branch in context.atrous]
    if writer.style.reverse_concat:
        parts.reverse()
    joined = writer.concat(parts) if len(parts) > 1 else parts[0]
    return joined if context.projection is None else writer.conv(context.projection, joined)


def _decoder(
    writer: GraphWriter, model: DeepLab, x: int, taps: dict[int, int], image: tuple[int, int]
) -> int:
    if model.decoder is None:
        return x
    for stride, stage in zip(model.decoder.strides, model.decoder.stages, strict=True):
        size = tuple(math.ceil(side / stride) for side in image)
        up = writer.resize(x, size, model.config.resize)
        x = writer.concat([up, writer.conv(stage.project, taps[stride])])
        for module in stage.convs:
            x = writer.spatial(module, x)
    return x


def to_bytes(graph: Graph) -> bytes:
    """`graph` in the file format, little-endian flatbuffer with identifier TFL3."""
    builder = flatbuffers.Builder(1 << 16)
    kinds = sorted({op.kind for op in graph.ops})
    stored = [tensor for tensor in graph.tensors if tensor.data is not None]
    numbers = {id(tensor): number + 1 for number, tensor in enumerate(stored)}
    buffers = [_table(builder, "Buffer")]
    buffers += [
        _table(builder, "Buffer", Data=builder.CreateNumpyVector(_raw(tensor.data))) for tensor in stored
    ]
    tensors = [_tensor(builder, tensor, numbers.get(id(tensor), 0)) for tensor in graph.tensors]
    ops = [_op(builder, op, kinds.index(op.kind)) for op in graph.ops]
    subgraph = _table(
        builder,
        "SubGraph",
        Tensors=_vector(builder, tensors),
        Inputs=_int_vector(builder, graph.inputs),
        Outputs=_int_vector(builder, graph.outputs),
        Operators=_vector(builder, ops),
    )
    codes = [_code(builder, kind) for kind in kinds]
    model = _table(
        builder,
        "Model",
        Version=3,
        OperatorCodes=_vector(builder, codes),
        Subgraphs=_vector(builder, [subgraph]),
        Description=builder.CreateString(graph.description),
        Buffers=_vector(builder, buffers),
    )
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())


def _raw(data: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)


def _table(builder: flatbuffers.Builder, name: str, **fields: int) -> int:
    getattr(schema, f"{name}Start")(builder)
    for field_name, value in fields.items():
        getattr(schema, f"{name}Add{field_name}")(builder, value)
    return getattr(schema, f"{name}End")(builder)


def _vector(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _int_vector(builder: flatbuffers.Builder, values: tuple[int, ...]) -> int:
    return builder.CreateNumpyVector(np.asarray(values, np.int32))


def _tensor(builder: flatbuffers.Builder, tensor: Tensor, buffer: int) -> int:
    fields = {"Shape": _int_vector(builder, tensor.shape), "Name": builder.CreateString(tensor.name)}
    if tensor.quantisation:
        fields["Quantization"] = _table(
            builder,
            "QuantizationParameters",
            Scale=builder.CreateNumpyVector(tensor.quantisation.scale.astype(np.float32)),
            ZeroPoint=builder.CreateNumpyVector(tensor.quantisation.zero_point.astype(np.int64)),
            QuantizedDimension=tensor.quantisation.axis,
        )
    return _table(
        builder, "Tensor", Type=getattr(schema.TensorType, tensor.dtype.upper()), Buffer=buffer, **fields
    )


def _op(builder: flatbuffers.Builder, op: Op, code: int) -> int:
    fields = {"Inputs": _int_vector(builder, op.inputs), "Outputs": _int_vector(builder, op.outputs)}
    if op.kind in OPTION_TABLES:
        name = OPTION_TABLES[op.kind]
        fields["BuiltinOptions"] = _table(builder, name, **op.options)
        fields["BuiltinOptionsType"] = getattr(schema.BuiltinOptions, name)
    return _table(builder, "Operator", OpcodeIndex=code, **fields)


def _code(builder: flatbuffers.Builder, kind: str) -> int:
    code = getattr(schema.BuiltinOperator, kind)
    return _table(builder, "OperatorCode", BuiltinCode=code, DeprecatedBuiltinCode=min(code, 127))

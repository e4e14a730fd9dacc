"""From a checkpoint's variables to the reference's options: all that names and shapes can tell (fact 4.5).

What they cannot tell - rates, output stride, multi-grid, pooling windows, which sigmoid - is listed as open:
`tensorflow_facts` reads it off a graph, `tensorflow_published` knows it of published models, and otherwise
the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from deeplab.backbones.mobilenet_edgetpu import LAST as EDGETPU_LAST
from deeplab.config import DeepLabConfig
from deeplab.errors import UserError
from deeplab.importers.tensorflow.names import tensorflow_variables
from deeplab.model.network import DeepLab
from deeplab.presets.reference import VARIANTS, NotBuilt, config_from_options

Shapes = Mapping[str, tuple[int, ...]]

HEAD_SCOPES = ("image_pooling", "aspp", "concat_projection", "meta_architecture", "decoder", "logits")
RESNET = re.compile(r"resnet_v1_(18|50|101)")
XCEPTION = re.compile(r"xception_(41|65|71)")
# scope -> backbones of this package that use it
MOBILENETS: dict[str, tuple[str, ...]] = {
    "MobilenetV2": ("mobilenet_v2",),
    "MobilenetV3": (
        "mobilenet_v3_large_seg",
        "mobilenet_v3_small_seg",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
    ),
    "MobilenetEdgeTPU": ("mobilenet_edgetpu",),
}
WIDTHS = (1.0, 0.5, 0.75, 1.4, 0.35, 0.25, 1.3, 1.25)
DIVISORS = (None, 8, 4, 2, 16)
# channels at width 1 of a convolution behind the stem, for widths that are in no list
WIDTH_GAUGE = {
    "MobilenetV2": ("expanded_conv_16/project/weights", 320),
    "MobilenetV3": ("Conv/weights", 16),
    "MobilenetEdgeTPU": ("expanded_conv_21/project/weights", 192),
}
BACKBONE_OPTIONS = (
    "model_variant",
    "depth_multiplier",
    "divisible_by",
    "output_stride",
    "nas_architecture_options",
)
# scopes of classification networks beyond what DeepLab uses
CLASSIFIERS = (
    r"MobilenetV2/(Conv_1|Logits|Predictions)/.*",
    r"Mobilenet(V3|EdgeTPU)/(Conv_2|Logits|Predictions)/.*",
    r"(resnet_v1_\d+|xception_\d+|pnasnet|hnasnet)/(logits|Logits|final_layer|aux_\w+)/.*",
)


@dataclass
class Structure:
    """What the variables tell.

    Attributes:
        options: the reference's flags and their values.
        scope: of the backbone's variables.
        backbone: options of the backbone that the reference has no flag for, such as another name.
        low_level: stride -> channels of the backbone's end points.
        branches: atrous branches, whose rates are open.
        open: options that the variables cannot tell and that change results.
        new: parts of the model that the file does not hold: 'head' or 'classifier'.
    """

    options: dict[str, Any]
    scope: str
    backbone: dict[str, Any] = field(default_factory=dict)
    low_level: dict[int, int] = field(default_factory=dict)
    branches: int = 0
    open: set[str] = field(default_factory=set)
    new: str | None = None


def is_classifier(name: str) -> bool:
    """Whether a variable belongs to the classification network only."""
    return any(re.fullmatch(pattern, name) for pattern in CLASSIFIERS)


def infer(shapes: Shapes) -> Structure:
    """The model that has exactly these variables, as far as they tell.

    Raises:
        UserError: no backbone of the reference, or one of other widths, or a head of unknown make.
    """
    structure = _backbone(shapes)
    heads = {name: shape for name, shape in shapes.items() if name.startswith(HEAD_SCOPES)}
    if not heads:
        structure.new = "head"
        return structure
    _context(heads, structure)
    _decoder(heads, structure)
    _outputs(heads, structure)
    return structure


def _backbone(shapes: Shapes) -> Structure:
    scopes = {name.partition("/")[0] for name in shapes}
    for scope in sorted(scopes):
        if scope in MOBILENETS:
            return _mobilenet(shapes, scope)
        if RESNET.fullmatch(scope):
            beta = f"{scope}/conv1_1/weights" in shapes
            variant = f"{scope}_beta" if beta else scope
            structure = Structure({"model_variant": variant}, scope, open={"multi_grid"})
        elif XCEPTION.fullmatch(scope):
            structure = Structure({"model_variant": scope}, scope)
        elif scope in ("pnasnet", "hnasnet"):
            structure = _nas(shapes, scope)
        else:
            continue
        if "output_stride" not in structure.options:
            structure.open.add("output_stride")
        structure.low_level = _probe(structure).backbone.low_level_channels
        return structure
    raise UserError(
        f"no backbone of the reference among the scopes {', '.join(sorted(scopes)[:6])}; known: "
        f"{', '.join(MOBILENETS)}, resnet_v1_18/50/101, xception_41/65/71, pnasnet, hnasnet"
    )


def _mobilenet(shapes: Shapes, scope: str) -> Structure:
    known = {name: shape for name, shape in shapes.items() if name.startswith(f"{scope}/")}
    nearest: tuple[int, str] | None = None
    for structure in _mobilenets(shapes, scope):
        model = _probe(structure)
        ours = {item.name: item.shape for item in tensorflow_variables(model).values()}
        wrong = [
            name for name, shape in ours.items() if name.startswith(f"{scope}/") and known.get(name) != shape
        ]
        if not wrong:
            structure.low_level = model.backbone.low_level_channels
            return structure
        if nearest is None or len(wrong) < nearest[0]:
            width = structure.options["depth_multiplier"]
            nearest = (
                len(wrong),
                f"{structure.backbone.get('name') or structure.options['model_variant']} of width {width:g}, where "
                f"{wrong[0]} is {ours[wrong[0]]} and the file has {known.get(wrong[0], 'none')}",
            )
    assert nearest is not None
    raise UserError(f"{scope} has no width this package knows; the nearest is {nearest[1]}")


def _mobilenets(shapes: Shapes, scope: str) -> Iterator[Structure]:
    gauge, base = WIDTH_GAUGE[scope]
    seen = shapes.get(f"{scope}/{gauge}", (base,))[-1]
    for name in MOBILENETS[scope]:
        # the likeliest first: every candidate costs a model
        for width in sorted({*WIDTHS, seen / base}, key=lambda width: abs(width - seen / base)):
            for divisor in DIVISORS if scope == "MobilenetV2" else (None,):
                options = {"depth_multiplier": width, "divisible_by": divisor}
                variant = name if name in VARIANTS else f"{name}_seg"
                backbone: dict[str, Any] = {} if name in VARIANTS else {"name": name}
                if name == "mobilenet_edgetpu":
                    backbone = _last_channels(shapes, scope, width)
                yield Structure(
                    {"model_variant": variant, **options}, scope, backbone, open={"output_stride"}
                )


def _last_channels(shapes: Shapes, scope: str, width: float) -> dict[str, Any]:
    """The slim network, trained with slim's own definition, keeps the last convolution's 1280 channels."""
    last = shapes.get(f"{scope}/Conv_1/weights", (EDGETPU_LAST,))[-1]
    return {"last_channels": last} if width != 1.0 and last == EDGETPU_LAST else {}


def _nas(shapes: Shapes, scope: str) -> Structure:
    filters = [
        shapes[f"{scope}/cell_{cell}/1x1/weights"][-1]
        for cell in range(12)
        if f"{scope}/cell_{cell}/1x1/weights" in shapes
    ]
    if len(filters) != 12:
        raise UserError(f"{scope} has {len(filters)} cells; known: 12")
    headed = f"{scope}/classification_head_conv/weights" in shapes
    options: dict[str, Any] = {"model_variant": f"nas_{scope}"}
    if scope == "pnasnet":
        # its cells go down to their stride level by level, doubling their filters
        options["output_stride"] = 8 * max(filters) // min(filters)
    elif not headed:
        options["output_stride"] = 8
    options["nas_architecture_options"] = {
        "nas_stem_output_num_conv_filters": min(filters) // (2 if scope == "pnasnet" else 1),
        "nas_use_classification_head": headed,
        "nas_remove_os32_stride": False,
    }
    return Structure(options, scope)


def build_config(structure: Structure, options: Mapping[str, Any]) -> DeepLabConfig:
    """The config of `options`, with the backbone that `structure` found.

    Raises:
        UserError: options that do not go together.
    """
    try:
        config = config_from_options(options)
    except (NotBuilt, ValueError) as error:
        raise UserError(f"its options do not make a model: {error}") from None
    backbone = config.backbone.model_copy(update=structure.backbone)
    return config.model_copy(update={"backbone": backbone})


def bare_config(structure: Structure, **options: Any) -> DeepLabConfig:
    """The config of the backbone alone, with a classifier of one class on it."""
    bare = {"outputs_to_num_classes": {"semantic": 1}, "aspp_with_batch_norm": False, "output_stride": 16}
    known = {name: structure.options[name] for name in BACKBONE_OPTIONS if name in structure.options}
    return build_config(structure, {**bare, **known, **options})


def _probe(structure: Structure) -> DeepLab:
    """The model around the backbone alone, without memory for its weights."""
    with torch.device("meta"):
        return DeepLab(bare_config(structure))


def _context(heads: Shapes, structure: Structure) -> None:
    options = structure.options
    cell = _cell(heads)
    if cell:
        options["dense_prediction_cell_config"] = cell
        structure.open.add("dense_prediction_cell_config")
        return
    options["aspp_with_batch_norm"] = "aspp0/weights" in heads
    options["add_image_level_feature"] = "image_pooling/weights" in heads
    if "aspp0/weights" not in heads:
        return
    gated = "image_pooling/biases" in heads
    options["aspp_convs_filters"] = heads["aspp0/weights"][-1]
    options["aspp_with_squeeze_and_excitation"] = gated
    options["aspp_with_concat_projection"] = "concat_projection/weights" in heads
    separable = _count(heads, "aspp{}_depthwise/depthwise_weights", first=1)
    structure.branches = separable or _count(heads, "aspp{}/weights", first=1)
    options["aspp_with_separable_conv"] = bool(separable) or not structure.branches
    if structure.branches:
        _open_rates(structure)
    if gated:
        structure.open |= {"image_se_uses_qsigmoid", "image_pooling_crop_size"}


def _cell(heads: Shapes) -> list[dict[str, Any]]:
    branches: list[dict[str, Any]] = []
    while True:
        scope = f"meta_architecture/branch{len(branches)}"
        spatial = heads.get(f"{scope}_depthwise/depthwise_weights")
        if spatial is None and f"{scope}/weights" not in heads:
            return branches
        branches.append({"op": "conv", "kernel": spatial[0] if spatial else 1, "input": -1})


def _count(heads: Shapes, name: str, *, first: int) -> int:
    count = 0
    while name.format(first + count) in heads:
        count += 1
    return count


def _decoder(heads: Shapes, structure: Structure) -> None:
    projections = []
    while (name := f"decoder/feature_projection0{_suffix(len(projections))}/weights") in heads:
        projections.append(heads[name])
    if not projections:
        return
    options = structure.options
    options["decoder_output_stride"] = _decoder_strides([shape[2] for shape in projections], structure)
    options["decoder_output_is_logits"] = "decoder/feature_projection0/biases" in heads
    # kernel of a stage's last convolution -> separable, sum merge
    kinds = {
        "decoder/decoder_conv1_pointwise/weights": (True, False),
        "decoder/decoder_conv0/decoder_conv0_2/weights": (False, False),
        "decoder/decoder_split_sep_conv0_pointwise/weights": (True, True),
        "decoder/decoder_conv0/weights": (False, True),
    }
    last = next((name for name in kinds if name in heads), None)
    if last is None:
        raise UserError("the decoder has no convolutions of the reference's make (decoder/decoder_conv...)")
    options["decoder_filters"] = heads[last][-1]
    separable, options["decoder_use_sum_merge"] = kinds[last]
    # logits are made by plain convolutions whatever the flag says
    options["decoder_use_separable_conv"] = separable or options["decoder_output_is_logits"]


def _decoder_strides(channels: list[int], structure: Structure) -> list[int]:
    fitting: list[list[int]] = [[]]
    for count in channels:
        strides = [stride for stride, width in structure.low_level.items() if width == count]
        fitting = [[*done, stride] for done in fitting for stride in strides if not done or stride < done[-1]]
    if not fitting:
        raise UserError(
            f"the decoder reads features of {channels} channels, the backbone has {structure.low_level} "
            "(stride: channels)"
        )
    if len(fitting) > 1:
        structure.open.add("decoder_output_stride")
    return fitting[0]


def _outputs(heads: Shapes, structure: Structure) -> None:
    options = structure.options
    classes: dict[str, int] = {}
    for name, shape in heads.items():
        match = re.fullmatch(r"logits/(\w+)/weights", name)
        if match:
            classes[match[1]] = shape[-1]
            options["logits_kernel_size"] = shape[0]
    if options.get("decoder_output_is_logits"):
        classes = {"semantic": options["decoder_filters"]}
    if not classes:
        structure.new = "classifier"
        return
    later = {f"{name}_{index}" for name in classes for index in range(1, 10)} & classes.keys()
    outputs = {name: count for name, count in classes.items() if name not in later}
    if "semantic" not in outputs:
        raise UserError(f"outputs {', '.join(outputs)}; one of them must be called semantic")
    options["outputs_to_num_classes"] = outputs
    if not options.get("aspp_with_batch_norm", True):
        branches = 1 + len(later) // len(outputs)
        if branches > 1 or options["logits_kernel_size"] > 1:
            structure.branches = branches
            _open_rates(structure)


def _open_rates(structure: Structure) -> None:
    structure.open.add("atrous_rates")
    if "output_stride" not in structure.options:
        structure.open.add("output_stride")


def _suffix(stage: int) -> str:
    return f"_{stage}" if stage else ""

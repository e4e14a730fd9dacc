"""The one description of a model: typed, validated, serialisable, and small enough to read.

Everything that makes imported weights right or wrong is a field here: the padding rule, the resize rule,
both batch-norm epsilons, pixel normalisation. Named sets of values are in `deeplab.presets`.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deeplab.config_errors import explain_validation
from deeplab.errors import UserError

BackboneName = Literal[
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_large_seg",
    "mobilenet_v3_small",
    "mobilenet_v3_small_seg",
    "mobilenet_edgetpu",
    "resnet18",
    "resnet18_beta",
    "resnet34",
    "resnet50",
    "resnet50_beta",
    "resnet101",
    "resnet101_beta",
    "resnet152",
    "vgg16",
    "xception",
    "xception41",
    "xception65",
    "xception71",
    "pnasnet",
    "hnasnet",
]
Padding = Literal["same", "symmetric", "caffe", "block"]
StrideUnit = Literal["last", "first", "first_1x1"]
RateGrowth = Literal["next_unit", "unit", "next_stage"]
ResizeRule = Literal["align_corners", "half_pixel", "legacy"]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0)]
Channels3 = tuple[float, float, float]
ConfigT = TypeVar("ConfigT", bound=BaseModel)
# options of a context head that a dense prediction cell has no use for
ASPP_ONLY = ("rates", "kernel", "separable", "image_pooling", "image_pooling_stride", "gate", "projection")
ASPP_ONLY += ("projection_kernel", "refine")


class Strict(BaseModel):
    """Immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NormConfig(Strict):
    """Batch norm: eps on the variance; momentum is PyTorch's, 1 - TensorFlow's decay (fact 2.1)."""

    eps: Fraction = 1e-5
    momentum: Annotated[float, Field(ge=0, le=1)] = 3e-4


class NASConfig(Strict):
    """The cells of pnasnet and hnasnet (reference fact 2.9).

    filters: of a cell at stride 4, doubled at each level below; 20, 32, 48 are Auto-DeepLab-S, M, L.
    stride: of the last cell; pnasnet's widths follow from it, hnasnet ends at 8. classification_head goes
    on to 2048 channels, and at output strides up to 32. remove_os32_stride: cells of stride 32 stay at 16, where
    pnasnet then ends. drop_path_keep: chance that a path of the last cell survives at the end of training; earlier
    in the network and in training it is nearer to 1.
    """

    filters: Positive = 20
    stride: Literal[8, 16, 32] = 8
    classification_head: bool = False
    remove_os32_stride: bool = False
    drop_path_keep: Annotated[float, Field(gt=0, le=1)] = 1.0


class BackboneConfig(Strict):
    """The feature extractor.

    width and divisor belong to the MobileNets; multi_grid to the ResNets (rates of the units of block4,
    v3 section 3.2.1) and Xceptions (of the last module's convolutions), strides_at to the ResNets: which
    unit of a block has the stride, the last (reference), the first at its 3x3 (PyTorch's weights) or the first
    at its entry ('first_1x1', Caffe's). stem are the channels of three 3x3 convolutions in place of a ResNet's
    own stem. bounded belongs to the Xceptions, nas to pnasnet and hnasnet.

    padding 'same' is TensorFlow's; 'symmetric' PyTorch's; 'caffe' is that with poolings that round sizes up;
    'block' pads a MobileNetV2 block's input, before the expansion. Xception, pnasnet and hnasnet have their
    own (fact 2.3).

    cascade: further blocks like block4, up to three (block5 to block7 of v3 section 3.2), for the ResNets.

    'timm:<name>' is a backbone of the timm library (extra `timm`), with that library's strides and padding.

    rate_grows_at: where a unit loses its stride to a denser output, the higher rate begins at the 'next_unit'
    (fact 2.2, and torchvision), at that 'unit' itself (Caffe's v2, segmentation_models.pytorch), or at the
    'next_stage' (some MobileNetV2). For MobileNetV2: low_level_at, whether the decoder's end points are
    'inside' blocks, before their projection, or are their 'outputs'; last_conv, the classification network's
    1x1 convolution to 1280 channels. For MobileNet-EdgeTPU: last_channels of its last convolution, where they
    do not follow the width (the published slim network keeps 1280 at width 0.75).
    """

    name: str
    in_channels: Positive = 3
    width: Fraction = 1.0
    divisor: Positive | None = None
    multi_grid: tuple[Positive, ...] = ()
    cascade: Annotated[int, Field(ge=0, le=3)] = 0
    strides_at: StrideUnit = "last"
    rate_grows_at: RateGrowth = "next_unit"
    stem: tuple[Positive, Positive, Positive] | None = None
    padding: Padding = "same"
    low_level_at: Literal["inside", "outputs"] = "inside"
    last_conv: bool = False
    last_channels: Positive | None = None
    bounded: bool = False
    nas: NASConfig | None = None
    norm: NormConfig = NormConfig()

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        known = get_args(BackboneName)
        if value not in known and not (value.startswith("timm:") and value > "timm:"):
            near = difflib.get_close_matches(value, known, n=1) or [known[0]]
            allowed = ", ".join((*known, "timm:<name>"))
            raise ValueError(f"no such backbone; did you mean {near[0]!r}? allowed: {allowed}")
        return value

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.multi_grid and not self.name.startswith(("resnet", "xception")):
            raise ValueError(f"multi_grid goes with ResNets and Xceptions; leave it empty for {self.name}")
        if (self.bounded or self.multi_grid) and self.name == "xception":
            raise ValueError("bounded and multi_grid go with xception41, 65 and 71; xception has neither")
        if self.bounded and not self.name.startswith("xception"):
            raise ValueError(f"bounded goes with the Xceptions; {self.name} has no such variant")
        if (self.width != 1.0 or self.divisor) and not self.name.startswith("mobilenet"):
            raise ValueError(f"width and divisor go with the MobileNets; {self.name} has one width")
        return self

    @model_validator(mode="after")
    def _layout_fits(self) -> Self:
        # option: whether it is used, and the names it goes with (by how they begin)
        uses = {
            "strides_at 'first_1x1'": (
                self.strides_at == "first_1x1",
                ("resnet50", "resnet101", "resnet152"),
            ),
            "stem": (self.stem is not None, ("resnet",)),
            "cascade": (self.cascade > 0, ("resnet",)),
            "rate_grows_at 'unit'": (self.rate_grows_at == "unit", ("resnet", "mobilenet_v")),
            "rate_grows_at 'next_stage'": (self.rate_grows_at == "next_stage", ("mobilenet_v2",)),
            "padding 'caffe'": (self.padding == "caffe", ("resnet", "vgg")),
            "padding 'block'": (self.padding == "block", ("mobilenet_v2",)),
            "low_level_at 'outputs'": (self.low_level_at == "outputs", ("mobilenet_v2",)),
            "last_conv": (self.last_conv, ("mobilenet_v2",)),
            "last_channels": (self.last_channels is not None, ("mobilenet_edgetpu",)),
        }
        for option, (used, names) in uses.items():
            if used and not self.name.startswith(names):
                raise ValueError(f"{option} goes with {', '.join(names)}; {self.name} has no such variant")
        return self

    @model_validator(mode="after")
    def _cells_fit(self) -> Self:
        if self.nas and self.name not in ("pnasnet", "hnasnet"):
            raise ValueError(f"nas goes with pnasnet and hnasnet; {self.name} has no searched cells")
        if self.nas and self.name == "hnasnet" and self.nas.stride != 8:
            raise ValueError(f"hnasnet's last cell has stride 8; found {self.nas.stride}")
        if self.nas and self.nas.remove_os32_stride and self.name != "hnasnet" and self.nas.stride != 32:
            raise ValueError(
                f"remove_os32_stride goes with cells of stride 32, hnasnet's or pnasnet's of stride 32; found "
                f"stride {self.nas.stride}"
            )
        return self


class ConvBranch(Strict):
    """One convolution of a dense prediction cell (fact 3.3): 1x1, or atrous separable.

    input: -1 reads the features, other numbers an earlier branch. rate: vertical and horizontal, stated at
    output stride 16. kernel may also be written as two equal numbers.
    """

    op: Literal["conv"] = "conv"
    input: Annotated[int, Field(ge=-1)] = -1
    kernel: Positive = 3
    rate: tuple[Positive, Positive] = (1, 1)

    @field_validator("kernel", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        square = isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]
        return value[0] if square else value


class PyramidBranch(Strict):
    """Means over a grid of windows, in a dense prediction cell (fact 3.3).

    grid_size: rows and columns; the windows' sizes follow from it and from the image.
    """

    op: Literal["pyramid_pooling"] = "pyramid_pooling"
    input: Annotated[int, Field(ge=-1)] = -1
    grid_size: tuple[Positive, Positive]


class ContextConfig(Strict):
    """What looks around each position.

    kind 'aspp' is v3's and v3+'s; 'fc' is v1's fc6-fc7 (one rate: LargeFOV) and v2's four branches of it;
    'dpc' is a dense prediction cell of `branches`, each `channels` wide; 'none' passes the backbone's
    features on. `rates` hold at the model's native output stride.

    For 'aspp': `rates` may be empty (the light mobile models: image pooling and one 1x1 branch);
    `separable` branches (v3+); `image_pooling_crop` (height, width in pixels) fixes the pooling window to
    what such a crop would give, moved by `image_pooling_stride`, instead of the whole map; `gate` makes
    the pooled branch multiply instead of being concatenated (fact 3.2); `projection` is the convolution
    after the concatenation, 1x1 but in mmsegmentation (`projection_kernel`), and `refine` a 3x3 behind it, as
    in torchvision. For 'fc': `kernel` of fc6, and `smooth`, a 3x3 mean before it (released LargeFOV).
    """

    kind: Literal["aspp", "fc", "dpc", "none"] = "aspp"
    channels: Positive = 256
    rates: tuple[Positive, ...] = ()
    kernel: Positive = 3
    separable: bool = True
    image_pooling: bool = True
    image_pooling_crop: tuple[Positive, Positive] | None = None
    image_pooling_stride: tuple[Positive, Positive] = (1, 1)
    gate: Literal["sigmoid", "qsigmoid"] | None = None
    projection: bool = True
    projection_kernel: Literal[1, 3] = 1
    refine: bool = False
    smooth: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    branches: tuple[Annotated[ConvBranch | PyramidBranch, Field(discriminator="op")], ...] = ()

    @model_validator(mode="after")
    def _cell_fits(self) -> Self:
        if (self.kind == "dpc") != bool(self.branches):
            found = f"found {len(self.branches)} with kind {self.kind!r}"
            raise ValueError(f"branches go with kind 'dpc', which needs at least one; {found}")
        for index, branch in enumerate(self.branches):
            if branch.input >= index:
                raise ValueError(
                    f"branch {index} reads branch {branch.input}, which is not before it; "
                    f"input may be -1 (the features) to {index - 1}"
                )
        fields = type(self).model_fields
        given = [name for name in ASPP_ONLY if getattr(self, name) != fields[name].default]
        if self.branches and given:
            raise ValueError(f"kind 'dpc' has no {', '.join(given)}: its branches say everything")
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.kind == "fc" and not self.rates:
            raise ValueError("context kind 'fc' needs rates: (12,) for LargeFOV, (6, 12, 18, 24) for ASPP-L")
        if self.gate and not self.image_pooling:
            raise ValueError("a gate is made from the pooled image: set image_pooling to true")
        if self.gate and self.rates and not self.projection:
            raise ValueError(
                f"a gate has {self.channels} channels, {1 + len(self.rates)} branches side by side have more; "
                "fix: set projection to true, or leave rates empty"
            )
        if (self.refine or self.projection_kernel > 1) and not (self.projection and self.kind == "aspp"):
            raise ValueError("refine and projection_kernel go with the projection of kind 'aspp'")
        if self.smooth and self.kind != "fc":
            raise ValueError(f"smooth goes with kind 'fc'; found {self.kind!r}")
        return self


class DecoderConfig(Strict):
    """v3+'s decoder: refine with low-level features at each of `strides`, coarse to fine (fact 3.4).

    merge 'concat' reduces the low-level feature to `low_level_channels` and runs `convs` 3x3; 'sum' reduces it
    to `channels` and adds. With `output_is_logits` the last step gives the classes and there is no
    classifier; `channels` must then equal the number of classes.
    """

    strides: tuple[Literal[4, 8, 16], ...] = (4,)
    channels: Positive = 256
    low_level_channels: Positive = 48
    convs: Literal[1, 2] = 2
    separable: bool = True
    merge: Literal["concat", "sum"] = "concat"
    output_is_logits: bool = False

    @model_validator(mode="after")
    def _strides_descend(self) -> Self:
        if not self.strides or list(self.strides) != sorted(set(self.strides), reverse=True):
            raise ValueError(f"decoder strides must descend, like (16, 8, 4); found {self.strides}")
        if self.merge == "sum" and self.convs != 2:
            raise ValueError("convs goes with merge 'concat'; 'sum' always has one")
        return self


class PixelConfig(Strict):
    """Pixels 0..255 become (pixel - mean) / std, in the order of `channels`, inside the model."""

    mean: Channels3 = (127.5, 127.5, 127.5)
    std: Channels3 = (127.5, 127.5, 127.5)
    channels: Literal["rgb", "bgr"] = "rgb"


class DeepLabConfig(Strict):
    """A whole model.

    multi_scale_features: channels of each branch of v1's MSc, from the image and the first four poolings of
    vgg16, that join the context's features before the classifier (128 in the paper).
    output_stride: the native one, at which all rates are stated; a model may run at any other.
    num_classes: of the main output; `extra_outputs` adds classifiers on the same trunk, name -> classes.
    classifier_kernel / classifier_rates: one convolution per rate, summed (v2 ResNet: 3 and 6, 12, 18, 24).
    image_pyramid: scales whose logits are merged in every forward pass (v2's MSC), by max or mean.
    resize: rule of every bilinear resize; 'half_pixel' also scales sizes without keeping corners.
    depthwise_norm: whether norm and activation stand between the two steps of the heads' separable
    convolutions. folded: norms are folded into biases, as in mobile files.
    bounded: ReLU6 in the heads, for quantisation.
    """

    backbone: BackboneConfig
    context: ContextConfig = ContextConfig()
    decoder: DecoderConfig | None = None
    multi_scale_features: Positive | None = None
    num_classes: Positive
    extra_outputs: dict[str, Positive] = {}
    classifier_kernel: Positive = 1
    classifier_rates: tuple[Positive, ...] = ()
    output_stride: Literal[4, 8, 16, 32] = 16
    image_pyramid: tuple[Fraction, ...] = (1.0,)
    pyramid_merge: Literal["max", "mean"] = "max"
    head_norm: NormConfig = NormConfig()
    resize: ResizeRule = "align_corners"
    depthwise_norm: bool = True
    pixels: PixelConfig = PixelConfig()
    folded: bool = False
    bounded: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.backbone.name.startswith("xception") and self.backbone.bounded != self.bounded:
            raise ValueError(
                f"an Xception is bounded together with its heads; found bounded {self.bounded}, "
                f"backbone.bounded {self.backbone.bounded}: set both alike"
            )
        decoder = self.decoder
        if (
            decoder
            and decoder.output_is_logits
            and (decoder.channels != self.num_classes or self.extra_outputs)
        ):
            raise ValueError(
                f"a decoder whose output is the logits needs channels == num_classes and no extra outputs; "
                f"found channels {decoder.channels}, num_classes {self.num_classes}"
            )
        if self.multi_scale_features and (self.backbone.name != "vgg16" or decoder):
            raise ValueError(
                f"multi_scale_features goes with vgg16 and no decoder; found {self.backbone.name}"
                f"{' and a decoder' if decoder else ''}"
            )
        if "semantic" in self.extra_outputs:
            raise ValueError("'semantic' is the name of the main output; name extra outputs otherwise")
        if self.classifier_kernel > 1 and not self.classifier_rates:
            raise ValueError("classifier_kernel above 1 needs classifier_rates, one convolution per rate")
        return self

    @property
    def outputs(self) -> dict[str, int]:
        """Classes of every output; the main one is 'semantic'."""
        return {"semantic": self.num_classes, **self.extra_outputs}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `parse_config` reads them back to an equal config."""
        return self.model_dump(mode="json")


def parse_config(model: type[ConfigT], values: dict[str, Any], source: str) -> ConfigT:
    """Validate `values` read from `source`.

    Raises:
        UserError: names the source, each wrong key, the value found, and the nearest right key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(explain_validation(error, model, source)) from None

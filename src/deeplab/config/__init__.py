"""The one description of a model: typed, validated, serialisable, and small enough to read.

Everything that makes imported weights right or wrong is a field here: the padding rule, the resize rule,
both batch-norm epsilons, pixel normalisation. Named sets of values are in `deeplab.presets`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetPydanticSchema,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from deeplab.config.errors import explain_validation
from deeplab.errors import UserError
from deeplab.imaging.bands import HIGHEST, Bands, Values

Padding = Literal["same", "symmetric", "caffe", "block"]
StrideUnit = Literal["last", "first", "first_1x1"]
RateGrowth = Literal["next_unit", "unit", "next_stage"]
ResizeRule = Literal["align_corners", "half_pixel", "legacy"]
# numbers beyond what any network has are mistakes, or malice, and would be tried out with all memory
Positive = Annotated[int, Field(gt=0, le=1 << 30)]
Width = Annotated[int, Field(gt=0, le=1 << 16)]
Rates = Annotated[tuple[Width, ...], Field(max_length=64)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0)]
PerChannel = Annotated[tuple[float, ...], Field(min_length=1, max_length=1 << 16)]
RGB = ("red", "green", "blue")
ConfigT = TypeVar("ConfigT", bound=BaseModel)


def one_of(*values: int) -> GetPydanticSchema:
    """A number that comes from files too, so that it is not mypy that sees whether it is among `values`."""
    return GetPydanticSchema(lambda source, handler: core_schema.literal_schema(list(values)))


class Strict(BaseModel):
    """Immutable; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NormConfig(Strict):
    """Batch norm: eps on the variance; momentum is PyTorch's, 1 - TensorFlow's decay (fact 2.1)."""

    eps: Fraction = 1e-5
    momentum: Annotated[float, Field(ge=0, le=1)] = 3e-4


class NormedConfig(Strict):
    """What the backbones with batch norms share."""

    in_channels: Width = 3
    norm: NormConfig = NormConfig()


class MobileNetConfig(NormedConfig):
    """What the MobileNets share: channels times `width`, rounded to multiples of `divisor`.

    divisor: None is the reference's, 8; for MobileNetV2 at widths other than 1 it is 1 (facts 2.4 and 2.5).
    Their padding 'same' is TensorFlow's, 'symmetric' PyTorch's (fact 2.3).
    """

    width: Annotated[float, Field(gt=0, le=64)] = 1.0
    divisor: Width | None = None


class MobileNetV2Config(MobileNetConfig):
    """MobileNetV2.

    min_channels: of a layer; None is the reference's, 8 at width 1 and 1 at any other, whatever the divisor
    (fact 2.4). padding 'block' pads a block's input, before the expansion. rate_grows_at: where a unit loses
    its stride to a denser output, the higher rate begins at the 'next_unit' (fact 2.2), at that 'unit' itself
    (segmentation_models.pytorch), or at the 'next_stage'. low_level_at: the decoder's end points are 'inside'
    blocks, before their projection, or their 'outputs'. last_conv: the classification network's 1x1
    convolution to 1280 channels.
    """

    name: Literal["mobilenet_v2"] = "mobilenet_v2"
    min_channels: Width | None = None
    padding: Literal["same", "symmetric", "block"] = "same"
    rate_grows_at: RateGrowth = "next_unit"
    low_level_at: Literal["inside", "outputs"] = "inside"
    last_conv: bool = False


class MobileNetV3Config(MobileNetConfig):
    """MobileNetV3; rate_grows_at as MobileNetV2's."""

    name: Literal[
        "mobilenet_v3_large", "mobilenet_v3_large_seg", "mobilenet_v3_small", "mobilenet_v3_small_seg"
    ]
    padding: Literal["same", "symmetric"] = "same"
    rate_grows_at: Literal["next_unit", "unit"] = "next_unit"


class MobileNetEdgeTPUConfig(MobileNetConfig):
    """MobileNet-EdgeTPU.

    last_channels: of its last convolution, where they do not follow the width (the published slim network
    keeps 1280 at width 0.75).
    """

    name: Literal["mobilenet_edgetpu"] = "mobilenet_edgetpu"
    padding: Literal["same", "symmetric"] = "same"
    last_channels: Width | None = None


class ResNetConfig(NormedConfig):
    """What the ResNets share.

    multi_grid: rates of the units of block4 (v3 section 3.2.1). cascade: further blocks like block4, up to
    three (block5 to block7 of v3 section 3.2). rate_grows_at: 'next_unit' is the reference's and torchvision's,
    'unit' Caffe's v2 and segmentation_models.pytorch's. stem: channels of three 3x3 convolutions in place of the
    ResNet's own. padding: 'caffe' is 'symmetric' with poolings that round sizes up.
    """

    multi_grid: Rates = ()
    cascade: Annotated[int, Field(ge=0, le=3)] = 0
    rate_grows_at: Literal["next_unit", "unit"] = "next_unit"
    stem: tuple[Width, Width, Width] | None = None
    padding: Literal["same", "symmetric", "caffe"] = "same"


class BasicResNetConfig(ResNetConfig):
    """ResNets of two-convolution units; the last of a block has the stride (reference), or PyTorch's first."""

    name: Literal["resnet18", "resnet18_beta", "resnet34"]
    strides_at: Literal["last", "first"] = "last"


class BottleneckResNetConfig(ResNetConfig):
    """ResNets of bottlenecks; the first unit's stride is at its 3x3, or 'first_1x1' at its entry (Caffe's)."""

    name: Literal["resnet50", "resnet50_beta", "resnet101", "resnet101_beta", "resnet152"]
    strides_at: StrideUnit = "last"


class VGG16Config(Strict):
    """VGG-16; it has no norm. padding: 'caffe' is 'symmetric' with poolings that round sizes up."""

    name: Literal["vgg16"] = "vgg16"
    in_channels: Width = 3
    padding: Literal["same", "symmetric", "caffe"] = "same"


class OriginalXceptionConfig(NormedConfig):
    """The original Xception, of Keras Applications."""

    name: Literal["xception"] = "xception"


class XceptionConfig(NormedConfig):
    """The aligned Xceptions, with their own padding (fact 2.3); bounded where the model is.

    multi_grid: rates of the last module's three convolutions.
    """

    name: Literal["xception41", "xception65", "xception71"]
    multi_grid: Rates = ()


class NASConfig(NormedConfig):
    """What the searched networks share (reference fact 2.9).

    filters: of a cell at stride 4, doubled at each level below; 20, 32, 48 are Auto-DeepLab-S, M, L.
    classification_head goes on to 2048 channels, and at output strides up to 32. remove_os32_stride: cells of
    stride 32 stay at 16. drop_path_keep: chance that a path of the last cell survives at the end of training;
    earlier in the network and in training it is nearer to 1.
    """

    filters: Width = 20
    classification_head: bool = False
    remove_os32_stride: bool = False
    drop_path_keep: Annotated[float, Field(gt=0, le=1)] = 1.0


class PNASNetConfig(NASConfig):
    """PNASNet; stride is that of its last cell, and all widths follow from it."""

    name: Literal["pnasnet"] = "pnasnet"
    stride: Literal[8, 16, 32] = 8

    @model_validator(mode="after")
    def _has_stride_32(self) -> Self:
        if self.remove_os32_stride and self.stride != 32:
            raise ValueError(f"remove_os32_stride needs cells of stride 32; found stride {self.stride}")
        return self


class HNASNetConfig(NASConfig):
    """Auto-DeepLab's network, whose last cell has stride 8."""

    name: Literal["hnasnet"] = "hnasnet"
    stride: ClassVar[int] = 8


class TimmConfig(Strict):
    """A backbone of the timm library (extra `timm`), 'timm:<name>', with its strides, padding and norms."""

    name: Annotated[str, Field(pattern="^timm:.+", examples=["timm:<name>"])]
    in_channels: Width = 3


OwnBackboneConfig = Annotated[
    MobileNetV2Config
    | MobileNetV3Config
    | MobileNetEdgeTPUConfig
    | BasicResNetConfig
    | BottleneckResNetConfig
    | VGG16Config
    | OriginalXceptionConfig
    | XceptionConfig
    | PNASNetConfig
    | HNASNetConfig,
    Field(discriminator="name"),
]


def _from_timm(backbone: Any) -> str:
    name = backbone.get("name") if isinstance(backbone, dict) else getattr(backbone, "name", "")
    return "timm" if str(name).startswith("timm:") else "own"


# told apart by `name`
BackboneConfig = Annotated[
    Annotated[OwnBackboneConfig, Tag("own")] | Annotated[TimmConfig, Tag("timm")], Discriminator(_from_timm)
]


def backbone_config(name: str, **options: Any) -> BackboneConfig:
    """The config of the family that has this name; raises ValidationError for what that family has not."""
    found: BackboneConfig = TypeAdapter(BackboneConfig).validate_python({"name": name, **options})
    return found


class ConvBranch(Strict):
    """One convolution of a dense prediction cell (fact 3.3): 1x1, or atrous separable.

    input: -1 reads the features, other numbers an earlier branch. rate: vertical and horizontal, stated at
    output stride 16. kernel may also be written as two equal numbers.
    """

    op: Literal["conv"] = "conv"
    input: Annotated[int, Field(ge=-1)] = -1
    kernel: Width = 3
    rate: tuple[Width, Width] = (1, 1)

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
    grid_size: tuple[Width, Width]


class NoContextConfig(Strict):
    """The backbone's features are passed on."""

    kind: Literal["none"] = "none"


class ASPPConfig(Strict):
    """v3's and v3+'s context.

    rates: at the model's native output stride; none make the light head of the mobile models, image pooling and
    one 1x1 branch. `separable` branches are v3+'s. `image_pooling_crop` (height, width in pixels) fixes the
    pooling window to what such a crop would give, moved by `image_pooling_stride`, instead of the whole map;
    `gate` makes the pooled branch multiply instead of being concatenated (fact 3.2). `projection` is the
    convolution after the concatenation, 1x1 but in mmsegmentation (`projection_kernel`), and `refine` a 3x3
    behind it, as in torchvision.
    """

    kind: Literal["aspp"] = "aspp"
    channels: Width = 256
    rates: Rates = ()
    separable: bool = True
    image_pooling: bool = True
    image_pooling_crop: tuple[Width, Width] | None = None
    image_pooling_stride: tuple[Width, Width] = (1, 1)
    gate: Literal["sigmoid", "qsigmoid"] | None = None
    projection: bool = True
    projection_kernel: Annotated[int, one_of(1, 3)] = 1
    refine: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gate and not self.image_pooling:
            raise ValueError("a gate is made from the pooled image: set image_pooling to true")
        if self.gate and self.rates and not self.projection:
            raise ValueError(
                f"a gate has {self.channels} channels, {1 + len(self.rates)} branches side by side have more; "
                "fix: set projection to true, or leave rates empty"
            )
        if (self.refine or self.projection_kernel > 1) and not self.projection:
            raise ValueError("refine and projection_kernel go with the projection: set projection to true")
        return self


class FullyConnectedConfig(Strict):
    """v1's fc6-fc7 (one rate: LargeFOV), or v2's four branches of it.

    rates: of each fc6, at the model's native output stride: (12,) is LargeFOV, (6, 12, 18, 24) ASPP-L. kernel:
    of fc6. smooth: a 3x3 mean before it (released LargeFOV).
    """

    kind: Literal["fc"] = "fc"
    channels: Width = 256
    rates: Annotated[Rates, Field(min_length=1)]
    kernel: Width = 3
    smooth: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class DensePredictionCellConfig(Strict):
    """A dense prediction cell of `branches`, each `channels` wide; image_pooling_crop as in ASPP."""

    kind: Literal["dpc"] = "dpc"
    channels: Width = 256
    image_pooling_crop: tuple[Width, Width] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    branches: Annotated[
        tuple[Annotated[ConvBranch | PyramidBranch, Field(discriminator="op")], ...],
        Field(min_length=1, max_length=64),
    ]

    @model_validator(mode="after")
    def _branches_ascend(self) -> Self:
        for index, branch in enumerate(self.branches):
            if branch.input >= index:
                raise ValueError(
                    f"branch {index} reads branch {branch.input}, which is not before it; "
                    f"input may be -1 (the features) to {index - 1}"
                )
        return self


def _kind(context: Any) -> Any:
    # what looks around each position is ASPP unless another kind is asked for
    return context.get("kind", "aspp") if isinstance(context, dict) else getattr(context, "kind", None)


# told apart by `kind`
ContextConfig = Annotated[
    Annotated[ASPPConfig, Tag("aspp")]
    | Annotated[FullyConnectedConfig, Tag("fc")]
    | Annotated[DensePredictionCellConfig, Tag("dpc")]
    | Annotated[NoContextConfig, Tag("none")],
    Discriminator(_kind),
]


class DecoderConfig(Strict):
    """v3+'s decoder: refine with low-level features at each of `strides`, coarse to fine (fact 3.4).

    merge 'concat' reduces the low-level feature to `low_level_channels` and runs `convs` 3x3; 'sum' reduces it
    to `channels` and adds. With `output_is_logits` the last step gives the classes and there is no
    classifier; `channels` must then equal the number of classes.
    """

    strides: tuple[Annotated[int, one_of(4, 8, 16)], ...] = (4,)
    channels: Width = 256
    low_level_channels: Width = 48
    convs: Annotated[int, one_of(1, 2)] = 2
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
    """What a photo's values are; inside the model each becomes (value - mean) / std of its channel.

    channels: of photos that are made 8-bit RGB, whatever they are, the order in which the network takes them.
    bands: in place of that, names of all the bands of a photo in its file's order, each a channel as it is stored.
    values: what bands are stored as; float32 is also for signed 16 bits and other floats.
    range: lowest and highest value that bands may hold; None: any that `values` can.
    """

    mean: PerChannel = (127.5, 127.5, 127.5)
    std: PerChannel = (127.5, 127.5, 127.5)
    channels: Literal["rgb", "bgr"] = "rgb"
    bands: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=1 << 16)] = ()
    values: Values = "uint8"
    range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        names = self.names
        if len(self.mean) != len(names) or len(self.std) != len(names):
            raise ValueError(
                f"mean and std have {len(self.mean)} and {len(self.std)} values for the channels {', '.join(names)}; "
                "give one each, or name a photo's bands (pixels.bands); deeplab data check measures them"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}, and every channel's is above 0")
        if self.bands and not self.model_fields_set >= {"mean", "std"}:
            raise ValueError("bands go with a mean and std of their own: deeplab data check measures them")
        if len(set(names)) < len(names):
            raise ValueError(f"two bands have one name; found {', '.join(names)}")
        if self.bands and self.channels != "rgb":
            raise ValueError(
                "channels is the order of red, green and blue, and bands have an order of their own"
            )
        if not self.bands and (self.values != "uint8" or self.range):
            raise ValueError("values and range go with bands; photos without are made 8-bit RGB")
        if self.range and not self.range[0] < self.range[1] <= HIGHEST[self.values]:
            raise ValueError(
                f"range is {self.range}; it ascends, and {self.values} ends at {HIGHEST[self.values]:g}"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the channels, in the network's order."""
        return self.bands or (RGB if self.channels == "rgb" else RGB[::-1])

    def read_as(self) -> Bands | None:
        """How photos are read; None: as 8-bit RGB."""
        return Bands(self.bands, self.values, self.range) if self.bands else None

    def for_channels(self, count: int) -> PixelConfig:
        """The same for a network of so many channels that nothing names: those beyond have the others' average."""
        if count == len(self.names):
            return self
        mean, std = (
            (*values, *[sum(values) / len(values)] * count)[:count] for values in (self.mean, self.std)
        )
        return PixelConfig(mean=mean, std=std, bands=tuple(f"band {index + 1}" for index in range(count)))


class Architecture(Strict):
    """A whole model, whatever its classes are.

    multi_scale_features: channels of each branch of v1's MSc, from the image and the first four poolings of
    vgg16, that join the context's features before the classifier (128 in the paper).
    output_stride: the native one, at which all rates are stated; a model may run at any other.
    extra_outputs: further classifiers on the same trunk, name -> classes.
    classifier_kernel / classifier_rates: one convolution per rate, summed (v2 ResNet: 3 and 6, 12, 18, 24).
    image_pyramid: scales whose logits are merged in every forward pass (v2's MSC), by max or mean; a single one is the
    size at which the model looks at every photo.
    resize: rule of every bilinear resize; 'half_pixel' also scales sizes without keeping corners.
    depthwise_norm: whether norm and activation stand between the two steps of the heads' separable
    convolutions. folded: norms are folded into biases, as in mobile files.
    bounded: ReLU6 in the heads, and in an Xception, for quantisation.
    sigmoid: of two classes: the main classifier has one channel, the second class's, and the first one's logit is that
    of this threshold, so that the second class wins where its sigmoid is above it. With 0.5 their softmax is the
    sigmoid, and their cross-entropy the binary one.
    """

    backbone: BackboneConfig
    context: ContextConfig = ASPPConfig()
    decoder: DecoderConfig | None = None
    multi_scale_features: Width | None = None
    extra_outputs: Annotated[dict[str, Width], Field(max_length=64)] = {}
    classifier_kernel: Width = 1
    classifier_rates: Rates = ()
    output_stride: Annotated[int, one_of(4, 8, 16, 32)] = 16
    image_pyramid: Annotated[
        tuple[Annotated[float, Field(gt=0, le=64)], ...], Field(min_length=1, max_length=16)
    ] = (1.0,)
    pyramid_merge: Literal["max", "mean"] = "max"
    head_norm: NormConfig = NormConfig()
    resize: ResizeRule = "align_corners"
    depthwise_norm: bool = True
    pixels: PixelConfig = PixelConfig()
    folded: bool = False
    bounded: bool = False
    sigmoid: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        names, found = self.pixels.names, self.backbone.in_channels
        if found != len(names):
            raise ValueError(
                f"backbone.in_channels is {found}, and pixels has the {len(names)} channels {', '.join(names)}; set "
                f"backbone.in_channels to {len(names)}, or pixels.bands to the names of a photo's {found} bands, with "
                "their values, mean and std (deeplab data check writes both)"
            )
        return self


class DeepLabConfig(Architecture):
    """A whole model; num_classes: of the main output."""

    num_classes: Width

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
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
        if self.sigmoid is not None and (self.num_classes != 2 or (decoder and decoder.output_is_logits)):
            raise ValueError(
                f"sigmoid goes with two classes, background and the object, and a classifier; found num_classes "
                f"{self.num_classes}{', and a decoder whose output is the logits' if self.num_classes == 2 else ''}"
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

    @property
    def rates(self) -> tuple[int, ...]:
        """Atrous rates of the context or, where it has none, of the classifier."""
        own = self.context.rates if isinstance(self.context, ASPPConfig | FullyConnectedConfig) else ()
        return own or self.classifier_rates

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

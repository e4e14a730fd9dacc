"""The one description of a model: typed, validated, serialisable, and small enough to read.

Everything that makes imported weights right or wrong is a field here: the padding rule, the resize rule,
both batch-norm epsilons, pixel normalisation. Named sets of values are in `deeplab.presets`.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deeplab.errors import UserError

BackboneName = Literal[
    "mobilenet_v2", "resnet18", "resnet18_beta", "resnet50", "resnet50_beta", "resnet101", "resnet101_beta", "vgg16"
]
Padding = Literal["same", "symmetric"]
ResizeRule = Literal["align_corners", "half_pixel", "legacy"]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0)]
Channels3 = tuple[float, float, float]
ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Strict(BaseModel):
    """Immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NormConfig(Strict):
    """Batch norm: eps on the variance; momentum is PyTorch's, 1 - TensorFlow's decay (fact 2.1)."""

    eps: Fraction = 1e-5
    momentum: Annotated[float, Field(ge=0, le=1)] = 3e-4


class BackboneConfig(Strict):
    """The feature extractor.

    width and divisor belong to the MobileNets; multi_grid to the ResNets (rates of the units of block4,
    v3 section 3.2.1), strides_at too: which unit of a ResNet block has the stride, the last (reference) or
    the first (PyTorch's weights). padding 'same' is TensorFlow's; 'symmetric' PyTorch's.
    """

    name: BackboneName
    in_channels: Positive = 3
    width: Fraction = 1.0
    divisor: Positive | None = None
    multi_grid: tuple[Positive, ...] = ()
    strides_at: Literal["last", "first"] = "last"
    padding: Padding = "same"
    norm: NormConfig = NormConfig()

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.multi_grid and not self.name.startswith("resnet"):
            raise ValueError(f"multi_grid goes with the ResNets; {self.name} has no block4, leave it empty")
        if (self.width != 1.0 or self.divisor) and not self.name.startswith("mobilenet"):
            raise ValueError(f"width and divisor go with the MobileNets; {self.name} has one width")
        return self


class ContextConfig(Strict):
    """What looks around each position.

    kind 'aspp' is v3's and v3+'s; 'fc' is v1's fc6-fc7 (one rate: LargeFOV) and v2's four branches of it;
    'none' passes the backbone's features on. `rates` hold at the model's native output stride.

    For 'aspp': `rates` may be empty (the light mobile models: image pooling and one 1x1 branch);
    `separable` branches (v3+); `image_pooling_crop` (height, width in pixels) fixes the pooling window to
    what such a crop would give, moved by `image_pooling_stride`, instead of the whole map; `gate` makes
    the pooled branch multiply instead of being concatenated (fact 3.2); `projection` is the 1x1 after
    the concatenation. For 'fc': `kernel` of fc6.
    """

    kind: Literal["aspp", "fc", "none"] = "aspp"
    channels: Positive = 256
    rates: tuple[Positive, ...] = ()
    kernel: Positive = 3
    separable: bool = True
    image_pooling: bool = True
    image_pooling_crop: tuple[Positive, Positive] | None = None
    image_pooling_stride: tuple[Positive, Positive] = (1, 1)
    gate: Literal["sigmoid", "qsigmoid"] | None = None
    projection: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.kind == "fc" and not self.rates:
            raise ValueError("context kind 'fc' needs rates: (12,) for LargeFOV, (6, 12, 18, 24) for ASPP-L")
        if self.gate and not self.image_pooling:
            raise ValueError("a gate is made from the pooled image: set image_pooling to true")
        return self


class DecoderConfig(Strict):
    """v3+'s decoder: refine with low-level features at each of `strides`, coarse to fine (fact 3.4).

    merge 'concat' reduces the low-level feature to `low_level_channels` and runs two 3x3; 'sum' reduces it
    to `channels` and adds. With `output_is_logits` the last step gives the classes and there is no
    classifier; `channels` must then equal the number of classes.
    """

    strides: tuple[Literal[4, 8, 16], ...] = (4,)
    channels: Positive = 256
    low_level_channels: Positive = 48
    separable: bool = True
    merge: Literal["concat", "sum"] = "concat"
    output_is_logits: bool = False

    @model_validator(mode="after")
    def _strides_descend(self) -> Self:
        if not self.strides or list(self.strides) != sorted(set(self.strides), reverse=True):
            raise ValueError(f"decoder strides must descend, like (16, 8, 4); found {self.strides}")
        return self


class PixelConfig(Strict):
    """Pixels 0..255 become (pixel - mean) / std, in the order of `channels`, inside the model."""

    mean: Channels3 = (127.5, 127.5, 127.5)
    std: Channels3 = (127.5, 127.5, 127.5)
    channels: Literal["rgb", "bgr"] = "rgb"


class DeepLabConfig(Strict):
    """A whole model.

    output_stride: the native one, at which all rates are stated; a model may run at any other.
    num_classes: of the main output; `extra_outputs` adds classifiers on the same trunk, name -> classes.
    classifier_kernel / classifier_rates: one convolution per rate, summed (v2 ResNet: 3 and 6, 12, 18, 24).
    image_pyramid: scales whose logits are merged in every forward pass (v2's MSC), by max or mean.
    resize: rule of every bilinear resize. folded: norms are folded into biases, as in mobile files.
    bounded: ReLU6 in the heads, for quantisation.
    """

    backbone: BackboneConfig
    context: ContextConfig = ContextConfig()
    decoder: DecoderConfig | None = None
    num_classes: Positive
    extra_outputs: dict[str, Positive] = {}
    classifier_kernel: Positive = 1
    classifier_rates: tuple[Positive, ...] = ()
    output_stride: Literal[4, 8, 16, 32] = 16
    image_pyramid: tuple[Fraction, ...] = (1.0,)
    pyramid_merge: Literal["max", "mean"] = "max"
    head_norm: NormConfig = NormConfig()
    resize: ResizeRule = "align_corners"
    pixels: PixelConfig = PixelConfig()
    folded: bool = False
    bounded: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        decoder = self.decoder
        if decoder and decoder.output_is_logits and (decoder.channels != self.num_classes or self.extra_outputs):
            raise ValueError(
                f"a decoder whose output is the logits needs channels == num_classes and no extra outputs; "
                f"found channels {decoder.channels}, num_classes {self.num_classes}"
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


def explain_validation(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One line per mistake, with the key's path, the value found, and for typos the nearest key."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or model.__name__
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = _keys_beside(model, item["loc"])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            message = f"unknown key; {hint}"
        lines.append(f"{source}: {path} = {item['input']!r}: {message}")
    return "\n".join(lines)


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)

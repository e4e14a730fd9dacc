"""Heads under torchvision's names, which segmentation_models.pytorch and VainF share, and their options."""

from __future__ import annotations

import re

from deeplab.config import ASPPConfig, DecoderConfig
from deeplab.errors import UserError
from deeplab.importers.hints import Hints
from deeplab.importers.torch.layers import Layer, Weights, count, size, spatial_layers

Layers = dict[str, Layer]
CLASSIFIER = "classifiers.semantic.convs.0"
DETAIL = "decoder.stages.0"
# what a backbone without a head does not fill
NEW_HEAD = ("context.", "decoder.", "classifiers.")


def aspp(prefix: str, weights: Weights) -> Layers:
    """ASPP as convs.0 (1x1), convs.1 to 3 (atrous), convs.4 (pooling, their last), project."""
    convs = f"{prefix}convs"
    channels = size(weights, f"{convs}.0.0")
    last = count(weights, rf"{re.escape(convs)}\.(\d+)\.") - 1
    layers = {"context.pointwise": Layer(f"{convs}.0.0", f"{convs}.0.1")}
    for branch in range(last - 1):
        theirs = f"{convs}.{branch + 1}"
        layers |= spatial_layers(f"context.atrous.{branch}", f"{theirs}.0", f"{theirs}.1", weights)
    layers["context.image_pooling.project"] = Layer(f"{convs}.{last}.1", f"{convs}.{last}.2")
    layers["context.projection"] = Layer(f"{prefix}project.0", f"{prefix}project.1", roll=channels)
    return layers


def aspp_config(layers: Layers, weights: Weights, *, rates: tuple[int, ...], dropout: float) -> ASPPConfig:
    """The options that a head's `layers` imply; `rates` and `dropout` are the source's, files hold neither.

    Raises:
        UserError: another number of branches, or separable convolutions in only a part of the head.
    """
    branches = count(layers, r"context\.atrous\.(\d+)")
    if branches != len(rates):
        raise UserError(f"its ASPP has {branches} atrous branches; with rates {rates} it has {len(rates)}")
    if separable(layers, "context.refine") not in (None, separable(layers, "context.atrous.0")):
        raise UserError("separable convolutions in a part of the head only, which is not built here")
    return ASPPConfig(
        channels=size(weights, layers["context.pointwise"].conv),
        rates=rates,
        separable=bool(separable(layers, "context.atrous.0")),
        projection_kernel=size(weights, layers["context.projection"].conv, 2),
        refine=separable(layers, "context.refine") is not None,
        dropout=dropout,
    )


def stated(
    hints: Hints, *, rates: tuple[int, ...], output_stride: int, proportional: bool
) -> tuple[tuple[int, ...], int]:
    """Rates, and the output stride at which they hold: the user's, else the source's.

    Args:
        proportional: whether the source itself doubles its rates where it halves its output stride.
    """
    wanted = hints.output_stride or output_stride
    if proportional:
        rates = tuple(rate * output_stride // wanted for rate in rates)
    return hints.rates or rates, wanted


def decoder_config(layers: Layers, weights: Weights) -> DecoderConfig:
    """The options that a decoder's `layers` imply."""
    first = f"{DETAIL}.convs.0"
    last = layers.get(first) or layers[f"{first}.pointwise"]
    return DecoderConfig(
        channels=size(weights, last.conv),
        low_level_channels=size(weights, layers[f"{DETAIL}.project"].conv),
        convs=count(layers, rf"{re.escape(DETAIL)}\.convs\.(\d+)"),
        separable=bool(separable(layers, first)),
    )


def separable(layers: Layers, path: str) -> bool | None:
    """Whether a 3x3 of a head is separable; None if there is none at `path`."""
    if path in layers:
        return False
    return True if f"{path}.depthwise" in layers else None

"""Whether weights compute in one model what they computed in another.

Weights fit by name and shape; what they compute also follows from the config: padding, strides, epsilons,
pixels. A backbone that would compute something else with them loses its training silently, so it is refused.
A head is often changed on purpose, so its differences are only reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deeplab.config import DeepLabConfig
from deeplab.errors import UserError
from deeplab.layers.atrous import scale_rate
from deeplab.model.network import DeepLab
from deeplab.train.widening import reads_other_bands

# what a backbone may have otherwise and still compute the same with shared weights: how it is trained, what
# it reads and hands on, blocks behind; channels that a divisor rounds are compared as shapes
FREE = {
    "in_channels",
    "divisor",
    "min_channels",
    "cascade",
    "last_conv",
    "low_level_at",
    "norm.momentum",
    "drop_path_keep",
    "classification_head",
}
# rates are chosen anew for segmentation, as the output stride is (v3 section 3.2.1)
CHANNELS = ("divisor", "min_channels")
RATES = {"multi_grid"}
HEAD_FIELDS = {"context", "decoder", "classifier_rates", "head_norm", "resize", "depthwise_norm", "bounded"}
HEAD_FREE = {"context.dropout", "head_norm.momentum"}

Difference = tuple[str, Any, Any]


def refuse_other_backbone(model: DeepLab, other: DeepLab, source: str) -> None:
    """Check that `model`'s backbone computes with `other`'s weights what `other`'s does.

    The output stride, multi-grid rates, bands read, and parts behind the shared layers may differ.

    Raises:
        UserError: names `source`, each option with both values, and the fix.
    """
    free = FREE | RATES
    if other.config.folded or not any(key.endswith("running_var") for key in model.backbone.state_dict()):
        free = free | {"norm.eps"}
    pairs = _compare(_backbone(model.config), _backbone(other.config))
    wrong = [(f"backbone.{name}", *values) for name, *values in pairs if name not in free]
    # a first convolution for other bands is made anew, for normalised values
    compared = set() if reads_other_bands(model.config.pixels, other.config.pixels) else {"pixels"}
    if not other.config.folded:
        # norms that were folded away can be put back
        compared.add("folded")
    ours, theirs = (
        config.model_dump(mode="json", include=compared) for config in (model.config, other.config)
    )
    wrong += _compare(ours, theirs)
    wrong = wrong or _other_divisor(model, other)
    if wrong:
        listed = "; ".join(
            f"{name} is {json.dumps(here)} and the weights need {json.dumps(there)}"
            for name, here, there in wrong
        )
        raise UserError(
            f"{source} would compute something else in this model: {listed}",
            fix="give the recipe's model those values, or start from weights of a model like it",
        )


def differences(config: DeepLabConfig, other: DeepLabConfig, *, heads: bool) -> list[str]:
    """Allowed differences that change what `other`'s weights compute, a sentence each, with the fix.

    Args:
        heads: whether weights of the heads are taken over too.
    """
    pairs = _compare(_backbone(config), _backbone(other))
    found = [(f"backbone.{name}", *values) for name, *values in pairs if name in RATES]
    if heads:
        ours, theirs = (_heads(each, config.output_stride) for each in (config, other))
        found += [difference for difference in _compare(ours, theirs) if difference[0] not in HEAD_FREE]
    return [
        f"{name} is {json.dumps(here)}, the weights were trained with {json.dumps(there)}; "
        f"unless that is meant: {name}: {json.dumps(there)}"
        for name, here, there in found
    ]


def _backbone(config: DeepLabConfig) -> dict[str, Any]:
    return config.backbone.model_dump(mode="json")


def _heads(config: DeepLabConfig, output_stride: int) -> dict[str, Any]:
    """The heads' options, with rates as they are at `output_stride`."""
    values = config.model_dump(mode="json", include=HEAD_FIELDS)
    for part, name in ((values["context"], "rates"), (values, "classifier_rates")):
        part[name] = [
            scale_rate(rate, native=config.output_stride, output_stride=output_stride)
            for rate in part.get(name, ())
        ]
    return values


def _other_divisor(model: DeepLab, other: DeepLab) -> list[Difference]:
    """Divisors that round some layer's channels otherwise; other input channels change no first axis."""
    own, given = model.backbone.state_dict(), other.backbone.state_dict()
    if all(own[key].shape[:1] == value.shape[:1] for key, value in given.items() if key in own):
        return []
    ours, theirs = _backbone(model.config), _backbone(other.config)
    return [
        (f"backbone.{name}", ours.get(name), theirs.get(name))
        for name in CHANNELS
        if ours.get(name) != theirs.get(name)
    ]


def _compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    """Dotted name, value here and there of everything that differs; other families have other names."""
    for name in sorted(ours.keys() & theirs.keys()):
        here, there = ours[name], theirs[name]
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            for inner, *values in _compare(here, there):
                yield f"{name}.{inner}", *values
        elif here != there:
            yield name, here, there

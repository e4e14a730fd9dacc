"""What an import from TensorFlow found, in words for its report."""

from __future__ import annotations

from collections.abc import Mapping

from deeplab.config import (
    ASPPConfig,
    ContextConfig,
    DeepLabConfig,
    DensePredictionCellConfig,
    MobileNetConfig,
    NormedConfig,
    ResNetConfig,
    XceptionConfig,
)
from deeplab.importers.tensorflow.facts import Facts
from deeplab.importers.tensorflow.variables import Variables


def facts_in_words(config: DeepLabConfig, facts: Facts | None, origins: Mapping[str, str]) -> dict[str, str]:
    """Rows of the report; `origins` says of options where they come from, in words."""

    def origin(option: str) -> str:
        return f" ({origins[option]})" if option in origins else ""

    backbone = config.backbone
    rows = {"backbone": backbone.name, "classes": ", ".join(f"{k} {n}" for k, n in config.outputs.items())}
    if isinstance(backbone, MobileNetConfig):
        rows["width"] = f"{backbone.width:g}" + (f", divisor {backbone.divisor}" if backbone.divisor else "")
    rows["context"] = _context(config.context) + origin("dense_prediction_cell_config")
    if config.rates:
        rows["rates"] = ", ".join(map(str, config.rates)) + origin("atrous_rates")
    rows["output stride"] = f"{config.output_stride}{origin('output_stride')}"
    if isinstance(backbone, ResNetConfig | XceptionConfig) and backbone.multi_grid:
        rows["multi-grid"] = ", ".join(map(str, backbone.multi_grid)) + origin("multi_grid")
    context = config.context
    if isinstance(context, ASPPConfig | DensePredictionCellConfig) and context.image_pooling_crop:
        crop, stride = context.image_pooling_crop, (1, 1)
        if isinstance(context, ASPPConfig):
            stride = context.image_pooling_stride
        rows["image pooling"] = (
            f"windows of a crop of {crop[0]}x{crop[1]}, stride {stride[0]}x{stride[1]}"
            + origin("image_pooling_crop_size")
        )
    rows["decoder"] = _decoder(config) + origin("decoder_output_stride")
    own = f"eps {backbone.norm.eps:g} in the backbone, " if isinstance(backbone, NormedConfig) else ""
    rows["norms"] = f"{own}{config.head_norm.eps:g} in the head"
    rows["norms"] += " (from the graph)" if facts and facts.backbone_eps else " (the reference's)"
    return rows


def notes(variables: Variables, facts: Facts | None, classifier: int) -> list[str]:
    """What a user should know: entries that were left aside, averages, padding, quantisation."""
    found = []
    left = [f"{count} {kind}" for kind, count in variables.extras.items() if kind != "moving averages"]
    if classifier:
        left.append(f"{classifier} arrays of the classification network's last layers")
    if left:
        found.append(f"left aside: {', '.join(left)}")
    if variables.averaged:
        found.append(
            f"{variables.averaged} arrays are moving averages, which the published accuracy belongs to; the "
            "last training step's values are left aside"
        )
    if variables.step is not None:
        found.append(f"saved at training step {variables.step}")
    if "quantisation ranges" in variables.extras:
        found.append(
            "trained for 8 bits: this model has its weights in floating point, without the rounding of 8 bits"
        )
    if facts and facts.crop:
        height, width = facts.crop
        found.append(
            f"the graph pads photos to {height}x{width} with the mean pixel, and its image pooling sees the "
            "padding; this model takes photos as they are"
        )
    return found


def _context(context: ContextConfig) -> str:
    if context.kind == "dpc":
        return f"dense prediction cell of {len(context.branches)} branches"
    if context.kind != "aspp":
        return context.kind
    parts = ["image pooling"] if context.image_pooling and not context.gate else []
    parts += ["1x1"]
    parts += (
        [f"{len(context.rates)} {'separable ' if context.separable else ''}atrous"] if context.rates else []
    )
    text = f"{' + '.join(parts)}, {context.channels} channels"
    text += "" if context.projection else ", not projected"
    return f"{text}, gated by the image ({context.gate})" if context.gate else text


def _decoder(config: DeepLabConfig) -> str:
    decoder = config.decoder
    if decoder is None:
        return "none"
    kind = "separable" if decoder.separable and not decoder.output_is_logits else "plain"
    strides = ", ".join(map(str, decoder.strides))
    text = f"strides {strides}; {decoder.merge}, {kind}, {decoder.channels} channels"
    return f"{text}, gives the logits" if decoder.output_is_logits else text

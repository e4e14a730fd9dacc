"""What is known of the reference's published models and not stored in their checkpoints (fact 7).

A row applies to a file that has exactly the row's variables, up to the number of classes of its data set.
Used where no graph lies beside a checkpoint, and only for what the user did not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from deeplab.heads.dense_prediction_cell import CITYSCAPES_CELL

# PASCAL VOC, Cityscapes, ADE20K with its unlabelled class
DATA_SETS = (21, 19, 151)


class Row(NamedTuple):
    """Models called `title`; options they have `when`, and the `facts` about them."""

    title: str
    variants: tuple[str, ...]
    when: Mapping[str, Any]
    facts: Mapping[str, Any]


ROWS = (
    Row(
        "the zoo's Xception models",
        ("xception_41", "xception_65", "xception_71"),
        {"branches": 3, "decoder_output_stride": [4], "aspp_with_squeeze_and_excitation": False},
        {"atrous_rates": [6, 12, 18], "output_stride": 16},
    ),
    Row(
        "the zoo's Xception-71 with a dense prediction cell",
        ("xception_71",),
        {
            "decoder_output_stride": [4],
            "dense_prediction_cell_config": [
                {"op": "conv", "kernel": branch.kernel, "input": -1} for branch in CITYSCAPES_CELL
            ],
        },
        {
            "dense_prediction_cell_config": [branch.model_dump() for branch in CITYSCAPES_CELL],
            "output_stride": 16,
        },
    ),
    Row(
        "the zoo's MobileNetV3 models",
        ("mobilenet_v3_large_seg", "mobilenet_v3_small_seg"),
        {"branches": 0, "aspp_with_squeeze_and_excitation": True, "decoder_output_is_logits": True},
        {
            "output_stride": 32,
            "image_pooling_crop_size": [769, 769],
            "image_pooling_stride": [4, 5],
            "image_se_uses_qsigmoid": True,
        },
    ),
)


def published_facts(options: Mapping[str, Any], branches: int) -> tuple[Mapping[str, Any], str]:
    """Facts about the published model with these options, and its title; nothing and '' for any other."""
    known = {**options, "branches": branches}
    classes = options.get("outputs_to_num_classes", {}).get("semantic")
    for row in ROWS:
        fits = all(known.get(name) == value for name, value in row.when.items())
        if known["model_variant"] in row.variants and fits and classes in DATA_SETS:
            return row.facts, row.title
    return {}, ""

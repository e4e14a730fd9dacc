"""Named models: every row of the reference's model zoo and of the papers' main tables.

A preset says how a model is built and what was published about it. Numbers of parameters and multiply-adds
are not in it: `deeplab.model.cost` counts them.
"""

from __future__ import annotations

import difflib

from deeplab.config import DeepLabConfig
from deeplab.errors import UserError
from deeplab.presets.entry import Preset, Result
from deeplab.presets.papers import PAPER_PRESETS
from deeplab.presets.zoo import ZOO_PRESETS

__all__ = ["PRESETS", "Preset", "Result", "find_preset", "preset"]

PRESETS: dict[str, Preset] = {**ZOO_PRESETS, **PAPER_PRESETS}


def find_preset(name: str) -> Preset:
    """What is on record under `name`.

    Raises:
        UserError: no such preset; names the nearest ones.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "no name is near it;"
        raise UserError(f"no preset {name!r}; {hint} `deeplab models` lists all {len(PRESETS)}")
    return PRESETS[name]


def preset(name: str, num_classes: int | None = None) -> DeepLabConfig:
    """The config of a named model; `DeepLab(preset(name))` builds it with new weights.

    Args:
        num_classes: of the main output, in place of the published model's.

    Raises:
        UserError: no such preset.
    """
    config = find_preset(name).build()
    if num_classes is None:
        return config
    changed = {**config.to_json(), "num_classes": num_classes}
    if config.decoder and config.decoder.output_is_logits:
        changed["decoder"] = {**changed["decoder"], "channels": num_classes}
    return DeepLabConfig.model_validate(changed)

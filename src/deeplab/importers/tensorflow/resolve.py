"""Every option of an imported reference model, each from the best source there is.

In this order: what the variables say, what the graph says, what the user says, what is known of published
models, and the reference's default where it hardly matters. What is still open then is asked for, by flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeplab.errors import UserError
from deeplab.importers.hints import Hints, flag
from deeplab.importers.tensorflow.options import Structure
from deeplab.importers.tensorflow.published import published_facts
from deeplab.system.reading import foreign, parse_json, read_text

# hint -> option of the reference
OPTION_OF = {
    "rates": "atrous_rates",
    "output_stride": "output_stride",
    "multi_grid": "multi_grid",
    "decoder_strides": "decoder_output_stride",
    "pooling_crop": "image_pooling_crop_size",
    "pooling_stride": "image_pooling_stride",
    "gate": "image_se_uses_qsigmoid",
    "cell": "dense_prediction_cell_config",
}
# option -> how it is asked for
QUESTIONS = {
    "atrous_rates": "the rates of its {branches} atrous branches (such as --rates 6 12 18)",
    "output_stride": "the output stride they are stated at (such as --output-stride 16)",
    "multi_grid": "the multi-grid of the last block (--multi-grid 1 2 4, or 1 1 1 for none)",
    "decoder_output_stride": "the decoder's strides (such as --decoder-strides 4)",
    "image_se_uses_qsigmoid": "the gate's sigmoid (--gate qsigmoid or --gate sigmoid)",
    "dense_prediction_cell_config": "its dense prediction cell (--cell FILE.json)",
}
DEFAULT_OUTPUT_STRIDE = 16
CELL_KEYS = {"op", "input"}
# what makes no sense for a model without such a part
BELONGING = {"gate": "gate", "cell": "dense prediction cell", "decoder_strides": "decoder"}


def resolve(
    structure: Structure, graph: Mapping[str, Any] | None, hints: Hints
) -> tuple[dict[str, Any], dict[str, str]]:
    """All options, and for each that the variables do not tell, where it comes from, in words.

    Args:
        structure: from the variables.
        graph: from the graph; None if there is none.

    Raises:
        UserError: options that are still open, or hints that contradict the file.
    """
    known = graph or {}
    options = {**structure.options, **known}
    origins = dict.fromkeys(known, "from the graph")
    settled = structure.options.keys() - structure.open | known.keys()
    for hint, value in hints.given().items():
        name = OPTION_OF[hint]
        value = _option(hint, value)
        _check_hint(hint, value, name, options=options, settled=settled, structure=structure)
        options[name], origins[name] = value, "given"
    if graph is None:
        facts, title = published_facts(structure.options, structure.branches)
        for name, value in facts.items():
            if name not in origins:
                options[name], origins[name] = value, f"as in {title}"
    _assume(options, origins, structure)
    _ask(options, origins, structure, graph is not None)
    return options, origins


def _option(hint: str, value: Any) -> Any:
    if hint == "gate":
        return value == "qsigmoid"
    if hint == "cell":
        with foreign(value, "this is no JSON file", fix="give the JSON file of a dense prediction cell"):
            branches = parse_json(read_text(value))
        if not isinstance(branches, list) or not all(map(_is_branch, branches)):
            raise UserError(f"{value} is no dense prediction cell: a list of branches with 'op' and 'input'")
        return branches
    return list(value) if isinstance(value, tuple) else value


def _is_branch(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= CELL_KEYS


def _check_hint(
    hint: str, value: Any, name: str, *, options: dict[str, Any], settled: set[str], structure: Structure
) -> None:
    if hint in BELONGING and name not in structure.open and name not in structure.options:
        raise UserError(f"the file's model has no {BELONGING[hint]}: leave {flag(hint)} away")
    if name == "atrous_rates" and len(value) != structure.branches:
        raise UserError(
            f"{flag(hint)} has {len(value)} rates; the file has {structure.branches} atrous branches: "
            + ("give one rate each" if structure.branches else "leave it away")
        )
    if name in settled and options[name] != value:
        raise UserError(f"{flag(hint)} says {value}, the file says {options[name]}: leave {flag(hint)} away")


def _assume(options: dict[str, Any], origins: dict[str, str], structure: Structure) -> None:
    open_stride = "output_stride" in structure.open and "output_stride" not in origins
    if open_stride and not structure.branches:
        options["output_stride"] = DEFAULT_OUTPUT_STRIDE
        origins["output_stride"] = "assumed; the model runs at others too"


def _ask(options: dict[str, Any], origins: dict[str, str], structure: Structure, has_graph: bool) -> None:
    asked = [
        text.format(branches=structure.branches)
        for name, text in QUESTIONS.items()
        if name in structure.open and name not in origins
    ]
    if asked:
        more = "" if has_graph else "; or put the frozen graph of the same training beside it"
        raise UserError(f"the file does not say {'; nor '.join(asked)}. Say it on the command line{more}")

"""The reference's checkpoints and frozen graphs as models of this package (reference facts 4 and 7).

A checkpoint's variables say which network it is; a graph beside it, or the user, says the rest. Every
variable of the model must be in the file with its exact shape, and every layer's weights in the file must be
the model's; all else the file holds is counted in the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab.config import DeepLabConfig, NormedConfig
from deeplab.errors import UserError
from deeplab.imaging.palettes import VOC_CLASSES
from deeplab.importers.hints import Hints, flag
from deeplab.importers.new_head import NOTE, fill_except, new_head
from deeplab.importers.one_logit import with_background
from deeplab.importers.published import labels_for
from deeplab.importers.report import Imported, ImportReport
from deeplab.importers.tensorflow.bundle import is_index, read_bundle
from deeplab.importers.tensorflow.facts import Facts, facts_of
from deeplab.importers.tensorflow.graph import Graph, is_graph, read_graph, read_meta_graph
from deeplab.importers.tensorflow.layers import convolutions
from deeplab.importers.tensorflow.names import tensorflow_variables, to_torch_layout
from deeplab.importers.tensorflow.options import (
    Shapes,
    Structure,
    bare_config,
    build_config,
    infer,
    is_classifier,
)
from deeplab.importers.tensorflow.report import facts_in_words, notes
from deeplab.importers.tensorflow.resolve import resolve
from deeplab.importers.tensorflow.variables import (
    KERNELS,
    Variables,
    variables_of_bundle,
    variables_of_graph,
)
from deeplab.model.network import DeepLab
from deeplab.system.reading import sha256_of

HEAD_BYTES = 4096
SHOWN = 4
# the multi-grid that the published beta ResNets are to be used with (fact 1.1)
BETA_MULTI_GRID = (1, 2, 4)
# part that a file does not hold -> where its weights are in a model
NEW_PARTS = {None: (), "classifier": ("classifiers.",), "head": ("context.", "decoder.", "classifiers.")}


class Source(NamedTuple):
    """What is imported: variables, and the graph that computes with them, if there is one."""

    file: Path
    variables: Variables
    graph: Graph | None
    graph_name: str = ""


class Plan(NamedTuple):
    """The model to fill; `origins` says of options where they come from, `names` of its class names."""

    model: DeepLab
    origins: dict[str, str]
    names: str


def import_checkpoint(index: Path, hints: Hints) -> Imported:
    """The model in the checkpoint whose index is the file `index`.

    A graph in the same folder, or the checkpoint's .meta, is used if it computes with these variables.

    Raises:
        UserError: a damaged file, another network, or an option that neither file nor hints tell.
    """
    variables = variables_of_bundle(read_bundle(index), hints.weights)
    beside = sorted(path for path in index.parent.iterdir() if path.is_file() and is_graph(_head(path)))
    meta = index.with_suffix(".meta")
    graphs = [
        *((path, read_graph) for path in beside),
        *((path, read_meta_graph) for path in [meta] if meta.is_file()),
    ]
    fitting = _first_fitting(variables, ((path, read(path)) for path, read in graphs))
    if fitting is None:
        return _import(Source(index, variables, None), hints)
    return _import(Source(index, variables, fitting[1], fitting[0].name), hints)


def import_graph(path: Path, hints: Hints) -> Imported:
    """The model in the frozen graph at `path`.

    Raises:
        UserError: as `import_checkpoint`.
    """
    if hints.weights:
        raise UserError("a frozen graph has one set of weights: leave --weights away", file=path)
    graph = read_graph(path)
    return _import(Source(path, variables_of_graph(graph, str(path)), graph, path.name), hints)


def import_folder(folder: Path, hints: Hints) -> Imported:
    """The model in a folder, such as an unpacked archive of the zoo: its checkpoint, or else its graph.

    Raises:
        UserError: no checkpoint and no graph in it or below, several checkpoints, or as `import_checkpoint`.
    """
    indexes, graphs = _find(folder)
    if len(indexes) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in indexes[:SHOWN])
        raise UserError(f"holds {len(indexes)} checkpoints ({names}); give the one you mean", file=folder)
    if indexes:
        return import_checkpoint(indexes[0], hints)
    if graphs:
        return import_graph(graphs[0], hints)
    raise UserError("holds no TensorFlow checkpoint and no frozen graph", file=folder)


def holds_tensorflow(folder: Path) -> bool:
    """Whether a checkpoint or a graph lies in `folder` or below."""
    return any(_find(folder))


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    heads = {path: _head(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    indexes = [path for path, head in heads.items() if is_index(head)]
    return indexes, [path for path, head in heads.items() if is_graph(head)]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _first_fitting(variables: Variables, graphs: Iterable[tuple[Path, Graph]]) -> tuple[Path, Graph] | None:
    names = variables.shapes
    kernels = {name for name in names if name.rpartition("/")[2] in KERNELS and not is_classifier(name)}
    return next(((path, graph) for path, graph in graphs if kernels <= convolutions(graph).keys()), None)


def _import(source: Source, hints: Hints) -> Imported:
    try:
        return _read(source, hints)
    except UserError as error:
        raise error.within(source.file) from None


def _read(source: Source, hints: Hints) -> Imported:
    variables = source.variables
    shapes = {name: shape for name, shape in variables.shapes.items() if not is_classifier(name)}
    structure = infer(shapes)
    facts = facts_of(source.graph, structure) if source.graph and structure.new is None else None
    sha256 = sha256_of(source.file)
    model, origins, names = _plan(structure, facts, hints, sha256)
    new = NEW_PARTS[structure.new]
    wanted = {
        key: item for key, item in tensorflow_variables(model).items() if not (new and key.startswith(new))
    }
    _check({item.name: item.shape for item in wanted.values()}, shapes)
    arrays = {item.name: variables.read(item.name) for item in wanted.values()}
    weights = {key: to_torch_layout(arrays[item.name], item.name) for key, item in wanted.items()}
    config, binary = with_background(model.config, hints.threshold)
    if binary:
        labels, names = labels_for(config.num_classes, sha256)
        model = DeepLab(config, labels)
    kept = fill_except(model, weights, new=new, source=str(source.file))
    classifier = len(variables.shapes) - len(shapes)
    beside = source.graph if source.graph_name != source.file.name else None
    report = ImportReport(
        source=source.file.name,
        sha256=sha256,
        format=variables.format + (f", described by {source.graph_name}" if beside else ""),
        variables=len(arrays),
        parameters=len(weights),
        values=sum(value.numel() for value in weights.values()),
        facts=facts_in_words(model.config, facts, origins) | {"class names": names},
        notes=(
            *notes(variables, facts, classifier),
            *([_compared(beside, arrays)] if beside else []),
            *([NOTE] if new else []),
            *binary,
        ),
        unused=classifier + sum(variables.extras.values()),
        new=kept,
    )
    model.provenance = {"import": report.to_json()}
    return Imported(model.eval(), report)


def _plan(structure: Structure, facts: Facts | None, hints: Hints, sha256: str) -> Plan:
    if structure.new == "head":
        return _new_model(structure, hints)
    if structure.new == "classifier":
        structure.options["outputs_to_num_classes"] = {"semantic": len(VOC_CLASSES)}
    options, origins = resolve(structure, facts.options if facts else None, hints)
    config = _with_norms(build_config(structure, options), facts)
    labels, names = labels_for(config.num_classes, sha256)
    return Plan(DeepLab(config, labels), origins, names)


def _new_model(structure: Structure, hints: Hints) -> Plan:
    useless = [flag(name) for name in hints.of_structure() if name != "multi_grid"]
    if useless:
        raise UserError(f"the file holds a backbone and no head: leave {', '.join(useless)} away")
    beta = structure.options["model_variant"] in ("resnet_v1_50_beta", "resnet_v1_101_beta")
    grid = hints.multi_grid or (BETA_MULTI_GRID if beta else None)
    config = bare_config(structure, multi_grid=grid)
    try:
        model = new_head(config.backbone, pixels=config.pixels)
    except ValueError as error:
        raise UserError(f"no head is known for this backbone: {error}") from None
    origin = "given" if hints.multi_grid else "as its documentation says"
    return Plan(model, {"multi_grid": origin} if grid else {}, "PASCAL VOC's, for the new head")


def _with_norms(config: DeepLabConfig, facts: Facts | None) -> DeepLabConfig:
    if facts is None:
        return config
    update: dict[str, Any] = {"resize": facts.resize}
    backbone = config.backbone
    if facts.backbone_eps and isinstance(backbone, NormedConfig):
        norm = backbone.norm.model_copy(update={"eps": facts.backbone_eps})
        update["backbone"] = backbone.model_copy(update={"norm": norm})
    if facts.head_eps:
        update["head_norm"] = config.head_norm.model_copy(update={"eps": facts.head_eps})
    return config.model_copy(update=update)


def _check(ours: Shapes, theirs: Shapes) -> None:
    problems = [f"it lacks {name}" for name in ours if name not in theirs]
    problems += [f"{name} is in no layer of the model" for name in theirs if name not in ours]
    problems += [
        f"{name} is {theirs[name]}, in the model {shape}"
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    ]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"its variables are not those of the model they seem to be: {'; '.join(problems[:SHOWN])}{more}"
        )


def _compared(graph: Graph, arrays: Mapping[str, np.ndarray]) -> str:
    frozen = {name: graph.constant(name) for name in arrays}
    if all(value is None for value in frozen.values()):
        return "the graph beside the checkpoint is not frozen: its weights could not be compared"
    equal = sum(value is not None and np.array_equal(value, arrays[name]) for name, value in frozen.items())
    if equal == len(arrays):
        return f"all {equal} arrays equal those in the graph beside the checkpoint"
    return f"only {equal} of {len(arrays)} arrays equal those in the graph: the checkpoint's are used"

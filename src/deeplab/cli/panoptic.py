"""`deeplab panoptic`."""

from __future__ import annotations

import json
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from deeplab.cli.labelling import idle
from deeplab.errors import UserError
from deeplab.system.writing import write_whole

if TYPE_CHECKING:
    from deeplab.evaluation.panoptic.accumulator import Accumulator

NAMES = {"pq": "Panoptic Quality", "pc": "Parsing Covering"}


def panoptic(
    gt_json: Path,
    gt_folder: Path,
    pred_json: Path,
    pred_folder: Path,
    *,
    metric: Literal["pq", "pc"] = "pq",
    workers: int = 0,
    ignored_label: int = 0,
    max_instances: int = 256,
    normalize: Annotated[bool, Parameter(negative="--no-normalize")] = True,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Panoptic Quality or Parsing Covering of predictions in COCO's panoptic format, by class.

    Parameters
    ----------
    gt_json:
        The ground truth's JSON, with categories.
    gt_folder:
        Folder of its PNGs.
    pred_json:
        The predictions' JSON.
    pred_folder:
        Folder of its PNGs.
    metric:
        pq for Panoptic Quality, pc for Parsing Covering.
    workers:
        Processes; 0 for none besides this one, -1 for one on each processor. The result does not depend on it.
    ignored_label:
        Category id of void, and of crowds.
    max_instances:
        More than the segments of any category in a picture.
    normalize:
        Parsing Covering only: areas are shares of their picture.
    output:
        JSON to write. Default: beside the predictions' JSON, such as NAME.pq.json.
    """
    from deeplab.cli.tables import photo_progress, print_table
    from deeplab.evaluation.panoptic.coco import evaluate_files, read_files
    from deeplab.evaluation.panoptic.covering import ParsingCovering
    from deeplab.evaluation.panoptic.quality import PanopticQuality
    from deeplab.evaluation.panoptic.tables import scores, scores_table

    if metric == "pq" and not normalize:
        raise idle("--no-normalize", needs="--metric pc")
    output = pred_json.parent / f"{pred_json.stem}.{metric}.json" if output is None else output
    if realpath(output) in (realpath(gt_json), realpath(pred_json)):
        raise UserError(f"{output} is an input", fix="name another --output")
    truth, predictions = read_files(gt_json, gt_folder), read_files(pred_json, pred_folder)
    if not truth.categories:
        raise UserError(f'{gt_json} has no "categories"', fix="take the ground truth with its categories")
    options: dict[str, Any] = {"ignored_label": ignored_label, "max_instances_per_category": max_instances}
    measure: Accumulator
    if metric == "pq":
        measure = PanopticQuality(truth.num_categories(), **options)
    else:
        options["normalize_by_image_size"] = normalize
        measure = ParsingCovering(truth.num_categories(), **options)
    photos = len(truth.annotations)
    with photo_progress(photos, "comparing") as progress:
        evaluate_files(truth, predictions, measure=measure, workers=workers, on_picture=progress.advance)
    print_table(scores_table(measure, truth, title=f"{NAMES[metric]} of {pred_json.name}, {photos} photos"))
    report = {"metric": metric, "photos": photos, **options, **scores(measure, truth)}
    write_whole(output, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {output}")

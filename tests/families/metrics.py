"""Golden family k: mean IoU (fact 6.4) and panoptic measures (fact 6.9), after each image.

Differences are shares of 1; those of the panoptic sums by category are in the sums' own unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.evaluation.panoptic import PanopticQuality, ParsingCovering
from families.row import Judge, Row, only, said_as_json

TOLERANCE = 1e-6
NUMPY_TOLERANCE = 1e-12
MAPS = ("gt_category", "gt_instance", "pred_category", "pred_instance")
PANOPTIC_OPTIONS = {"num_categories", "ignored_label", "max_instances_per_category", "offset"}


def run_mean_iou(path: Path) -> Row:
    """Running mean IoU and IoU by class, and the confusion matrix at the end."""
    data, judge = np.load(path), Judge(path.stem)
    ignore_label = int(data["ignore_label"]) if "ignore_label" in data else 255
    confusion = ConfusionMatrix(int(data["num_classes"]), ignore_label=ignore_label)
    images = iter(zip(data["labels"], data["predictions"], strict=True))
    seen = 0
    for expected in said_as_json(data, "running"):
        while seen < expected["after_images"]:
            confusion.update(*next(images))
            seen += 1
        judge.close(f"mean IoU after {seen}", confusion.mean_iou(), expected["mean_iou"], absolute=TOLERANCE)
        per_class = np.array(expected["per_class_iou"], dtype=float)
        judge.close(f"IoU by class after {seen}", confusion.iou_per_class(), per_class, absolute=TOLERANCE)
    judge.equal("confusion", confusion.counts, data["confusion"])
    return judge.row()


def run_panoptic(path: Path) -> Row:
    """Panoptic quality and parsing covering, by image and as streams; covering also without normalisation."""
    data, judge = np.load(path), Judge(path.stem)
    config = said_as_json(data, "config")
    only(config, PANOPTIC_OPTIONS | {"is_thing", "normalize_by_image_size"})
    options = {key: config[key] for key in PANOPTIC_OPTIONS & set(config)}
    quality = PanopticQuality(**options)
    normed = ParsingCovering(**options)
    raw = ParsingCovering(**options, normalize_by_image_size=False)
    measures = {"pq": quality, "pc_norm": normed, "pc_raw": raw}
    images = zip(*(data[name] for name in MAPS), strict=True)
    for number, (maps, expected) in enumerate(
        zip(images, said_as_json(data, "running"), strict=True), start=1
    ):
        for name, measure in measures.items():
            what = f"{name} after {number}"
            judge.close(what, measure.compare_and_accumulate(*maps), expected[name], absolute=NUMPY_TOLERANCE)
            _judge_means(
                judge, what, measure.detailed_results(config.get("is_thing")), expected[f"{name}_detailed"]
            )
        for name, ours in _by_class(quality, normed, raw).items():
            judge.close(f"{name} after {number}", ours, expected[name], absolute=NUMPY_TOLERANCE)
    streamed = normed if config.get("normalize_by_image_size", True) else raw
    judge.close("streaming_pq", quality.streaming_values(), data["streaming_pq"], absolute=TOLERANCE)
    judge.close("streaming_pc", streamed.streaming_values(), data["streaming_pc"], absolute=TOLERANCE)
    return judge.row()


def _by_class(
    quality: PanopticQuality, normed: ParsingCovering, raw: ParsingCovering
) -> dict[str, np.ndarray]:
    return {
        "iou_per_class": quality.iou_per_class,
        "tp": quality.tp_per_class,
        "fn": quality.fn_per_class,
        "fp": quality.fp_per_class,
        "pq_per_class": quality.result_per_category(),
        "pc_norm_per_class": normed.result_per_category(),
        "pc_norm_weighted": normed.weighted_iou_per_class,
        "pc_norm_area": normed.gt_area_per_class,
        "pc_raw_per_class": raw.result_per_category(),
    }


def _judge_means(judge: Judge, what: str, ours: dict[str, Any], golden: dict[str, Any]) -> None:
    judge.equal(f"{what}: sets", sorted(ours), sorted(golden))
    for name in golden.keys() & ours.keys():
        judge.equal(f"{what}: names of {name}", sorted(ours[name]), sorted(golden[name]))
        for key in golden[name].keys() & ours[name].keys():
            judge.close(f"{what}: {name} {key}", ours[name][key], golden[name][key], absolute=NUMPY_TOLERANCE)

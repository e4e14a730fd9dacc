"""`deeplab eval`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from deeplab.cli.cluster import Cluster, measured_on_cluster
from deeplab.cli.labelling import ONE_PASS, USUAL, Passes, Runtime, idle, labelling, refuse_idle
from deeplab.cli.stored_data import RECOGNISED, StoredData
from deeplab.errors import UserError, refuse_outside

if TYPE_CHECKING:
    from deeplab.config.labels import LabelSpec
    from deeplab.data.dataset import SegmentationDataset
    from deeplab.evaluation.bootstrap import ImageCounts, Interval
    from deeplab.evaluation.boundaries import Boundaries
    from deeplab.evaluation.instance_iou import InstanceIoU
    from deeplab.evaluation.report.scores import Scores
    from deeplab.imaging.bands import Bands
    from deeplab.prediction.predictor import Predictor
    from deeplab.system.processes import World

ALONE = Cluster()
WORST = 12
INTERVALS = {"interval": "interval of mean IoU", "difference": "interval of the difference"}


def evaluate(
    root: Path,
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "animals",
    split: str = "val",
    stored: StoredData = RECOGNISED,
    passes: Passes = ONE_PASS,
    runtime: Runtime = USUAL,
    boundaries: Annotated[bool, Parameter(negative="")] = False,
    widths: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    edges: Literal["labels", "void"] | None = None,
    reliability: Annotated[bool, Parameter(negative="")] = False,
    bootstrap: int = 0,
    against: Path | None = None,
    worst: int | None = None,
    many: Cluster = ALONE,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Mean IoU of a model on a data set, at full resolution, by class.

    Classes that the model does not have count as its background, if it has one; else they are ignored.

    On several GPUs or machines: torchrun --nproc-per-node 4 -m deeplab eval ROOT -m MODEL --device cuda, or --cluster

    Parameters
    ----------
    root:
        The data set's folder.
    model:
        An embedded model's name, a folder made by train or import, a .safetensors file, or hf:owner/name.
    split:
        train, val, or another that the data set has.
    boundaries:
        Also mean IoU near the outlines (trimap), Boundary IoU and boundary F-score.
    widths:
        Of the trimap's bands, in pixels. Default: 1 2 3 5 10 20 40.
    edges:
        What the trimap's bands lie along: labels for every change of the label, the default, void for ignored pixels
        (as the papers' plots on VOC).
    reliability:
        Also the expected calibration error and the reliability diagram.
    bootstrap:
        Draw the photos this many times for a 95 % confidence interval of the mean IoU, such as 1000.
    against:
        Folder that eval -o wrote for another model on the same photos: also the interval of the difference.
    worst:
        Photos to show in the report. Default: 12.
    output:
        Folder for results.json, confusion.png, images.npz and report.html.
    """
    from deeplab.cluster.ray_engine import ray_for
    from deeplab.cluster.worker import ToMeasure
    from deeplab.data.first_look import look_at, warn_of_labels
    from deeplab.prediction.artefacts import open_predictor
    from deeplab.system.memory import keep_freed_memory
    from deeplab.system.processes import from_main, join_processes

    keep_freed_memory()
    how = labelling(runtime, passes)
    refuse_outside(0, 100_000, __bootstrap=bootstrap, __worst=worst or 0)
    if worst is not None and output is None:
        raise idle("--worst", needs="--output")
    if not boundaries and (widths or edges):
        raise idle("--widths", "--edges", needs="--boundaries")
    for width in widths:
        refuse_outside(1, 1000, __widths=width)
    if many.cluster is None:
        refuse_idle(many, "workers", needs="--cluster")
    else:
        ray_for(many.cluster, workers=many.workers, device=how.device)
    # the driver of a cluster only looks at the model
    with join_processes(how.device if many.cluster is None else "cpu") as world:
        if many.cluster is not None and world.size > 1:
            raise UserError("torchrun and --cluster both share the photos out", fix="leave one of them away")
        predictor = open_predictor(model, how, device=world.device)
        spec = predictor.labels
        dataset = open_labelled(root, split, stored, spec, predictor.network.config.pixels.read_as())
        from_main(lambda: warn_of_labels(dataset.source, look_at(dataset.source), split, scored=True), world)
        other = _counts_of(against, dataset, spec)
        shown = WORST if worst is None else worst
        scores = _zero(spec, worst=shown if output else 0, calibration=reliability)
        if boundaries:
            scores.boundaries = _zero_boundaries(spec, widths=widths, edges=edges or "labels")
        scores.instances = _zero_instances(dataset, spec)
        if many.cluster is None:
            scores = _measured(predictor, dataset, scores, world=world)
        else:
            scores = measured_on_cluster(ToMeasure(dataset, scores, model, how), many)
        if not world.is_main:
            return
    scores.confusion.require_labelled(f"{root}, split {split},")
    title = f"{model} on {split}, {len(dataset)} photos" + (f", CRF {how.crf}" if how.crf else "")
    intervals = _intervals(scores, other, resamples=bootstrap)
    _show(scores, spec, title=title, intervals=intervals)
    if output is not None:
        settings = {
            "model": model,
            "data": str(root),
            "split": split,
            "output stride": predictor.output_stride,
            "scales": how.scales,
            "flip": how.flip,
            "window": passes.window,
            "overlap": passes.overlap if passes.window else None,
            "seams": how.seams if passes.window else None,
            "engine": predictor.engine,
            "precision": how.precision,
            "threshold": how.threshold,
            "CRF": how.crf.model_dump() if how.crf else None,
        }
        _write(scores, spec, output, title=title, settings=settings, intervals=intervals)


def open_labelled(
    root: Path, split: str, stored: StoredData, spec: LabelSpec, bands: Bands | None = None
) -> SegmentationDataset:
    """A split whose masks show the model's classes; what becomes of others `stored` says, or a warning.

    Photos are read as `bands` says, as 8-bit RGB if it is None.

    Raises:
        UserError: the masks lack one of the model's classes, or other classes than the model's are to be kept.
    """
    from deeplab.data.dataset import SegmentationDataset
    from deeplab.data.first_look import NAMES_SHOWN
    from deeplab.data.selection import selected

    source = stored.whole(root, split, bands)
    known = spec.classes
    if not set(known) <= set(source.classes):
        raise UserError(
            f"the model's classes {', '.join(sorted(set(known) - set(source.classes)))} are not among the "
            "masks' classes; name those with --classes, in the masks' order"
        )
    if stored.keep and set(stored.keep) != set(known):
        raise UserError(
            f"--keep {' '.join(stored.keep)}: a model is measured on all of its classes, {', '.join(known)}",
            fix="leave it out; --other says what becomes of the masks' other classes",
        )
    other = stored.other or ("background" if "background" in known else "ignore")
    lacking = [name for name in source.classes if name not in known]
    if lacking and stored.other is None:
        more = ", ..." if len(lacking) > NAMES_SHOWN else ""
        effect = (
            "count as its background, --other ignore leaves them out"
            if other == "background"
            else "are ignored"
        )
        warnings.warn(
            f"the model lacks classes of the masks ({', '.join(lacking[:NAMES_SHOWN])}{more}), which {effect}",
            stacklevel=2,
        )
    return SegmentationDataset(selected(source, known, other=other))


def _counts_of(against: Path | None, dataset: SegmentationDataset, spec: LabelSpec) -> ImageCounts | None:
    if against is None:
        return None
    from deeplab.evaluation.report.files import read_counts

    names = [dataset.source.name(index) for index in range(len(dataset))]
    return read_counts(against, names=names, classes=spec.classes)


def _zero(spec: LabelSpec, *, worst: int, calibration: bool) -> Scores:
    from deeplab.evaluation.calibration import Calibration
    from deeplab.evaluation.report.scores import Scores
    from deeplab.evaluation.report.worst import Worst

    return Scores(
        len(spec.classes),
        ignore_label=spec.ignore_label,
        calibration=Calibration(ignore_label=spec.ignore_label) if calibration else None,
        worst=Worst(spec, keep=worst) if worst else None,
    )


def _zero_boundaries(
    spec: LabelSpec, *, widths: tuple[int, ...], edges: Literal["labels", "void"]
) -> Boundaries:
    from deeplab.evaluation.boundaries import WIDTHS, Boundaries

    return Boundaries(len(spec.classes), ignore_label=spec.ignore_label, widths=widths or WIDTHS, edges=edges)


def _zero_instances(dataset: SegmentationDataset, spec: LabelSpec) -> InstanceIoU | None:
    """None unless every mask has Cityscapes' instance ids beside it, and the model their classes."""
    from deeplab.evaluation.instance_iou import AVERAGE_SIZES, InstanceIoU, instance_file

    masks = (dataset.source.files(index)[1] for index in range(len(dataset)))
    if not set(AVERAGE_SIZES) <= set(spec.classes) or not all(map(instance_file, masks)):
        return None
    return InstanceIoU(spec.classes)


def _measured(predictor: Predictor, dataset: SegmentationDataset, scores: Scores, *, world: World) -> Scores:
    from deeplab.cli.tables import photo_progress
    from deeplab.evaluation.measuring import measure

    def run(on_photo: Callable[[], None]) -> Scores:
        return measure(predictor, dataset, scores, world=world, on_photo=on_photo)

    if not world.is_main:
        return run(lambda: None)
    with photo_progress(-(-len(dataset) // world.size), "evaluating") as progress:
        return run(progress.advance)


def _intervals(scores: Scores, other: ImageCounts | None, *, resamples: int) -> dict[str, Interval]:
    """By name: that of the mean IoU if asked for, and that of the difference to the other evaluation."""
    from deeplab.evaluation.bootstrap import difference_interval, mean_iou_interval

    found = {}
    if resamples:
        found["interval"] = mean_iou_interval(scores.images, resamples=resamples)
    if other is not None:
        found["difference"] = difference_interval(scores.images, other, resamples=resamples or 1000)
    return found


def _show(scores: Scores, spec: LabelSpec, *, title: str, intervals: dict[str, Interval]) -> None:
    from rich.table import Table

    from deeplab.cli.tables import print_scores, print_table

    print_scores(scores.confusion, spec.classes, title=title)
    rows = []
    for name, held in intervals.items():
        sign = "+" if name == "difference" else ""
        rows.append(
            (
                f"{100 * held.confidence:g} % {INTERVALS[name]}",
                f"{held.low:{sign}.4f} to {held.high:{sign}.4f}",
            )
        )
    if scores.boundaries is not None:
        trimap = scores.boundaries.trimap().items()
        rows += [(f"mean IoU within {width} px", f"{value:.4f}") for width, value in trimap]
        rows.append(("Boundary IoU", f"{scores.boundaries.mean_iou():.4f}"))
        rows.append(("boundary F-score", f"{scores.boundaries.mean_f():.4f}"))
    if scores.instances is not None:
        rows.append(("mean iIoU (instances)", f"{scores.instances.mean(scores.confusion):.4f}"))
    if scores.calibration is not None:
        rows.append(("expected calibration error", f"{scores.calibration.expected_error():.4f}"))
    if rows:
        table = Table("measure", "value")
        for row in rows:
            table.add_row(*row)
        print_table(table)


def _write(
    scores: Scores,
    spec: LabelSpec,
    folder: Path,
    *,
    title: str,
    settings: dict[str, Any],
    intervals: dict[str, Interval],
) -> None:
    from deeplab.evaluation.report.files import PAGE, write_report
    from deeplab.evaluation.report.summary import summarise

    report = summarise(scores, spec.classes, settings=settings, **intervals)
    write_report(scores, report, folder, classes=spec.classes, title=title)
    print(f"wrote {folder / PAGE}")

"""`deeplab eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deeplab.errors import UserError


def evaluate(
    root: Path,
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "animals",
    split: str = "val",
    layout: str = "auto",
    labels: str | None = None,
    classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    output_stride: int | None = None,
    scales: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (1.0,),
    flip: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
) -> None:
    """Mean IoU of a model on a data set, at full resolution, by class.

    Parameters
    ----------
    root:
        The data set's folder.
    model:
        An embedded model's name, a folder made by train or import, a .safetensors file, or a Hub id.
    split:
        train, val, or another that the data set has.
    layout:
        How the data are stored, such as voc, cityscapes, ade20k, coco. Default: recognised by content.
    labels:
        Folder of the masks, if not found by itself.
    classes:
        Names of the masks' classes, by index, if the data do not say. Classes that the model does not have count
        as its background, if it has one; else they are ignored.
    output_stride:
        4, 8, 16 or 32. Default: the model's own.
    scales:
        Sizes to average over, such as 0.75 1 1.25.
    flip:
        Also average over the mirrored photo.
    device:
        auto, cpu, cuda, cuda:1, mps.
    """
    from deeplab.allocator import keep_freed_memory
    from deeplab.cli.tables import photo_progress, print_scores
    from deeplab.data.dataset import SegmentationDataset
    from deeplab.data.opening import open_source, require_complete
    from deeplab.data.selection import select_classes
    from deeplab.evaluation import evaluate as run
    from deeplab.segmenter import Segmenter

    keep_freed_memory()
    network = Segmenter(model, output_stride=output_stride, device=device).model
    source = open_source(root, split, layout=layout, labels=labels, names=classes)
    require_complete(source, split)
    names = source.classes
    known = network.labels.classes
    if not set(known) <= set(names):
        raise UserError(
            f"the model's classes {', '.join(sorted(set(known) - set(names)))} are not among the masks' classes; "
            "name those with --classes, in the masks' order"
        )
    other = "background" if "background" in known else "ignore"
    table = select_classes(names, known, other=other)
    dataset = SegmentationDataset(source, label_map=table)
    samples = (dataset.load(index) for index in range(len(dataset)))
    with photo_progress(len(dataset), "evaluating") as progress:
        confusion = run(network, samples, scales=scales, flip=flip, on_photo=progress.advance)
    print_scores(confusion, known, title=f"{model} on {split}, {len(dataset)} photos")

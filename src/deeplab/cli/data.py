"""`deeplab data`: look at data sets, and bring them into other forms."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from deeplab.cli.stored_data import RECOGNISED, StoredData
from deeplab.cli.whole_numbers import ARGUMENTS, PARAMETERS
from deeplab.errors import refuse_outside

# the reference's
USUAL_SHARDS = 4

data = App(
    name="data",
    help="Check data sets, and bring them into other forms.",
    help_format="markdown",
    group_arguments=ARGUMENTS,
    group_parameters=PARAMETERS,
)
data.command(
    "deeplab.cli.data_check:check", name="check", help="Find what is wrong with a data set, before training."
)


@data.command
def sbd(sbd_folder: Path, voc_folder: Path) -> None:
    """Make VOC's training split train_aug (10,582 photos) from the Semantic Boundaries Dataset.

    Writes VOC_FOLDER/SegmentationClassAug and VOC_FOLDER/ImageSets/Segmentation/train_aug.txt.

    Parameters
    ----------
    sbd_folder:
        The unpacked benchmark.tgz.
    voc_folder:
        VOC2012, with JPEGImages, SegmentationClass and ImageSets.
    """
    from deeplab.cli.tables import photo_progress
    from deeplab.data.sbd import plan_train_aug, write_train_aug

    plan = plan_train_aug(sbd_folder, voc_folder)
    with photo_progress(len(plan.masks), "masks") as progress:
        write_train_aug(plan, on_mask=progress.advance)
    print(f"train_aug: {len(plan.listed)} photos; {len(plan.masks)} masks in SegmentationClassAug")


@data.command(name="cityscapes-export")
def cityscapes_export(predictions: Path, output: Path) -> None:
    """Turn predicted label maps (train ids) into what Cityscapes' test server takes (label ids).

    Parameters
    ----------
    predictions:
        Folder of label maps as `deeplab predict` writes them, named as the photos.
    output:
        Folder to zip and send.
    """
    from deeplab.data.layouts.cityscapes import export_predictions

    print(f"{export_predictions(predictions, output)} label maps in {output}")


@data.command
def convert(
    root: Path,
    output: Path,
    *,
    split: str = "train",
    stored: StoredData = RECOGNISED,
) -> None:
    """Write a split as a plain folder of photos and index masks, drawing annotations once and for all.

    Parameters
    ----------
    root:
        The data set's folder.
    output:
        Folder for images/SPLIT, masks/SPLIT and classes.txt.
    split:
        train, val, or another that the data set has.
    """
    from deeplab.cli.tables import photo_progress
    from deeplab.data.converting import write_plain

    source = stored.opened(root, split)
    with photo_progress(len(source), "samples") as progress:
        write_plain(source, output, split, on_sample=progress.advance)
    print(f"{len(source)} samples in {output}")


@data.command
def tfrecord(
    root: Path,
    output: Path,
    *,
    split: str = "train",
    stored: StoredData = RECOGNISED,
    shards: int | None = None,
) -> None:
    """Write a split as TFRecord shards in the reference's form; no TensorFlow needed.

    Parameters
    ----------
    root:
        The data set's folder.
    output:
        Folder for SPLIT-00000-of-00004.tfrecord, ... and classes.txt.
    split:
        train, val, or another that the data set has.
    shards:
        Number of files. Default: 4, of fewer samples one each.
    """
    from deeplab.cli.tables import photo_progress
    from deeplab.data.layouts.tfrecord import MOST_SHARDS, write_split

    if shards is not None:
        refuse_outside(1, MOST_SHARDS, __shards=shards)
    source = stored.opened(root, split)
    shards = shards or min(USUAL_SHARDS, len(source))
    with photo_progress(len(source), "samples") as progress:
        write_split(source, output, split, shards=shards, on_sample=progress.advance)
    print(f"{len(source)} samples in {shards} shards in {output}")


@data.command
def webdataset(
    root: Path,
    output: Path,
    *,
    split: str = "train",
    stored: StoredData = RECOGNISED,
    samples: int = 1000,
) -> None:
    """Write a split as WebDataset shards, to train from here or, once uploaded, from a server.

    For a server: upload the .tar files and put their addresses into SPLIT.json.

    Parameters
    ----------
    root:
        The data set's folder.
    output:
        Folder for SPLIT-000000.tar, ..., SPLIT.json and classes.txt.
    split:
        train, val, or another that the data set has.
    samples:
        In a shard.
    """
    from deeplab.cli.tables import photo_progress
    from deeplab.data.layouts.tar_shards import MOST_SAMPLES, write_shards

    refuse_outside(1, MOST_SAMPLES, __samples=samples)
    source = stored.opened(root, split)
    with photo_progress(len(source), "samples") as progress:
        written = write_shards(source, output, split, samples=samples, on_sample=progress.advance)
    print(f"{len(source)} samples in {len(written)} shards in {output}")

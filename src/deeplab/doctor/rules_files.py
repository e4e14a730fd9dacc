"""Faults of files: missing partners, files that cannot be read, sizes that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab.data.upright import UPRIGHT, DrawnOn
from deeplab.doctor.examined import Examined
from deeplab.doctor.findings import Finding, of_files
from deeplab.doctor.found import Found
from deeplab.doctor.mask_facts import MaskFacts
from deeplab.doctor.photo_facts import PhotoFacts
from deeplab.doctor.readers import Pair

ANNOTATIONS = (".json", ".xml", ".txt")
_MOST_DETAILS = 5


class _Sized(NamedTuple):
    """A pair whose files can both be read."""

    pair: Pair
    photo: PhotoFacts
    mask: MaskFacts


def file_findings(data: Examined, found: Found) -> list[Finding]:
    """Everything that is wrong with the files themselves.

    Args:
        data: the data set.
        found: how its pairs were found.
    """
    return [
        *_missing(data),
        *_unreadable(data),
        *_sizes(data, found.storage.drawn_on),
        *of_files(
            "name-twice",
            "warning",
            [data.file(path) for path in found.double],
            what="Files of one folder have the same name but for the extension: such a photo takes the mask of its "
            "whole name (a.jpg.png for a.jpg) and no other; of two such masks the lossless one is taken.",
            fix="Keep one of the two, or give them different names.",
        ),
        *of_files(
            "file-missing",
            "error",
            found.missing,
            what="Files that the data set asks for are missing.",
            fix="Add them, or take them out of the lists or annotations.",
        ),
        *of_files(
            "annotation-stray",
            "error",
            found.stray,
            what=f"{len(found.stray)} annotations name photos or classes that are not listed, so that what they show "
            "would be background.",
            fix="List the photos and classes that they name, or delete them.",
        ),
        *of_files(
            "photo-unannotated",
            "warning",
            [data.file(path) for path in found.unannotated],
            what="Photos have no annotation: they are left out of every split.",
            fix="Annotate them, or move them away; a photo without objects wants an annotation file without any.",
        ),
        *of_files(
            "annotation-bad",
            "error" if found.storage.on_bad == "error" else "warning",
            found.bad,
            what=f"{len(found.bad)} annotations paint nothing: what they should show is left as background.",
            fix="Draw them again or delete them; data.on_bad=error makes training refuse them.",
        ),
    ]


def empty_finding(root: Path) -> Finding:
    """The finding for a folder without a photo or mask."""
    return Finding(
        "empty",
        "error",
        f"No photo and no mask was found in {root}.",
        "Put photos into images/ and masks of the same names into masks/, or use the VOC, Cityscapes, ADE20K or "
        "CamVid folders.",
        count=1,
    )


def _missing(data: Examined) -> list[Finding]:
    pairs = [item.pair for item in data.items]
    return [
        *of_files(
            "mask-missing",
            "error",
            [data.file(pair.photo) for pair in pairs if pair.photo and not pair.mask],
            what="Photos have no mask of their name.",
            fix="Add each missing mask under its photo's name, or move these photos away.",
        ),
        *of_files(
            "photo-missing",
            "error",
            [data.file(pair.mask) for pair in pairs if pair.mask and not pair.photo],
            what="Masks have no photo of their name.",
            fix="Add each missing photo under its mask's name, or move these masks away.",
        ),
        *of_files(
            "listed-missing",
            "error",
            [f"{pair.name} (list {pair.split})" for pair in pairs if not pair.mask and not pair.photo],
            what="Names on a list have neither photo nor mask.",
            fix="Add the files, or take these names off the list.",
        ),
    ]


def _unreadable(data: Examined) -> list[Finding]:
    photos = [(i.pair.photo, i.photo.error) for i in data.items if i.photo and i.photo.error]
    masks = [(i.pair.mask, i.mask.error) for i in data.items if i.mask and i.mask.error]
    return [
        finding
        for kind, broken in (("photo", photos), ("mask", masks))
        for finding in of_files(
            f"{kind}-unreadable",
            "error",
            [data.file(path) for path, _ in broken],
            what=f"A {kind} cannot be read."
            if len(broken) == 1
            else f"{len(broken)} {kind}s cannot be read.",
            fix=f"Copy or export the {kind} again, or remove the pair.",
            details=[f"{data.file(path)}: {error}" for path, error in broken[:_MOST_DETAILS]],
        )
    ]


def _sizes(data: Examined, drawn_on: DrawnOn) -> list[Finding]:
    sized = [
        _Sized(item.pair, item.photo, item.mask)
        for item in data.items
        if item.photo and item.mask and not item.photo.error and not item.mask.error
    ]
    wrong = [item for item in sized if item.mask.size != item.photo.upright_size]
    turned = [item for item in wrong if item.mask.size == item.photo.size and drawn_on != "upright"]
    swapped = [
        item for item in wrong if item not in turned and item.mask.size == item.photo.upright_size[::-1]
    ]
    other = [item for item in wrong if item not in turned and item not in swapped]
    hidden = [item for item in sized if drawn_on == "auto" and item not in wrong and _turned_unseen(item)]
    return [
        *of_files(
            "exif-rotation",
            "warning",
            [data.file(item.pair.photo) for item in turned],
            what="The photo's EXIF tag turns it by 90 degrees, and its labels were drawn on the unturned photo, as the "
            f"size of {_drawn_in(turned)} says: they are turned along with it.",
            fix="Nothing has to be done here; for other programs remove the tag, so that the photo lies as its labels "
            "do (Image.open(photo).convert('RGB').save(photo), without exif).",
            details=_size_lines(data, turned),
        ),
        *of_files(
            "exif-flip",
            "warning",
            [data.file(item.pair.photo) for item in hidden],
            what="The photo's EXIF tag turns or mirrors it, which its size does not show: the labels are taken as "
            "drawn on the photo as a viewer shows it.",
            fix=f"Look whether {_drawn_in(hidden)} fits that photo; if it was drawn on the unturned one, remove the "
            "EXIF tag, or train with data.drawn_on=stored.",
        ),
        *of_files(
            "size-swapped",
            "error",
            [data.file(item.pair.mask) for item in swapped],
            what="The mask has width and height of its photo swapped.",
            fix="Transpose the mask: Image.fromarray(np.array(mask).T).save(path), and look at one overlay."
            if all(_is_picture(item) for item in swapped)
            else "Correct the photo's width and height in the annotation file, or export it again.",
            details=_size_lines(data, swapped),
        ),
        *of_files(
            "size-mismatch",
            "error",
            [data.file(item.pair.mask) for item in other],
            what="The mask has another size than its photo.",
            fix=_size_fix(other),
            details=_size_lines(data, other),
        ),
    ]


def _turned_unseen(item: _Sized) -> bool:
    """Whether the tag turns or mirrors a photo without swapping two different sides."""
    return item.photo.orientation != UPRIGHT and item.photo.size == item.photo.upright_size


def _is_picture(item: _Sized) -> bool:
    return item.pair.mask is not None and item.pair.mask.suffix.lower() not in ANNOTATIONS


def _drawn_in(items: Sequence[_Sized]) -> str:
    return "the mask" if all(_is_picture(item) for item in items) else "what the annotation file draws"


def _size_fix(items: Sequence[_Sized]) -> str:
    if not all(_is_picture(item) for item in items):
        return (
            "Export the annotations again for these photos, or put back the photos that they were drawn on."
        )
    if items and all(_same_shape(item) for item in items):
        return (
            "Resize the mask to its photo with nearest neighbour, which invents no values: "
            "mask.resize(photo.size, Image.Resampling.NEAREST)."
        )
    return (
        "Export the mask again at its photo's size; the proportions differ, so resizing would shift labels."
    )


def _same_shape(item: _Sized) -> bool:
    (width, height), (mask_width, mask_height) = item.photo.upright_size, item.mask.size
    # one pixel of rounding in either direction is still the same shape
    return abs(width * mask_height - height * mask_width) <= max(width, height, mask_width, mask_height)


def _size_lines(data: Examined, items: Sequence[_Sized]) -> list[str]:
    return [
        f"{data.file(item.pair.mask)} is {item.mask.size[0]}x{item.mask.size[1]}, "
        f"{data.file(item.pair.photo)} is {item.photo.upright_size[0]}x{item.photo.upright_size[1]} upright"
        for item in items[:_MOST_DETAILS]
    ]

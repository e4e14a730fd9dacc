"""Whether training can open the data set: the doctor reads more kinds of folders than training does."""

from __future__ import annotations

from pathlib import Path

from deeplab.data.layouts import LAYOUTS, recognise
from deeplab.data.opening import open_complete, split_names
from deeplab.doctor.class_list import MADE_UP, ClassList
from deeplab.doctor.findings import Finding
from deeplab.doctor.places import IGNORE_LABEL
from deeplab.errors import UserError

_TRAIN = ("train", "training", "train_aug", "trainaug", "trainval")
_VAL = ("val", "valid", "validation")


def training_findings(root: Path, layout: str, classes: ClassList) -> list[Finding]:
    """Open the training and validation split as training would; its refusal is the finding.

    Args:
        root: the data set's folder.
        layout: name of its layout.
        classes: what its masks hold.
    """
    try:
        _open_splits(root, layout, classes)
    except UserError as error:
        what, _, fix = str(error).partition("fix: ")
        what, *more = what.rstrip("; \n").splitlines()
        return [
            Finding(
                "training-refuses",
                "error",
                f"The pairs are sound, but training could not open the data set: {what}{'' if more else '.'}",
                f"{fix[:1].upper()}{fix[1:]}."
                if fix
                else "Bring the data into images/ and masks/ with classes.txt.",
                count=1,
                details=tuple(line.strip() for line in more),
            )
        ]
    return []


def _open_splits(root: Path, layout: str, classes: ClassList) -> None:
    if classes.ignore_label != IGNORE_LABEL:
        raise UserError(
            f"it takes {IGNORE_LABEL} alone for ignore, not {classes.ignore_label}; "
            f"fix: save {IGNORE_LABEL} in place of {classes.ignore_label}"
        )
    layout = layout if layout in LAYOUTS else recognise(root)
    # a numbered list was made up here, and training has to be told
    given = classes.names if classes.origin != MADE_UP and "names" in LAYOUTS[layout].takes else ()
    there = split_names(root, layout=layout)
    for names in (_TRAIN, _VAL):
        split = next((name for name in names if name in there), None)
        if split is None:
            raise UserError(
                f"there is no split {names[0]!r}; splits found: {', '.join(there) or 'none'}; "
                f"fix: add a list or folder {names[0]!r}"
            )
        open_complete(root, split, layout=layout, names=given)

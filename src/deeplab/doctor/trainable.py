"""Whether training can open the data set: what it refuses beside the faults that the rules know."""

from __future__ import annotations

import warnings
from pathlib import Path

from deeplab.data.opening import one_class, open_complete, split_names
from deeplab.data.source import IGNORE_LABEL
from deeplab.doctor.class_list import ClassList
from deeplab.doctor.findings import Finding
from deeplab.doctor.found import Found
from deeplab.errors import UserError


def training_findings(root: Path, found: Found, classes: ClassList) -> list[Finding]:
    """Open the training and validation split as training would; its refusal is the finding.

    Args:
        root: the data set's folder.
        found: its surveys.
        classes: what its masks hold.
    """
    try:
        _open_splits(root, found, classes)
    except UserError as error:
        what, *more = str(UserError(error.what, allowed=error.allowed, file=error.file)).splitlines()
        return [
            Finding(
                "training-refuses",
                "error",
                f"The pairs are sound, but training could not open the data set: {what}{'' if more else '.'}",
                f"{error.fix[:1].upper()}{error.fix[1:]}."
                if error.fix
                else "Bring the data into images/ and masks/ with classes.txt.",
                count=1,
                details=tuple(line.strip() for line in more),
            )
        ]
    return []


def _open_splits(root: Path, found: Found, classes: ClassList) -> None:
    if classes.ignore_label != IGNORE_LABEL:
        raise UserError(
            f"it takes {IGNORE_LABEL} alone for ignore, not {classes.ignore_label}",
            fix=f"save {IGNORE_LABEL} in place of {classes.ignore_label}",
        )
    if len(classes.names) == 1:
        raise one_class(root, classes.names)
    for split in ("train", "val"):
        if split in found.splits:
            with warnings.catch_warnings():
                # its findings say the same
                warnings.simplefilter("ignore")
                open_complete(root, found.splits[split], found.storage)
        elif not found.asked:
            there = ", ".join(split_names(root, layout=found.storage.layout))
            raise UserError(
                f"there is no split {split!r}; splits found: {there or 'none'}",
                fix=f"add a list or folder {split!r}",
            )

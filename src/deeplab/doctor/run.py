"""The whole check: find, match, inspect, judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deeplab.doctor.class_list import ClassList, given_names, resolve_classes
from deeplab.doctor.class_pixels import ClassPixels, count_classes, median_frequency_weights
from deeplab.doctor.duplicates import duplicate_findings
from deeplab.doctor.examined import Examined
from deeplab.doctor.findings import Finding, passed
from deeplab.doctor.formats import OtherFormat, may_be_another, open_other
from deeplab.doctor.inspect import inspect_all
from deeplab.doctor.pairs import Matched, match_pairs
from deeplab.doctor.places import IGNORE_LABEL, LAYOUTS, Layout, find_layout
from deeplab.doctor.readers import FileReader, Reader
from deeplab.doctor.rules_classes import class_findings, ignored_findings, list_findings
from deeplab.doctor.rules_files import empty_finding, file_findings
from deeplab.doctor.rules_kinds import kind_findings
from deeplab.doctor.rules_values import value_findings
from deeplab.doctor.trainable import training_findings
from deeplab.errors import UserError


@dataclass(frozen=True)
class Expected:
    """What the user says of the data.

    Attributes:
        layout: auto, or a name.
        classes: names, or one file with a name a line.
        num_classes: how many.
        ignore_label: value of pixels that are no class.
        train: list of the training photos; None looks for the usual ones.
        val: likewise.
    """

    layout: str = "auto"
    classes: Sequence[str] = ()
    num_classes: int | None = None
    ignore_label: int = IGNORE_LABEL
    train: str | None = None
    val: str | None = None


class Watcher:
    """Told about progress; override what is of use."""

    def on_start(self, pairs: int) -> None:
        """So many pairs are about to be read."""

    def on_pair(self) -> None:
        """One is done."""


@dataclass(frozen=True)
class Checked:
    """The result.

    Attributes:
        layout: name of the data set's layout.
        data: every file, as inspected.
        findings: errors first.
        counts: pixels by class, one entry a split; empty if the masks hold no class indices.
        weights: float64 [classes], of the training split; None with `counts` empty.
        unlisted: pairs that lie there but are on no list.
        seconds: duration.
    """

    layout: str
    data: Examined
    findings: tuple[Finding, ...]
    counts: tuple[ClassPixels, ...]
    weights: np.ndarray | None
    unlisted: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return passed(self.findings)


def check_data(
    root: Path,
    expected: Expected | None = None,
    *,
    workers: int | None = None,
    watcher: Watcher | None = None,
) -> Checked:
    """Examine a data set.

    Args:
        root: its folder.
        expected: what it should hold.
        workers: processes; None is one a core.
        watcher: told about progress.

    Raises:
        UserError: no such folder, list, class file or layout. Faults of the data are findings instead.
    """
    begin = time.monotonic()
    expected, watcher = expected or Expected(), watcher or Watcher()
    if not root.is_dir():
        raise UserError(f"{root} is no folder; fix: give the folder that holds photos and masks")
    found = _find(root, expected)
    if not found.matched.pairs:
        data = Examined(root, (), found.classes, found.reader)
        findings = (
            empty_finding(root),
            *list_findings(found.classes),
            *file_findings(data, found.matched),
        )
        return Checked(found.layout.name, data, findings, (), None, 0, time.monotonic() - begin)
    watcher.on_start(len(found.matched.pairs))
    items = inspect_all(found.matched.pairs, found.reader, workers=workers, on_pair=watcher.on_pair)
    data = Examined(root, tuple(items), found.classes, found.reader, found.layout.decode)
    return _judge(found, data, begin=begin)


@dataclass(frozen=True)
class _Found:
    layout: Layout
    matched: Matched
    classes: ClassList
    reader: Reader
    own_splits: bool = True


def _find(root: Path, expected: Expected) -> _Found:
    other = _other_format(root, expected)
    layout = Layout(other.name, (), classes=other.classes) if other else _raw_layout(root, expected.layout)
    classes = resolve_classes(
        root,
        layout,
        classes=expected.classes,
        num_classes=expected.num_classes,
        ignore_label=expected.ignore_label,
    )
    if other and (expected.train or expected.val):
        raise UserError(
            f"{root} is in the format {other.name}, which has its own splits; fix: leave --train and --val out"
        )
    if other:
        return _Found(layout, other.matched, classes, other.reader)
    # other classes than the layout's own come with other values
    if layout.decode is not None and len(classes.names) != len(layout.classes):
        layout = replace(layout, decode=None)
    matched = match_pairs(layout, train=expected.train, val=expected.val)
    own_splits = not (expected.train or expected.val)
    return _Found(layout, matched, classes, FileReader(layout.decode), own_splits)


def _raw_layout(root: Path, name: str) -> Layout:
    return find_layout(root, layout=name) or Layout("unknown" if name == "auto" else name, ())


def _other_format(root: Path, expected: Expected) -> OtherFormat | None:
    if expected.layout in LAYOUTS:
        return None
    if expected.layout == "auto" and find_layout(root) is not None and not may_be_another(root):
        return None
    return open_other(root, layout=expected.layout, names=given_names(expected.classes))


def _judge(found: _Found, data: Examined, *, begin: float) -> Checked:
    values = value_findings(data)
    data = replace(data, classes=values.classes)
    counts = count_classes(data) if values.readable and data.classes.known else []
    findings = [
        *list_findings(found.classes),
        *file_findings(data, found.matched),
        *kind_findings(data),
        *values.findings,
        *(ignored_findings(data) if values.ignores else []),
        *(class_findings(data, counts) if counts else []),
        *duplicate_findings(data),
    ]
    if passed(findings) and found.own_splits:
        findings += training_findings(data.root, found.layout.name, data.classes)
    findings.sort(key=lambda finding: finding.severity != "error")
    return Checked(
        found.layout.name,
        data,
        tuple(findings),
        tuple(counts),
        median_frequency_weights(counts[0].pixels, counts[0].pixels_beside) if counts else None,
        found.matched.unlisted,
        time.monotonic() - begin,
    )

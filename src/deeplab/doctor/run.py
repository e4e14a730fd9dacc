"""The whole check: find, match, inspect, judge."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deeplab.config import PixelConfig
from deeplab.data.class_weights import median_frequency_weights
from deeplab.doctor.class_pixels import ClassPixels, count_classes
from deeplab.doctor.duplicates import duplicate_findings
from deeplab.doctor.examined import Examined
from deeplab.doctor.findings import Finding, passed
from deeplab.doctor.found import Expected, Found, find
from deeplab.doctor.inspect import inspect_all
from deeplab.doctor.rules_bands import band_findings, measured_pixels
from deeplab.doctor.rules_classes import background_findings, class_findings, ignored_findings, list_findings
from deeplab.doctor.rules_files import empty_finding, file_findings
from deeplab.doctor.rules_kinds import kind_findings
from deeplab.doctor.rules_values import value_findings
from deeplab.doctor.trainable import training_findings
from deeplab.errors import UserError


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
        weights: float64 [classes], of the training split; None with `counts` empty or nothing labelled.
        pixels: how a model reads the photos as they are stored; None where they are 8-bit RGB.
        unlisted: pairs that lie there but are on no list.
        seconds: duration.
    """

    layout: str
    data: Examined
    findings: tuple[Finding, ...]
    counts: tuple[ClassPixels, ...]
    weights: np.ndarray | None
    pixels: PixelConfig | None
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
        raise UserError(f"{root} is no folder", fix="give the folder that holds photos and masks")
    found = find(root, expected)
    if not found.pairs:
        data = Examined(root, (), found.classes, found.reader)
        findings = (
            empty_finding(root),
            *list_findings(found.classes),
            *file_findings(data, found),
        )
        return Checked(found.storage.layout, data, findings, (), None, None, 0, time.monotonic() - begin)
    watcher.on_start(len(found.pairs))
    items = inspect_all(found.pairs, found.reader, workers=workers, on_pair=watcher.on_pair)
    data = Examined(root, tuple(items), found.classes, found.reader, found.decode, found.allowed)
    return _judge(found, data, begin=begin)


def _judge(found: Found, data: Examined, *, begin: float) -> Checked:
    values = value_findings(data)
    data = replace(data, classes=values.classes)
    counts = count_classes(data) if values.readable and data.classes.known else []
    findings = [
        *list_findings(found.classes),
        *file_findings(data, found),
        *band_findings(data),
        *kind_findings(data),
        *values.findings,
        *(ignored_findings(data) if values.ignores else []),
        *(class_findings(data, counts) if counts else []),
        *(background_findings(data) if counts else []),
        *duplicate_findings(data),
    ]
    if passed(findings):
        findings += training_findings(data.root, found, data.classes)
    findings.sort(key=lambda finding: finding.severity != "error")
    return Checked(
        found.storage.layout,
        data,
        tuple(findings),
        tuple(counts),
        _weights(counts[0]) if counts else None,
        measured_pixels(data),
        found.unlisted,
        time.monotonic() - begin,
    )


def _weights(counts: ClassPixels) -> np.ndarray | None:
    """Median frequency balancing, with frequencies as in the paper; None if nothing is labelled."""
    if not counts.pixels.any():
        return None
    return np.array(median_frequency_weights(counts.pixels / np.maximum(counts.pixels_beside, 1)))

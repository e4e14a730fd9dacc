"""One result line of the golden vectors' judge, and the comparisons that it is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from deeplab.presets.reference import NotBuilt

NAN = float("nan")
FAILURES_SHOWN = 6


class Row(NamedTuple):
    """One case's result: the worst difference and what is allowed (in the family's own unit, named in
    `detail`), the share of equal integer values, and pass, fail or not built yet."""

    case: str
    difference: float
    allowed: float
    labels: float
    verdict: str
    detail: str = ""


class Judge:
    """Collects comparisons of one file and gives the row: the comparison nearest to its limit is shown."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.worst = (0.0, NAN, "")
        self.equal_values = self.values = 0
        self.failed: list[str] = []
        self.remarks: list[str] = []

    def close(
        self, what: str, ours: Any, golden: Any, *, absolute: float = 0.0, relative: float = 0.0
    ) -> None:
        """|ours - golden| <= absolute + relative * |golden|, value by value; NaN equals NaN."""
        found, wanted = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
        if found.shape != wanted.shape:
            self.failed.append(f"{what} has shape {found.shape}, not {wanted.shape}")
            return
        if not np.array_equal(np.isnan(found), np.isnan(wanted)):
            self.failed.append(f"{what} is NaN in other places")
            return
        difference = np.nan_to_num(np.abs(found - wanted)).ravel()
        allowed = absolute + relative * np.abs(np.nan_to_num(wanted)).ravel()
        if not difference.size:
            return
        place = int((difference / allowed).argmax())
        self._measured(what, float(difference[place]), float(allowed[place]))

    def _measured(self, what: str, difference: float, allowed: float) -> None:
        share = self.worst[0] / self.worst[1] if self.worst[1] > 0 else -1.0
        if difference / allowed > share:
            self.worst = (difference, allowed, what)
        if not difference <= allowed:
            self.failed.append(f"{what} differs by {difference:.1e}, allowed is {allowed:.1e}")

    def equal(self, what: str, ours: Any, golden: Any) -> None:
        """Every value is the same."""
        found, wanted = np.asarray(ours), np.asarray(golden)
        if found.shape != wanted.shape:
            self.failed.append(f"{what} has shape {found.shape}, not {wanted.shape}")
            return
        same = int((found == wanted).sum())
        self.equal_values, self.values = self.equal_values + same, self.values + wanted.size
        if same != wanted.size:
            self.failed.append(f"{what} differs in {wanted.size - same} of {wanted.size} values")

    def sure_labels(self, what: str, ours: np.ndarray, golden: np.ndarray, *, sure: np.ndarray) -> None:
        """Labels are the same wherever `sure`; the share of equal ones counts all."""
        same = ours == golden
        self.equal_values, self.values = self.equal_values + int(same.sum()), self.values + same.size
        if not same[sure].all():
            self.failed.append(f"{what} differ on {int((~same[sure]).sum())} sure pixels")

    def bounded(self, what: str, ours: np.ndarray, golden: np.ndarray, *, allowed: float) -> None:
        """As `close` with an absolute limit, but not shown in the row: of another unit than the rest."""
        difference = float(np.abs(ours - golden).max())
        if not difference <= allowed:
            self.failed.append(f"{what} differs by {difference:.1e}, allowed is {allowed:.1e}")

    def refused(self, what: str, action: Callable[[], object]) -> None:
        """What the reference refuses is refused here too, whether as a wrong value or for lack of the option."""
        try:
            action()
        except (ValueError, TypeError):
            return
        self.failed.append(f"{what} was not refused")

    def row(self) -> Row:
        """The result of all comparisons."""
        difference, allowed, what = self.worst
        labels = self.equal_values / self.values if self.values else NAN
        failed = self.failed[:FAILURES_SHOWN]
        if len(failed) < len(self.failed):
            failed.append(f"and {len(self.failed) - len(failed)} more")
        said = "; ".join([*failed, *self.remarks]) or what or "exact values only"
        return Row(self.case, difference, allowed, labels, "fail" if self.failed else "pass", said)


def said_as_json(data: Mapping[str, Any], key: str) -> Any:
    """The JSON text that the vectors keep under `key`."""
    return json.loads(str(data[key]))


def only(case: Mapping[str, Any], known: set[str]) -> None:
    """Refuse to judge a case by half: an option that the runner does not know is 'not built yet'."""
    unknown = sorted(set(case) - known)
    if unknown:
        raise NotBuilt(f"options {', '.join(unknown)}")


def shown(value: float, form: str) -> str:
    """A number of the table, or a dash."""
    return "-" if math.isnan(value) else format(value, form)

"""A finding: one fault, the files that have it, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One kind of fault in a data set.

    Attributes:
        code: short and stable, for scripts.
        severity: errors fail the check.
        what: one sentence: what is wrong and why it matters.
        fix: one sentence: what to do.
        files: all that have the fault, relative to the data set, in its order.
        count: how many have it; more than `files` where a fault is not one of files.
        details: lines such as a suggested mapping.
    """

    code: str
    severity: Severity
    what: str
    fix: str
    files: tuple[str, ...] = ()
    count: int = 0
    details: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "code": self.code,
            "severity": self.severity,
            "what": self.what,
            "fix": self.fix,
            "count": self.count,
            "files": list(self.files),
            "details": list(self.details),
        }


def of_files(
    code: str, severity: Severity, files: Sequence[str], *, what: str, fix: str, details: Sequence[str] = ()
) -> list[Finding]:
    """The finding for these files, or nothing if there are none."""
    if not files:
        return []
    return [Finding(code, severity, what, fix, tuple(files), len(files), tuple(details))]


def passed(findings: Sequence[Finding]) -> bool:
    """Whether no finding is an error."""
    return all(finding.severity != "error" for finding in findings)

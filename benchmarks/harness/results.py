"""Results as one JSON file that cases are added to, and as tables."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.machine import machine
from harness.rounds import Comparison

LOWER = ("bf16", "int8")


def case_result(
    title: str,
    comparison: Comparison,
    *,
    reference: str,
    memory: dict[str, float],
    agreement: dict[str, str],
    failed: dict[str, str],
) -> dict[str, Any]:
    """JSON values: one entry a variant."""
    variants = {
        name: {
            "ms": round(comparison.seconds[name] * 1000, 2),
            "faster": round(comparison.faster[name], 3),
            "spread": round(comparison.spread[name], 3),
            "peak_mb": round(memory[name]),
            "agreement": agreement[name],
        }
        for name in sorted(comparison.seconds, key=list(memory).index)
    }
    rounds = {"rounds": comparison.rounds, "dropped": comparison.dropped, "noisy": comparison.noisy}
    return {"title": title, "reference": reference, **rounds, "variants": variants, "failed": failed}


def add(path: Path, name: str, result: dict[str, Any], versions: dict[str, str], *, threads: int) -> None:
    """Put a case into the file at `path`, in place of an older one of that name."""
    content = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    content["machine"] = machine()
    content["versions"] = {**content.get("versions", {}), **versions}
    content["cases"][name] = {"threads": threads, **result}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)


def tables(content: dict[str, Any]) -> str:
    """Markdown: where it was measured, all cases in one table, and a table a case."""
    parts = [heading(content), summary(content)]
    for case in content["cases"].values():
        parts.append(f"### {case['title']}, {_threads(case['threads'])}\n\n{case_table(case)}")
    return "\n\n".join(parts) + "\n"


def summary(content: dict[str, Any]) -> str:
    """One row a case and precision: the reference, the best of the others, the best of ours, and ours over theirs."""
    rows = []
    for case in content["cases"].values():
        for precision in ("float32", *LOWER):
            chosen = {
                name: each for name, each in case["variants"].items() if precision_of(name) == precision
            }
            ours, others = _best(chosen, ours=True), _best(chosen, ours=False)
            if ours and others:
                reference = case["variants"][case["reference"]]
                ratio = case["variants"][ours]["faster"] / case["variants"][others]["faster"]
                shown = [_shown(name, case["variants"][name]) for name in (others, ours)]
                rows.append([case["title"], precision, f"{reference['ms']:.0f} ms", *shown, f"{ratio:.2f}x"])
    return markdown(
        ["case", "precision", "peer, eager", "best without us", "ours", "ours over the best"], rows
    )


def precision_of(variant: str) -> str:
    """float32, or what the variant's name ends with."""
    ending = variant.rpartition(", ")[2]
    return ending if ending in LOWER else "float32"


def _best(variants: dict[str, Any], *, ours: bool) -> str | None:
    names = [name for name in variants if name.startswith("ours") == ours]
    return max(names, key=lambda name: variants[name]["faster"], default=None)


def _shown(name: str, variant: dict[str, Any]) -> str:
    return f"{variant['faster']:.2f}x, {variant['peak_mb']} MB ({name})"


def heading(content: dict[str, Any]) -> str:
    """One paragraph: machine and versions."""
    about = content["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(content["versions"].items()))
    return (
        f"{about['processor']} ({', '.join(about['features'])}), {about['cores']} cores, {about['memory_gb']} GB, "
        f"{about['system']}, Python {about['python']}; {packages}."
    )


def case_table(case: dict[str, Any]) -> str:
    """One row a variant: time, ratio to the reference, peak memory, agreement."""
    rows = [
        [name, f"{each['ms']:.1f}", f"{each['faster']:.2f}x", f"{each['peak_mb']}", each["agreement"]]
        for name, each in case["variants"].items()
    ]
    rows += [[name, "failed", "", "", why.replace("|", "/")] for name, why in case["failed"].items()]
    note = f"\n\n{case['rounds']} rounds, {case['dropped']} dropped for foreign load."
    noisy = " Too few were quiet: the quietest were taken." if case["noisy"] else ""
    return markdown(["variant", "ms", "times faster", "peak MB", "agreement"], rows) + note + noisy


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"

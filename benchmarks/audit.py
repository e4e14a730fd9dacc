"""Known holes in what continuous integration installs, and a bill of materials: python benchmarks/audit.py

Asks PyPI's vulnerability service for every line of constraints.txt, and lists what the test environment holds as
CycloneDX in dist/sbom.json. Exit status 1: a hole is known; 2: some packages could not be asked about, which is no
all-clear.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS, ENVIRONMENT, BILL = Path("constraints.txt"), Path(".venv/bin/python"), Path("dist/sbom.json")
SHOWN = 5


def write_bill() -> int:
    """Write `BILL`; returns the number of packages in it."""
    BILL.parent.mkdir(exist_ok=True)
    beside = Path(sys.executable).parent
    subprocess.run(
        [
            beside / "cyclonedx-py",
            "environment",
            "--output-format",
            "JSON",
            "--output-file",
            BILL,
            ENVIRONMENT,
        ],
        check=True,
    )
    return len(json.loads(BILL.read_text())["components"])


def audit() -> int:
    """Print what is known of the pinned packages; returns the exit status."""
    beside = Path(sys.executable).parent
    command = [
        beside / "pip-audit",
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--requirement",
        CONSTRAINTS,
    ]
    found = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(found.stdout)["dependencies"]
    except ValueError:
        last = found.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        print(f"NOT AUDITED: pip-audit cannot reach the vulnerability service from here ({last[0][:300]})")
        print("fix: run this where PyPI's vulnerability service answers")
        return 2
    for package in packages:
        for hole in package.get("vulns", ()):
            fixed = ", ".join(hole["fix_versions"]) or "none yet"
            print(f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    holes = sum(len(package.get("vulns", ())) for package in packages)
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    print(f"{len(packages) - len(unknown)} of {len(packages)} packages audited, {holes} known holes")
    if unknown:
        rest = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        print(f"NOT AUDITED: the service knows nothing of {', '.join(unknown[:SHOWN])}{rest}")
        print(
            "fix: run this where PyPI's vulnerability service answers; a mirror may hold packages without advisories"
        )
    return 1 if holes else 2 if unknown else 0


if __name__ == "__main__":
    print(f"{write_bill()} packages of the test environment are in {BILL}", flush=True)
    sys.exit(audit())

"""What is not imported before it is needed: the command line and the doctor answer without waiting for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

# seconds of import time among them
SLOW = ("torch", "scipy", "skimage", "matplotlib", "tensorflow", "cv2", "pandas")
CHECK_SPLITS = """
from deeplab.cli.app import main
try:
    main(["data", "check", {root!r}, "-o", {report!r}, "--workers", "1"])
except SystemExit as ended:
    assert ended.code in (0, 1), ended.code
"""


def imported(program: str) -> set[str]:
    """Top-level modules that a new Python holds after running `program`."""
    ending = "\nimport sys; print('MODULES', *(name for name in sys.modules if '.' not in name))"
    done = subprocess.run(
        [sys.executable, "-c", program + ending], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("MODULES", 1)[1].split())


def not_waited_for(program: str, *others: str) -> None:
    assert imported(program) & {*SLOW, *others} == set()


def test_import_deeplab_needs_nothing_but_the_standard_library() -> None:
    not_waited_for("import deeplab", "numpy", "PIL", "pydantic", "cyclopts", "rich")


def test_help_needs_no_arrays() -> None:
    run = "from deeplab.cli.app import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    not_waited_for(run, "numpy", "PIL", "pydantic")


def test_names_of_the_package_come_when_asked_for() -> None:
    assert "torch" in imported("import deeplab; deeplab.Segmenter")


def test_looking_at_data_needs_no_torch() -> None:
    modules = (
        "data.layouts",
        "data.converting",
        "data.layouts.tfrecord",
        "data.opening",
        "doctor.report",
        "system.download",
    )
    not_waited_for("\n".join(f"import deeplab.{module}" for module in modules))


def test_data_check_needs_no_torch(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        Image.effect_noise((24, 16), 50).convert("RGB").save(root / split / f"{split}.png")
        Image.new("L", (24, 16), 3).save(root / f"{split}annot" / f"{split}.png")
    not_waited_for(CHECK_SPLITS.format(root=str(root), report=str(tmp_path / "report")))
    assert (tmp_path / "report" / "check.json").exists()

"""`deeplab env`: what it finds out, at 80 columns and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from deeplab.cli import env
from deeplab.cli.app import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as exit:
        main(["env", *words])
    assert exit.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    for name in env.KERNELS:
        module = import_module(name)
        monkeypatch.setattr(module, "KERNEL", replace(module.KERNEL))
    return str(tmp_path / "absent")


@pytest.mark.usefixtures("no_compiler")
def test_text_fits_80_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = run(capsys)
    # a word longer than that, as a path is, stands whole on a line of its own
    assert [line for line in text.splitlines() if len(line) > 80 and len(line.split()) > 1] == []
    assert str(tmp_path / "cache") in text and version("torch") in text


def test_json_says_the_same_as_the_modules(
    capsys: pytest.CaptureFixture[str], no_compiler: str, tmp_path: Path
) -> None:
    found = json.loads(run(capsys, "--json"))
    assert found["versions"]["torch"] == version("torch") and found["versions"]["numpy"] == version("numpy")
    assert found["machine"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert found["folders"]["kernels"] == str(tmp_path / "cache" / "native")
    assert len(found["kernels"]) == len(env.KERNELS)
    assert {reason for reason in found["kernels"].values()} == {
        f"no C++ compiler found (looked for {no_compiler})"
    }
    assert {"openvino", "onnx", "hub"} <= found["extras"].keys()


def test_kernels_named_here_are_all_there_are() -> None:
    root = Path(env.__file__).parents[1]
    holding = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for path in root.rglob("*.py")
        if "\nKERNEL = Kernel(" in path.read_text(encoding="utf-8")
    }
    assert holding == set(env.KERNELS)


def test_an_extra_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2", "requests>=2.31; extra == 'download'", 'nothing-like-this; extra == "odd"']
    monkeypatch.setattr(env, "requires", lambda name: lines)
    monkeypatch.setattr(env, "_kernels", dict)
    monkeypatch.setattr(env, "version_of", lambda name: "not installed" if "nothing" in name else "1")
    assert env.facts()["extras"] == {"download": "installed", "odd": "missing: nothing-like-this"}

"""Nothing calls out: every command at work, in processes that see each connection, and each name looked up, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.training_runs import NAMES, make_squares, squares_recipe
from torch_sources import VainF

# run by every Python that starts, workers too; a file's own sockets are no network
HOOK = """
import os, sys

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        said = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.bind"):
        said = arguments[1]
        if isinstance(said, (str, bytes)):
            return
    else:
        return
    with open(os.environ["CALLED"], "a") as file:
        print(event, said, sys.argv, file=file)
    raise OSError(f"{event} {said}: not in this test")

sys.addaudithook(watch)
"""
RUN = """
import json, sys
from deeplab.cli.app import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        print(json.dumps([words[0], ended.code]))
"""


def run(tmp_path: Path, *commands: list[object]) -> tuple[list[list[object]], str]:
    """The exit codes of commands, and what was called."""
    (tmp_path / "hook").mkdir(exist_ok=True)
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    called = tmp_path / "called.txt"
    called.write_text("")
    path = os.pathsep.join([str(tmp_path / "hook"), *sys.path])
    words = json.dumps([[str(word) for word in command] for command in commands])
    found = subprocess.run(
        [sys.executable, "-c", RUN, words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "CALLED": str(called), "OMP_NUM_THREADS": "1"},
    )
    codes = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("[")]
    assert len(codes) == len(commands), found.stderr[-2000:]
    return codes, called.read_text() + "".join(f"{code} {found.stderr[-500:]}" for code in codes if code[1])


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("network") / "squares", side=40, photos=9)


def test_commands_call_nobody(squares: Path, tmp_path: Path) -> None:
    recipe = squares_recipe(squares, steps=2, batch_size=4, workers=1)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    photos = squares / "JPEGImages"
    names = ["--classes", *NAMES]
    codes, called = run(
        tmp_path,
        ["train", tmp_path / "r.yaml", "-o", tmp_path / "run", "--device", "cpu"],
        ["eval", squares, "-m", tmp_path / "run", "--split", "val", "-o", tmp_path / "scores", *names],
        ["predict", photos, "-m", "animals", "-o", tmp_path / "out"],
        ["data", "check", squares, "-o", tmp_path / "check", *names],
        ["models"],
        ["env"],
    )
    assert called == "" and [code for _, code in codes] == [0] * 6, (codes, called)
    assert (tmp_path / "check" / "check.json").is_file() and (tmp_path / "scores" / "report.html").is_file()


def test_importing_and_exporting_call_nobody(tmp_path: Path) -> None:
    state = VainF(mobile=True, plus=True, classes=2).state_dict()
    torch.save(state, tmp_path / "w.pth")
    codes, called = run(
        tmp_path,
        ["export", "animals", "--to", "torch-export", "-o", tmp_path / "exported"],
        ["import", tmp_path / "w.pth", "-o", tmp_path / "imported"],
    )
    assert called == "" and [code for _, code in codes] == [0, 0], (codes, called)
    assert (tmp_path / "imported" / "model.safetensors").is_file()


def test_a_call_would_be_seen(tmp_path: Path) -> None:
    """An address is downloaded, and here cannot be."""
    for module in ("requests", "filelock"):
        pytest.importorskip(module, reason="the extra download is not installed")
    _, called = run(tmp_path, ["import", "http://localhost:9/w.pth", "-o", tmp_path / "imported"])
    assert "localhost" in called

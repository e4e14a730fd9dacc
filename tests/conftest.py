"""Fixtures that several test files use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.crf_runs import save_model
from support.training_runs import make_squares

from deeplab.cli.app import main

Run = tuple[int, str, str]


@pytest.fixture
def deeplab(capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """The command: words to exit code, output and errors."""

    def run(*words: object) -> Run:
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return run


@pytest.fixture
def crf_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal everywhere: also where no compiler is."""
    monkeypatch.setenv("DEEPLAB_CRF_ENGINE", "torch")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of coloured squares with masks, as a data set on disk."""
    return make_squares(tmp_path_factory.mktemp("squares") / "data", side=32, photos=3)


@pytest.fixture(scope="session")
def squares_model(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Path:
    """A model on disk that sees several classes in `squares`."""
    return save_model(tmp_path_factory.mktemp("model"), squares)

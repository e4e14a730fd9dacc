"""Tables show every cell whole, in narrow and in wide terminals, and a line a row in a pipe."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from deeplab.cli.models import tables as models_tables
from deeplab.cli.tables import fitting, print_scores, print_table
from deeplab.cli.training_display import TrainingProgress
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.presets import PRESETS
from deeplab.train.loop import StepReport

WIDTHS = (80, 140, 300)
TITLE = "a_model_with_a_long_name on val, 1449 photos, CRF w1 4, sigma alpha 67, sigma beta 3"


def long_table() -> Table:
    table = Table("name", "what it is", "number", title=TITLE)
    for name in PRESETS:
        table.add_row(name, f"{name} " * 3, "0.1234")
    return table


def shown(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(fitting(table, console))
    return console.file.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_cell_is_cut_and_no_line_is_too_long(width: int) -> None:
    text = shown(long_table(), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert " ".join(text.split()).startswith(TITLE)
    for name in PRESETS:
        assert any(name in line.split() or f"│ {name} " in line for line in lines)
    assert text.count("0.1234") == len(PRESETS)


def test_a_pipe_gets_a_line_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(long_table())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == TITLE
    for name in PRESETS:
        assert any(line.count(name) >= 4 and "0.1234" in line for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_live_table_of_a_training_is_whole(width: int) -> None:
    progress = TrainingProgress(90_000, device="cpu")
    progress.add(
        StepReport(step=41_233, loss=0.731, learning_rate=0.0123, photos=16, seconds=1.5, waited=0.2)
    )
    progress.photos_validated = 1449
    figures = progress.figures()
    text = shown(progress.table(), width)
    assert max(map(len, text.splitlines())) <= width
    assert all(name in text and value in text for name, value in figures.items())


def test_a_terminal_gets_the_widest_table_that_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def table(*columns: str) -> Table:
        made = Table(*columns)
        made.add_row(*("x" * 20 for _ in columns))
        return made

    for width, columns in ((120, 4), (70, 2), (30, 1)):
        monkeypatch.setattr(
            "deeplab.cli.tables.Console",
            lambda width=width, **_: Console(width=width, force_terminal=True, color_system=None),
        )
        print_table(table("a", "b", "c", "d"), table("a", "b"), table("a"))
        assert capsys.readouterr().out.count("x" * 20) == columns


@pytest.mark.parametrize("width", [60, 79, 100, 140, 300])
def test_a_narrow_terminal_drops_nothing_of_the_list_of_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    row = {
        "name": "mobilenetv3_small_cityscapes_trainfine",
        "backbone": "mobilenet_v3_small",
        "head": "ASPP rates 6,12,18 decoder at 4",
        "OS": "16",
        "parameters": "54.71 M",
        "multiply-adds": "1000.12 G",
        "mean IoU, %": "77.33 (val, OS 8, multi-scale, flip)",
        "source": "model zoo",
    }
    monkeypatch.setattr(
        "deeplab.cli.tables.Console",
        lambda width=width, **_: Console(width=width, force_terminal=True, color_system=None),
    )
    print_table(*models_tables("PASCAL VOC 2012, 513 x 513", [row]))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    for column, cell in row.items():
        assert column in text and cell in text, column


def test_scores_name_the_classes_that_no_pixel_is_labelled(capsys: pytest.CaptureFixture[str]) -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    print_scores(confusion, ("sky", "cat", "dog"), title="here")
    assert "no pixel is labelled cat, dog" in capsys.readouterr().err

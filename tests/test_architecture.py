"""The rooms of the package and who may import whom: ARCHITECTURE.md says it, and the imports keep to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1]
PACKAGE = HOUSE / "src" / "deeplab"
PAGE = (HOUSE / "ARCHITECTURE.md").read_text(encoding="utf-8")
# the front door: it names what others may take from the package, and imports it when it is asked for
DOOR = ("__init__.py", "__main__.py")


def allowed_imports(page: str) -> dict[str, list[str]]:
    """The page's table: room to the rooms that it may import, in the page's order."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]*) \|$", page, flags=re.MULTILINE)
    return {room: re.findall(r"`(\w+)`", others) for room, others in rows}


def drawn_arrows(page: str) -> set[tuple[str, str]]:
    """The page's drawing: (room, room that it imports)."""
    (drawing,) = re.findall(r"```mermaid\n(.*?)```", page, flags=re.DOTALL)
    lines = re.findall(r"^ *(\w+) --> (.+)$", drawing, flags=re.MULTILINE)
    return {(room, other) for room, others in lines for other in others.split(" & ")}


def rooms_in(package: Path) -> set[str]:
    """Folders and modules right below the package that have code."""
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    return folders | {path.stem for path in package.glob("*.py") if path.name not in DOOR}


def imports_between_rooms(package: Path) -> Iterator[tuple[str, str, str]]:
    """(room, other room, FILE:LINE) of each import across rooms, those inside functions and for types included."""
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.as_posix() in DOOR:
            continue
        room = place.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for other in _rooms_imported(node):
                if other != room:
                    yield room, other, f"{place.as_posix()}:{node.lineno}"


def _rooms_imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute: where one leads is read, not counted"
        # `from deeplab import room`; a name of the front door itself counts as a room that nobody may import
        names = [f"{node.module}.{each.name}" for each in node.names]
    else:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
    inside = [name.split(".")[1] for name in names if name.startswith("deeplab.")]
    return [name for name in inside if name != "__version__"]


def test_the_page_names_the_rooms_that_there_are() -> None:
    assert set(allowed_imports(PAGE)) == rooms_in(PACKAGE)


def test_every_import_is_one_that_the_page_allows() -> None:
    allowed = allowed_imports(PAGE)
    found = [
        f"{place}: {room} imports {other}"
        for room, other, place in imports_between_rooms(PACKAGE)
        if other not in allowed[room]
    ]
    assert found == [], f"ARCHITECTURE.md allows none of these: {found}"


def test_nothing_is_allowed_that_nobody_imports() -> None:
    used = {(room, other) for room, other, _ in imports_between_rooms(PACKAGE)}
    assert {(room, other) for room, others in allowed_imports(PAGE).items() for other in others} == used


def test_no_room_imports_upward_so_there_is_no_circle() -> None:
    allowed = allowed_imports(PAGE)
    order = list(allowed)
    upward = [
        (room, other)
        for room, others in allowed.items()
        for other in others
        if order.index(other) >= order.index(room)
    ]
    assert upward == []


def test_the_drawing_shows_the_table() -> None:
    allowed = allowed_imports(PAGE)
    drawn = drawn_arrows(PAGE)
    assert {room for arrow in drawn for room in arrow} == set(allowed)
    for room, others in allowed.items():
        assert _below(room, drawn) == set(others) | {
            lower for each in others for lower in _below(each, drawn)
        }


def _below(room: str, arrows: set[tuple[str, str]]) -> set[str]:
    others = {other for upper, other in arrows if upper == room}
    return others | {lower for other in others for lower in _below(other, arrows)}


def test_files_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(\w+/(?:\w+/)*(?:\w+\.py)?)`", PAGE)
    homes = (PACKAGE, PACKAGE / "train", HOUSE)
    assert named and [name for name in named if not any((home / name).exists() for home in homes)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import deeplab.attic.box",
        "from deeplab import attic",
        "from deeplab.attic import box",
        "def work():\n    from deeplab.attic.box import lid",
        "if TYPE_CHECKING:\n    from deeplab.attic import box",
    ],
)
def test_imports_are_seen_wherever_they_stand(tmp_path: Path, line: str) -> None:
    (tmp_path / "cellar").mkdir()
    (tmp_path / "cellar" / "stairs.py").write_text(f"import os\nfrom deeplab.cellar import wine\n{line}\n")
    assert [(room, other) for room, other, _ in imports_between_rooms(tmp_path)] == [("cellar", "attic")]

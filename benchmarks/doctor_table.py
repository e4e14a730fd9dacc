"""What the doctor says of every layout, sound and with one fault each: the table of docs/doctor.md.

    python benchmarks/doctor_table.py            prints it
    python benchmarks/doctor_table.py --write    puts it into the page
    python benchmarks/doctor_table.py --train    also trains two steps on each sound set

Sets are built from the formats' own documentation by tests/support/every_layout.py, each fault is made in its first
training photo or its labels. Training must refuse what the doctor calls an error, and open all else: otherwise, and
where a sound set is not recognised or not passed, the exit status is 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from deeplab.data.first_look import look_at
from deeplab.data.layouts import LAYOUTS, recognise
from deeplab.data.layouts.tar_shards import pairs_in
from deeplab.data.opening import open_split, resolve
from deeplab.data.recipe import DataRecipe
from deeplab.doctor.found import Expected, find
from deeplab.doctor.run import check_data
from deeplab.errors import UserError
from deeplab.train.run import train

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE / "tests"))

from support.every_layout import SETS  # noqa: E402  # it lies with the tests
from support.training_runs import squares_recipe  # noqa: E402

PAGE = HERE / "docs" / "doctor.md"
BEGIN, END = "<!-- made by benchmarks/doctor_table.py -->\n", "<!-- end of what it made -->\n"
ORIENTATION, TURNED = 0x0112, 6
SHARDS, OF_SHARDS = ("tfrecord", "webdataset"), ("photo missing", "photo cut off", "files that macOS hides")
PICTURES, NO_CLASS = (".png", ".bmp"), 201
# as the sets have them
OTHER_CLASS = (
    ('"category_id": 9', '"category_id": 77'), ('label="dog"', 'label="cow"'), ('"dog"', '"cow"'), ("1 0.5", "7 0.5"),
)  # fmt: skip
TWO_POINTS = (
    ("[[4, 0, 8, 0, 8, 8, 4, 8]]", "[[4, 0, 8, 0]]"), ("4,0;8,0;8,8;4,8", "4,0;8,0"),
    ("[[4, 0], [8, 0], [8, 8], [4, 8]]", "[[4, 0], [8, 0]]"), ("[100.0, 0.0], [100.0, 100.0], ", ""),
    ('"all_points_x": [4, 8, 8, 4], "all_points_y": [0, 0, 8, 8]', '"all_points_x": [4, 8], "all_points_y": [0, 0]'),
    ("0.5 0 1 0 1 1 0.5 1", "0.5 0 1 0"),
)  # fmt: skip
ERROR, WARNED, NOTHING, NEVER = "error", "warned", "fine", ""

Fault = Callable[[Path, Path], object]
"""Changes a photo or the file of its labels; False where the layout cannot have that."""


def _cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 5])


def _saved(path: Path, image: Image.Image, **options: object) -> None:
    image.save(path, **options)


def _enlarged(photo: Path, _: Path) -> None:
    image = Image.open(photo).convert("RGB")
    _saved(photo, image.resize((2 * image.width, 2 * image.height)))


def _turned(photo: Path, _: Path) -> None:
    image = Image.open(photo).convert("RGB")
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    _saved(photo, image, exif=exif)


def _alike(photo: Path, _: Path) -> None:
    _saved(photo.with_suffix(".tif"), Image.open(photo).convert("RGB").rotate(90))


def _beside(photo: Path, _: Path) -> None:
    image = Image.open(photo).convert("RGB").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    _saved(photo.with_name(f"ADE_new{photo.suffix}"), image)


def _unlisted(_: Path, labels: Path) -> None:
    if labels.suffix in PICTURES:
        grey = Image.open(labels).convert("L").point(lambda value: NO_CLASS)
        _saved(labels, grey)
        return
    text = labels.read_text()
    old, new = next(pair for pair in OTHER_CLASS if pair[0] in text)
    labels.write_text(text.replace(old, new, 1))


def _two_points(_: Path, labels: Path) -> bool:
    text = "" if labels.suffix in PICTURES else labels.read_text()
    shorter = next((pair for pair in TWO_POINTS if pair[0] in text), None)
    if shorter:
        labels.write_text(text.replace(*shorter, 1))
    return shorter is not None


def _hidden(photo: Path, labels: Path) -> None:
    for path in (photo, labels):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")


FAULTS: dict[str, Fault] = {
    "photo missing": lambda photo, _: photo.unlink(),
    "photo cut off": lambda photo, _: _cut(photo),
    "labels missing": lambda _, labels: labels.unlink(),
    "labels cut off": lambda _, labels: _cut(labels),
    "photo of another size": _enlarged,
    "a class that is not listed": _unlisted,
    "an outline of two points": _two_points,
    "EXIF turns a square photo": _turned,
    "a.tif beside a.jpg": _alike,
    "a photo that nothing names": _beside,
    "files that macOS hides": _hidden,
}


def made(name: str, folder: Path) -> Path:
    """The sound set of that name."""
    root = folder / "data"
    shutil.rmtree(folder, ignore_errors=True)
    SETS[name](root)
    return root


def training_opens(root: Path, splits: dict[str, str]) -> bool:
    """Whether a training reads every photo and mask of both splits."""
    try:
        for split in ("train", "val"):
            data = resolve(DataRecipe(root=root, train=splits["train"], val=splits["val"]))
            look_at(open_split(data, splits[split]).source, photos=True)
    except UserError:
        return False
    return True


def verdict(root: Path) -> str:
    """What the doctor says beyond classes that the set does not show."""
    try:
        checked = check_data(root, workers=1)
    except UserError:
        return ERROR
    told = [
        finding for finding in checked.findings if not finding.code.startswith(("class-absent", "duplicate"))
    ]
    return ERROR if not checked.passed else WARNED if told else NOTHING


def row(name: str, folder: Path) -> tuple[list[str], list[str]]:
    """The cells of a set, and in what doctor and training contradict each other."""
    cells, wrong = [], []
    root = made(name, folder)
    splits = find(root, Expected()).splits
    if recognise(root) != name.split()[0] or verdict(root) != NOTHING:
        wrong.append(f"{name}: recognised as {recognise(root)}, {verdict(root)}")
    for fault, spoil in FAULTS.items():
        root = made(name, folder)
        photo, labels = open_split(DataRecipe(root=root), splits["train"]).source.files(0)
        if name in SHARDS:
            if fault not in OF_SHARDS:
                cells.append(NEVER)
                continue
            photo = labels = photo.partition(":")[0]
        if spoil(Path(photo), Path(labels)) is False:
            cells.append(NEVER)
            continue
        pairs_in.cache_clear()
        said = verdict(root)
        if (said == ERROR) == training_opens(root, splits):
            wrong.append(f"{name}, {fault}: the doctor says {said or 'nothing'}, training says otherwise")
        cells.append(said)
    return cells, wrong


def table(names: list[str], folder: Path) -> tuple[str, list[str]]:
    """The page's two tables in markdown, and contradictions."""
    lines = ["| layout | recognised by |", "| --- | --- |"]
    lines += [f"| {name} | {layout.looks_for} |" for name, layout in LAYOUTS.items()]
    lines += ["", f"| layout | {' | '.join(FAULTS)} |", f"| --- |{' --- |' * len(FAULTS)}"]
    wrong: list[str] = []
    for name in names:
        cells, found = row(name, folder)
        lines.append(f"| {name} | {' | '.join(cells)} |")
        wrong += found
    return "\n".join(lines) + "\n", wrong


def trained(name: str, folder: Path) -> str:
    """Train two steps on the sound set; what came of it."""
    root = made(name, folder)
    splits = find(root, Expected()).splits
    recipe = squares_recipe(root, steps=2, batch_size=2, learning_rate=0.01)
    data = resolve(DataRecipe(root=root, train=splits["train"], val=splits["val"]))
    confusion = train(recipe.model_copy(update={"data": data}), folder / "run", device="cpu")
    return f"{name}: {len(data.classes)} classes, mean IoU {confusion.mean_iou():.4f} after two steps"


def main() -> int:
    """Print the table, write it, or train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--train", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        if options.train:
            for name in SETS:
                print(trained(name, folder), flush=True)
        text, wrong = table(list(SETS), folder)
    if options.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}", encoding="utf-8")
    else:
        print(text, end="")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

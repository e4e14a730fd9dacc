"""What the doctor counts, draws, writes and exits with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from broken_datasets import CLASSES, NAMES, SIZE, TRAIN, VAL, labels, make_broken, make_healthy, mask, picture
from PIL import Image
from support.shared_folder import shared

from deeplab.cli.app import main
from deeplab.data.layouts import LAYOUTS
from deeplab.doctor import inspect
from deeplab.doctor.class_list import colours_of
from deeplab.doctor.class_pixels import ClassPixels
from deeplab.doctor.contact_sheet import (
    CAPTION,
    GAP,
    TILE_HEIGHT,
    TILE_WIDTH,
    choose_pairs,
    draw_overlays,
    draw_problems,
)
from deeplab.doctor.duplicates import MAX_BITS, MAX_LEVELS, thumb_difference
from deeplab.doctor.histogram import BAR_HEIGHT, BAR_WIDTH, MARGIN, TITLE_HEIGHT, draw_histogram, row_height
from deeplab.doctor.inspect import Inspected, inspect_all
from deeplab.doctor.photo_facts import photo_facts
from deeplab.doctor.readers import FileReader, Pair
from deeplab.doctor.run import check_data
from deeplab.imaging.photos import read_photo
from deeplab.train.recipe.loss import LossRecipe

PALETTE = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def counts(split: str, *pixels: int) -> ClassPixels:
    table = np.array(pixels, np.int64)
    return ClassPixels(split, 4, table, (table > 0) * 2, (table > 0) * int(table.sum()), ignored=0)


def test_pixels_are_counted_by_split_and_class(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    spoiled = labels("a")
    spoiled[:3] = 255
    Image.fromarray(spoiled).save(mask(tmp_path, "a"))
    train, val = check_data(tmp_path).counts
    for split, names in ((train, TRAIN), (val, VAL)):
        maps = [spoiled if name == "a" else labels(name) for name in names]
        assert split.pixels.tolist() == [sum(int((m == c).sum()) for m in maps) for c in range(3)]
        assert split.photos_with.tolist() == [len(names)] * 3
        assert split.pixels_beside.tolist() == [sum(int((m != 255).sum()) for m in maps)] * 3
    assert (train.split, train.ignored, val.ignored) == ("train", 3 * SIZE[0], 0)


def test_histogram_bars_are_as_long_as_the_shares() -> None:
    splits = [counts("train", 800, 200, 0), counts("val", 400, 500, 100)]
    image = np.array(draw_histogram(splits, ("sky", "road", "car"), PALETTE, title="test"))
    left = image.shape[1] - MARGIN - 150 - BAR_WIDTH
    # the longest bar is the largest share of all, 0.8
    expected = {(0, 0): 640, (1, 0): 160, (2, 0): 0, (0, 1): 320, (1, 1): 400, (2, 1): 80}
    for (index, place), length in expected.items():
        y = TITLE_HEIGHT + index * row_height(2) + place * (BAR_HEIGHT + 3) + BAR_HEIGHT // 2
        line = image[y, left : left + BAR_WIDTH].astype(int)
        track = np.abs(line - (41, 44, 50)).max(axis=1) == 0
        assert (~track).sum() == length
        if length > 2:
            middle = line[length // 2]
            assert middle.argmax() == index
            assert (middle == PALETTE[index]).all() == (place == 0)


def test_histogram_grows_with_classes_and_takes_any_name() -> None:
    names = ["x" * 200, "Straße", "道路", *(f"class {i}" for i in range(147))]
    split = counts("all", *range(1, 151))
    image = draw_histogram([split], names, np.zeros((150, 3), np.uint8), title="many")
    assert image.width < 1300
    assert image.height == TITLE_HEIGHT + 150 * row_height(1) + MARGIN


def test_overlays_show_healthy_pairs_tinted(tmp_path: Path) -> None:
    make_broken(tmp_path, "out_of_range")
    checked = check_data(tmp_path)
    chosen = choose_pairs(checked.data)
    assert [item.pair.name for item in chosen] == [name for name in NAMES if name != "d"]
    palette = colours_of(checked.data.classes)
    sheet = draw_overlays(checked.data, checked.counts, palette)
    assert sheet is not None
    assert sheet.width == GAP + 4 * (TILE_WIDTH + GAP)
    pixels = np.array(sheet).astype(int)
    scale = TILE_WIDTH / SIZE[0]
    top = GAP + (TILE_HEIGHT - round(SIZE[1] * scale)) // 2
    photo = np.array(Image.open(tmp_path / "images" / "a.jpg")).astype(int)
    for x, y, label in ((20, 20, 1), (20, 50, 2), (70, 20, 0)):
        assert labels("a")[y, x] == label
        seen = pixels[top + round((y + 0.5) * scale), GAP + round((x + 0.5) * scale)]
        # the photo's own noise and the resampling stay below 12 levels
        wanted = photo[y, x] if label == 0 else 0.4 * photo[y, x] + 0.6 * palette[label]
        assert np.abs(seen - wanted).max() < 12


def test_overlays_show_every_class_before_anything_else(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    rare = labels("h").copy()
    rare[rare == 2] = 0
    for name in NAMES:
        values = labels(name)
        Image.fromarray(values if name == "g" else np.where(values == 2, 0, values).astype(np.uint8)).save(
            mask(tmp_path, name)
        )
    checked = check_data(tmp_path)
    assert "g" in [item.pair.name for item in choose_pairs(checked.data, most=3)]
    assert len(choose_pairs(checked.data, most=3)) == 3


def test_problem_sheet_marks_strays_and_missing_files(tmp_path: Path) -> None:
    make_broken(tmp_path, "out_of_range")
    mask(tmp_path, "b").unlink()
    checked = check_data(tmp_path)
    assert [finding.code for finding in checked.findings] == ["mask-missing", "value-out-of-range"]
    sheet = draw_problems(checked.data, checked.findings, colours_of(checked.data.classes))
    assert sheet is not None
    pixels = np.array(sheet)
    assert pixels.shape[:2] == (GAP + TILE_HEIGHT + CAPTION, GAP + 2 * (2 * TILE_WIDTH + 2 * GAP))
    magenta = (pixels == (255, 0, 255)).all(axis=2)
    # three pixels of the mask, each drawn 3.33 times as large both ways
    assert magenta.sum() == pytest.approx(3 * (TILE_WIDTH / SIZE[0]) ** 2, rel=0.15)
    assert magenta[:, : pixels.shape[1] // 2].sum() == 0


@pytest.fixture
def check(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["data", "check", *map(str, words)])
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return run


def test_command_on_healthy_data_writes_everything_and_exits_0(check, tmp_path: Path) -> None:
    make_healthy(tmp_path / "mine")
    code, out, _ = check("mine")
    assert code == 0 and "passed: no warnings" in out
    folder = tmp_path / "mine-check"
    assert {path.name for path in folder.iterdir()} == {
        "check.json", "class_weights.yaml", "classes.png", "overlays.png",
    }  # fmt: skip
    report = json.loads((folder / "check.json").read_text())
    assert report["passed"] and report["findings"] == [] and report["classes"] == list(CLASSES)
    assert [split["masks"] for split in report["splits"]] == [len(TRAIN), len(VAL)]
    # both the file and what is printed go into a recipe as they are
    recipe = LossRecipe(**yaml.safe_load((folder / "class_weights.yaml").read_text())["loss"])
    assert recipe.class_weights == tuple(report["class_weights"])
    printed = out[out.index("loss:") : out.index("]") + 1]
    assert yaml.safe_load(printed)["loss"]["class_weights"] == report["class_weights"]


def test_command_on_broken_data_exits_1_and_clears_an_earlier_report(check, tmp_path: Path) -> None:
    make_healthy(tmp_path / "mine")
    check("mine", "-o", "report")
    fault = make_broken(tmp_path / "mine", "black_and_white")
    code, out, _ = check("mine", "-o", "report")
    assert code == 1 and "FAILED: 1 error, no warnings" in out
    assert fault.code in out and "Fix: Read them as two classes" in " ".join(out.split())
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"check.json", "problems.png"}
    report = json.loads((tmp_path / "report" / "check.json").read_text())
    assert not report["passed"] and report["findings"][0]["files"] == list(fault.files)


def test_command_takes_warnings_as_passed_and_a_wrong_call_as_2(check, tmp_path: Path) -> None:
    make_broken(tmp_path / "mine", "all_ignored")
    code, out, _ = check("mine")
    assert code == 0 and "passed: 1 warning" in out and "masks/e.png" in out
    code, _, err = check("nowhere")
    assert code == 2 and "nowhere is no folder" in err


@pytest.mark.parametrize("suffix", ["jpg", "tiff", "png"])
def test_a_turned_photo_has_the_size_that_readers_give_it(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"turned.{suffix}"
    Image.new("RGB", (60, 40), (90, 20, 30)).save(path, exif=exif)
    assert read_photo(path).shape == (60, 40, 3)
    assert photo_facts(path).upright_size == (40, 60)


def test_a_report_inside_the_data_set_is_not_data(check, tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / split).mkdir()
        picture(name).save(tmp_path / split / f"{name}.jpg")
        Image.fromarray(labels(name)).save(tmp_path / split / f"{name}_mask.png")
    for _ in range(2):
        check(".", "-o", "train/report")
        report = json.loads((tmp_path / "train" / "report" / "check.json").read_text())
        assert report["pairs"] == 2
        assert [finding["code"] for finding in report["findings"]] == ["training-refuses"]


def test_many_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_broken(tmp_path, "truncated_photo")
    pairs = [Pair(name, "train", tmp_path / "images" / f"{name}.jpg", mask(tmp_path, name)) for name in NAMES]
    alone = inspect_all(pairs, FileReader(), workers=1)
    monkeypatch.setattr(inspect, "_WORTH_A_POOL", 1)
    seen: list[None] = []
    together = inspect_all(pairs, FileReader(), workers=2, on_pair=lambda: seen.append(None))
    assert together == alone
    assert len(seen) == len(pairs)
    assert together[2].photo is not None and together[2].photo.error is not None


def test_copies_of_real_photos_are_recognised_and_others_are_not(tmp_path: Path) -> None:
    photos = sorted(shared("assets/voc_animals/JPEGImages").glob("*.jpg"))[:60:4]
    items = [Inspected(Pair(p.stem, "val", p, None), photo_facts(p), None) for p in photos]

    def bits(a: Inspected, b: Inspected) -> int:
        return int(
            np.unpackbits(np.bitwise_xor(*(np.frombuffer(i.photo.hash, np.uint8) for i in (a, b)))).sum()
        )

    for item in items[::5]:
        copy = tmp_path / "copy.jpg"
        with Image.open(item.pair.photo) as image:
            image.convert("RGB").resize((210, 150), Image.Resampling.LANCZOS).save(copy, quality=50)
        again = Inspected(item.pair, photo_facts(copy), None)
        assert bits(item, again) <= MAX_BITS and thumb_difference(item, again) <= MAX_LEVELS
        for other in items:
            if other is not item:
                assert bits(other, again) > MAX_BITS or thumb_difference(other, again) > MAX_LEVELS


@pytest.mark.parametrize("name", ["images", "coco", "yolo", "tfrecord"])
def test_the_page_shows_what_is_said_of_each_layout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from doctor_table import BEGIN, END, FAULTS, PAGE, row

    made = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].splitlines()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells, wrong = row(name, tmp_path / "set")
    assert wrong == [] and f"| {name} | {' | '.join(cells)} |" in made
    assert f"| layout | {' | '.join(FAULTS)} |" in made
    assert f"| {name} | {LAYOUTS[name].looks_for} |" in made

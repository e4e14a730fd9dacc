"""COCO's panoptic format: written here, read there; workers; the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.cli.app import main
from deeplab.errors import UserError
from deeplab.evaluation.panoptic import (
    PanopticFiles,
    PanopticQuality,
    ParsingCovering,
    evaluate_files,
    read_files,
)
from deeplab.evaluation.panoptic.coco import Annotation, category_and_instance, read_ids

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "grass", "isthing": 0},
    {"id": 4, "name": "dog", "isthing": 1},
]
# (pixels, id) of one row, and the segments: the case of evaluation/test_panoptic.py, worked out by hand there
TRUTH = [(10, 70_000), (4, 300), (2, 0), (4, 5)]
TRUTH_SEGMENTS = [
    {"id": 70_000, "category_id": 1, "iscrowd": 0},
    {"id": 300, "category_id": 2, "iscrowd": 0},
    {"id": 5, "category_id": 2, "iscrowd": 1},
]
PREDICTED = [(8, 11), (4, 12), (2, 13), (2, 11), (2, 13), (2, 14)]
PREDICTED_SEGMENTS = [
    {"id": 11, "category_id": 1},
    {"id": 12, "category_id": 2},
    {"id": 13, "category_id": 1},
    {"id": 14, "category_id": 2, "iscrowd": 1},
]


def save_ids(ids: np.ndarray, path: Path) -> None:
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(colours.astype(np.uint8)).save(path)


def write(
    root: Path, name: str, pictures: list[tuple[np.ndarray, list]], *, first: int = 100
) -> PanopticFiles:
    """NAME.json and NAME/ of (ids, segments) by picture, numbered from `first`."""
    (root / name).mkdir(parents=True)
    annotations = []
    for number, (ids, segments) in enumerate(pictures, start=first):
        save_ids(ids, root / name / f"{number}.png")
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    content = {"images": [], "annotations": annotations, "categories": CATEGORIES}
    (root / f"{name}.json").write_text(json.dumps(content))
    return read_files(root / f"{name}.json")


def row(runs: list[tuple[int, int]]) -> np.ndarray:
    return np.repeat([[key for _, key in runs]], [count for count, _ in runs], axis=1)


def by_hand(root: Path) -> tuple[PanopticFiles, PanopticFiles]:
    truth = write(root, "truth", [(row(TRUTH), TRUTH_SEGMENTS)])
    return truth, write(root, "predicted", [(row(PREDICTED), PREDICTED_SEGMENTS)])


def random_pictures(count: int, *, seed: int) -> list[tuple[np.ndarray, list]]:
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        ids = np.kron(rng.integers(1, 7, (3, 4)), np.ones((5, 4), int)) * 4099
        kinds = rng.choice([1, 2, 4], 6).tolist()
        segments = [{"id": 4099 * (key + 1), "category_id": kind} for key, kind in enumerate(kinds)]
        pictures.append((ids, segments))
    return pictures


def test_files_by_hand(tmp_path: Path) -> None:
    truth, predicted = by_hand(tmp_path)
    quality = evaluate_files(truth, predicted, measure=PanopticQuality(5, 0))
    assert quality.result() == pytest.approx(4 / 15, rel=1e-12)
    assert quality.fp_per_class.tolist() == [0, 1, 1, 0, 0]
    covering = evaluate_files(truth, predicted, measure=ParsingCovering(5, 0))
    assert covering.result() == pytest.approx(17 / 30, rel=1e-12)
    assert covering.gt_area_per_class == pytest.approx([0, 0.5, 0.2, 0, 0])
    assert truth.num_categories() == 5 and truth.is_thing(5) == [False, True, False, False, True]


def test_void_is_the_ignored_label(tmp_path: Path) -> None:
    truth, predicted = by_hand(tmp_path)
    moved = evaluate_files(truth, predicted, measure=PanopticQuality(5, 255))
    assert moved.result() == pytest.approx(4 / 15, rel=1e-12)


def test_segments_are_numbered_by_category_and_crowds_from_one() -> None:
    entry = Annotation.model_validate(
        {
            "image_id": "a",
            "file_name": "a.png",
            "segments_info": [*TRUTH_SEGMENTS, {"id": 9, "category_id": 1}],
        }
    )
    ids = np.array([[70_000, 9, 300], [5, 0, 0]])
    category, instance = category_and_instance(entry, ids, ignored_label=0, crowds="ignored")
    assert category.tolist() == [[1, 1, 2], [0, 0, 0]]
    assert instance.tolist() == [[0, 1, 0], [1, 0, 0]]
    category, instance = category_and_instance(entry, ids, ignored_label=0, crowds="kept")
    assert category.tolist() == [[1, 1, 2], [2, 0, 0]]
    assert instance.tolist() == [[0, 1, 0], [1, 0, 0]]
    with pytest.raises(UserError, match=r"a\.png: id 8 at row 1, column 2 is none of its segments_info"):
        category_and_instance(entry, np.array([[300, 0, 9], [0, 0, 8]]), ignored_label=0, crowds="kept")


def test_image_ids_are_compared_as_one_type(tmp_path: Path) -> None:
    truth, _ = by_hand(tmp_path)
    path = tmp_path / "predicted.json"
    path.write_text(path.read_text().replace('"image_id": 100', '"image_id": "100.0"'))
    quality = evaluate_files(truth, read_files(path), measure=PanopticQuality(5, 0))
    assert quality.result() == pytest.approx(4 / 15, rel=1e-12)


def test_ids_come_back_from_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 255, 256, 65_535, 65_536, 2**24 - 1]])
    save_ids(ids, tmp_path / "a.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "a.png"), ids)


def test_round_trip_gives_what_the_maps_give(tmp_path: Path) -> None:
    pictures = random_pictures(3, seed=1), random_pictures(3, seed=2)
    truth, predicted = write(tmp_path, "truth", pictures[0]), write(tmp_path, "predicted", pictures[1])
    read = evaluate_files(truth, predicted, measure=PanopticQuality(5, 0))
    direct = PanopticQuality(5, 0)
    for pair in zip(*pictures, strict=True):
        maps = []
        for ids, segments in pair:
            kind = np.zeros(7, int)
            kind[1:] = [segment["category_id"] for segment in segments]
            maps += [kind[ids // 4099], ids // 4099]
        direct.compare_and_accumulate(*maps)
    np.testing.assert_allclose(read.totals, direct.totals, rtol=1e-12)
    assert read.tp_per_class.sum() > 0 and read.fn_per_class.sum() > 0
    same = evaluate_files(truth, truth, measure=ParsingCovering(5, 0))
    assert same.result() == pytest.approx(1)


def test_any_number_of_workers_gives_the_same_bits(tmp_path: Path) -> None:
    truth = write(tmp_path, "truth", random_pictures(19, seed=3))
    predicted = write(tmp_path, "predicted", random_pictures(19, seed=4))
    seen: list[int] = []
    alone = evaluate_files(truth, predicted, measure=ParsingCovering(5, 0))
    shared = evaluate_files(
        truth, predicted, measure=ParsingCovering(5, 0), workers=2, on_picture=lambda: seen.append(1)
    )
    assert alone.totals.any() and alone.totals.tobytes() == shared.totals.tobytes()
    assert len(seen) == 19


def test_predictions_of_other_pictures_do_not_matter(tmp_path: Path) -> None:
    pictures = random_pictures(3, seed=5)
    truth, predicted = (
        write(tmp_path, "truth", pictures[1:], first=101),
        write(tmp_path, "predicted", pictures),
    )
    assert evaluate_files(truth, predicted, measure=PanopticQuality(5, 0)).result() == 1
    with pytest.raises(UserError, match=r"truth.json has no annotation for 1 of 3 .* image_id 100"):
        evaluate_files(predicted, truth, measure=PanopticQuality(5, 0))


def test_wrong_pictures_are_named(tmp_path: Path) -> None:
    truth, predicted = by_hand(tmp_path)
    png = tmp_path / "predicted" / "100.png"

    def refused(said: str, *, categories: int = 5) -> None:
        with pytest.raises(UserError, match=said):
            evaluate_files(truth, predicted, measure=PanopticQuality(categories, 0))

    refused(r"predicted/100.png: the ground truth has category 2 .* allowed: 0\.\.1", categories=2)
    save_ids(row(PREDICTED)[:, 1:], png)
    refused(r"predicted/100.png is 19x1, .*truth/100.png 20x1")
    Image.new("P", (20, 1)).save(png)
    refused("predicted/100.png: is of mode P; allowed: RGB")
    png.write_bytes(b"no picture")
    refused("predicted/100.png: cannot be read as a picture")
    png.unlink()
    refused("predicted/100.png: cannot be read .No such file")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "a.json: the file: Invalid JSON"),
        ('{"images": []}', r"a.json: annotations: Field required; allowed: COCO's panoptic format"),
        (
            '{"annotations": [{"image_id": 1, "file_name": "x"}]}',
            r"annotations\.0\.segments_info: Field required",
        ),
        (
            json.dumps({"annotations": [{"image_id": 1, "file_name": "x", "segments_info": []}] * 2}),
            "image_id 1 is there twice",
        ),
    ],
)
def test_wrong_jsons_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=said):
        read_files(tmp_path / "a.json")


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.json: cannot be read \(No such file"):
        read_files(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"annotations": []}')
    with pytest.raises(UserError, match="/a is no folder; fix: name the folder of the PNGs"):
        read_files(tmp_path / "a.json")


def command(root: Path, *options: str) -> int | str | None:
    places = [root / "truth.json", root / "truth", root / "predicted.json", root / "predicted"]
    with pytest.raises(SystemExit) as ended:
        main(["panoptic", *map(str, places), *options])
    return ended.value.code


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand(tmp_path)
    assert command(tmp_path) == 0
    out = capsys.readouterr().out
    lines = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["cat", "53.33", "80.00", "66.67", "thing"] in lines
    assert ["Stuff", "0.00", "0.00", "0.00", "1"] in lines
    assert ["All", "26.67", "40.00", "33.33", "2"] in lines
    report = json.loads((tmp_path / "predicted.pq.json").read_text())
    assert report["metric"] == "pq" and report["All"]["pq"] == pytest.approx(4 / 15)
    assert [entry["name"] for entry in report["classes"]] == ["cat", "grass"]
    assert report["classes"][1] == {
        **{"id": 2, "name": "grass", "isthing": False, "pq": 0, "sq": 0, "rq": 0},
        **{"iou": 0, "tp": 0, "fn": 1, "fp": 1},
    }


def test_the_command_measures_covering(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand(tmp_path)
    assert command(tmp_path, "--metric", "pc", "--no-normalize", "-o", str(tmp_path / "new" / "pc.json")) == 0
    report = json.loads((tmp_path / "new" / "pc.json").read_text())
    assert report["Things"] == pytest.approx({"pc": 0.8, "n": 1})
    assert report["normalize_by_image_size"] is False and report["classes"][0]["gt_area"] == 10
    assert "80.00" in capsys.readouterr().out


def test_the_command_overwrites_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand(tmp_path)
    before = (tmp_path / "truth.json").read_bytes()
    assert command(tmp_path, "--output", str(tmp_path / "truth.json")) == 2
    assert "truth.json is an input" in capsys.readouterr().err
    assert (tmp_path / "truth.json").read_bytes() == before

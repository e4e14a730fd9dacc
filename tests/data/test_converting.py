"""Any layout as a plain folder: photos copied, annotations drawn, classes kept."""

import json

import numpy as np
import pytest
from PIL import Image
from support.data_folders import photo, text

from deeplab.cli.app import main
from deeplab.data.converting import write_plain
from deeplab.data.layouts import recognise
from deeplab.data.opening import open_source, split_names
from deeplab.errors import UserError


def annotate(path, label, size=(4, 4)):
    shape = {"label": label, "points": [[0, 0], [2, 0], [2, 1], [0, 1]], "shape_type": "polygon"}
    content = {
        "imagePath": f"{path.stem}.jpg",
        "imageHeight": size[0],
        "imageWidth": size[1],
        "shapes": [shape],
    }
    text(path, json.dumps(content))


@pytest.fixture
def annotated(tmp_path):
    root = tmp_path / "labelme"
    for split, label in {"train": "cat", "val": "dog"}.items():
        photo(root / split / "a.jpg", (4, 4))
        annotate(root / split / "a.json", label)
    return root


def test_both_splits_become_one_plain_folder(annotated, tmp_path, capsys):
    out = tmp_path / "out"
    for split in ("train", "val"):
        with pytest.raises(SystemExit) as done:
            main(["data", "convert", str(annotated), str(out), "--split", split])
        assert done.value.code == 0
    assert "1 samples" in capsys.readouterr().out
    assert recognise(out) == "images" and split_names(out) == ("train", "val")
    source = open_source(out, "val")
    assert source.classes == ("background", "cat", "dog")
    assert source.label(0).tolist() == [[2, 2, 0, 0]] + [[0] * 4] * 3
    assert (out / "images/val/a.jpg").read_bytes() == (annotated / "val/a.jpg").read_bytes()
    with Image.open(out / "masks/train/a.png") as mask:
        assert mask.mode == "P" and np.array(mask)[0].tolist() == [1, 1, 0, 0]
    assert not list(out.rglob(".*"))


def test_other_classes_and_wrong_samples_are_refused(annotated, tmp_path):
    out = tmp_path / "out"
    write_plain(open_source(annotated, "train"), out, "train")
    annotate(annotated / "val/a.json", "horse")
    with pytest.raises(UserError, match=r"classes\.txt lists other classes than background, cat, horse"):
        write_plain(open_source(annotated, "val"), out, "val")
    annotate(annotated / "train/a.json", "cat", size=(3, 4))
    with pytest.raises(UserError, match=r"a\.json is 4x3 .*a\.jpg is 4x4"):
        write_plain(open_source(annotated, "train"), tmp_path / "other", "train")


def test_options_say_how_what_was_drawn_is_taken(annotated, tmp_path, capsys):
    path = annotated / "train/a.json"
    content = json.loads(path.read_text())
    content["shapes"].append({"label": "cat", "points": [[0, 3], [4, 3]], "shape_type": "line"})
    text(path, json.dumps(content))

    def converted(*options):
        with pytest.raises(SystemExit) as done:
            main(["data", "convert", str(annotated), str(tmp_path / "out"), *options])
        return done.value.code, capsys.readouterr().err

    code, said = converted()
    assert code == 2 and "data.line_width=10" in said
    assert converted("--line-width", "2")[0] == 0
    with Image.open(tmp_path / "out/masks/train/a.png") as mask:
        assert np.array(mask)[2:].tolist() == [[1] * 4] * 2
    content["shapes"][1]["points"] = []
    text(path, json.dumps(content))
    code, said = converted("--on-bad", "error", "--drawn-on", "upright")
    assert code == 2 and f"1 annotations paint nothing, first: shape 2 (cat) in {path}" in said

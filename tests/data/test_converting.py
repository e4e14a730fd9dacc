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

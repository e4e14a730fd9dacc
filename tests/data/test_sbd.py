"""train_aug from SBD's MATLAB files and VOC's own masks."""

import numpy as np
import pytest
from PIL import Image
from support.data_folders import grey, photo, text

from deeplab.cli.app import main
from deeplab.data.opening import open_source
from deeplab.data.sbd import plan_train_aug, read_sbd_mask
from deeplab.data.storage import Storage
from deeplab.errors import UserError

scipy_io = pytest.importorskip("scipy.io")


def write_mat(path, values):
    """As SBD's: a struct GTcls with Segmentation, Boundaries and CategoriesPresent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"Segmentation": np.asarray(values, np.uint8), "CategoriesPresent": np.unique(values)}
    scipy_io.savemat(path, {"GTcls": content})


@pytest.fixture
def folders(tmp_path):
    """VOC: train t1 t2, val v1. SBD: train s1 t1, val v1 s2."""
    voc, sbd = tmp_path / "VOC2012", tmp_path / "benchmark"
    for name in ("t1", "t2", "v1", "s1", "s2"):
        photo(voc / f"JPEGImages/{name}.jpg", (2, 3))
    for name, value in {"t1": 1, "t2": 2, "v1": 3}.items():
        grey(voc / f"SegmentationClass/{name}.png", [[value, 0, 255], [value, 0, 255]])
    text(voc / "ImageSets/Segmentation/train.txt", "t1\nt2\n")
    text(voc / "ImageSets/Segmentation/val.txt", "v1\n")
    for name, value in {"s1": 15, "t1": 16, "v1": 17, "s2": 20}.items():
        write_mat(sbd / f"benchmark_RELEASE/dataset/cls/{name}.mat", [[0, value, value], [0, 0, value]])
    text(sbd / "benchmark_RELEASE/dataset/train.txt", "s1\nt1\n")
    text(sbd / "benchmark_RELEASE/dataset/val.txt", "v1\ns2\n")
    return sbd, voc


def test_train_aug_is_sbd_and_train_without_val(folders, capsys):
    sbd, voc = folders
    with pytest.raises(SystemExit) as done:
        main(["data", "sbd", str(sbd), str(voc)])
    assert done.value.code == 0 and "train_aug: 4 photos; 5 masks" in capsys.readouterr().out
    assert (voc / "ImageSets/Segmentation/train_aug.txt").read_text() == "s1\ns2\nt1\nt2\n"
    source = open_source(voc, "train_aug")
    assert not source.missing
    # SBD's where VOC has none; VOC's own, with its ignored borders, where it has one
    assert source.label(0).tolist() == [[0, 15, 15], [0, 0, 15]]
    assert source.label(2).tolist() == [[1, 0, 255], [1, 0, 255]]
    assert open_source(voc, "val", Storage(labels="SegmentationClassAug")).label(0)[0].tolist() == [3, 0, 255]
    with Image.open(voc / "SegmentationClassAug/s2.png") as mask:
        assert mask.mode == "P"


def test_missing_parts_are_named_before_anything_is_written(folders):
    sbd, voc = folders
    (voc / "JPEGImages/s2.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 4 names have no photo in .*JPEGImages, first s2"):
        plan_train_aug(sbd, voc)
    with pytest.raises(UserError, match="is not SBD: none of"):
        plan_train_aug(voc, voc)
    assert not (voc / "SegmentationClassAug").exists()


def test_broken_matlab_files_are_named(tmp_path):
    text(tmp_path / "x.mat", "no")
    with pytest.raises(UserError, match=r"x\.mat cannot be read as an SBD annotation"):
        read_sbd_mask(tmp_path / "x.mat")
    write_mat(tmp_path / "y.mat", [[21]])
    with pytest.raises(UserError, match=r"y\.mat: shape \(1, 1\), largest value 21"):
        read_sbd_mask(tmp_path / "y.mat")

"""The VOC layout: class selection, reading, reproducible draws, and errors that name the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from deeplab.data.augment import TrainAugment
from deeplab.data.dataset import SegmentationDataset
from deeplab.data.layouts.masks import read_mask
from deeplab.data.opening import open_complete
from deeplab.data.sampling import TrainSampler
from deeplab.data.selection import select_classes, selected
from deeplab.data.storage import Storage
from deeplab.errors import UserError
from deeplab.imaging.palettes import VOC_CLASSES

ANIMALS = Path(__file__).resolve().parents[3] / "shared" / "assets" / "voc_animals"
needs_animals = pytest.mark.skipif(not ANIMALS.is_dir(), reason=f"labelled photos are not at {ANIMALS}")
KEEP = ("background", "cat", "cow", "dog", "horse", "sheep", "person")


def voc(root, split, *, labels=None, keep=(), **options):
    whole = open_complete(root, split, Storage(layout="voc", labels=labels))
    return SegmentationDataset(selected(whole, keep), **options)


def write_mask(path, values):
    mask = Image.fromarray(np.asarray(values, dtype=np.uint8))
    mask.putpalette(np.random.default_rng(0).permutation(768) % 256)
    mask.save(path)


@pytest.fixture
def root(tmp_path):
    """Three photos of 6x8 pixels: a and b on the list, values 0, 8, 12, 255."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(
            tmp_path / f"JPEGImages/{name}.jpg"
        )
        values = np.repeat([[0], [0], [8], [12], [255], [8]], 8, axis=1)
        write_mask(tmp_path / f"SegmentationClass/{name}.png", values)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n\n")
    return tmp_path


def test_select_classes_ignoring_the_rest():
    table = select_classes(VOC_CLASSES, KEEP)
    assert table.dtype == np.uint8 and table.shape == (256,)
    assert [table[VOC_CLASSES.index(name)] for name in KEEP] == [0, 1, 2, 3, 4, 5, 6]
    assert table[1] == 255 and table[255] == 255 and table[99] == 255


def test_select_classes_with_the_rest_as_background():
    table = select_classes(VOC_CLASSES, ("person", "background"), other="background")
    assert table[15] == 0 and table[0] == 1 and table[8] == 1 and table[20] == 1
    assert table[255] == 255 and table[21] == 255


@pytest.mark.parametrize(
    "keep, other, message",
    [
        (("background", "unicorn"), "ignore", "'unicorn'.*allowed: background, aeroplane"),
        (("cat", "cat"), "ignore", "each once"),
        ((), "ignore", "each once"),
        (("cat", "dog"), "background", "background is among"),
        (("cat",), "drop", "other='drop'"),
    ],
)
def test_select_classes_errors(keep, other, message):
    with pytest.raises(UserError, match=message):
        select_classes(VOC_CLASSES, keep, other=other)


def test_sample_without_transform(root):
    dataset = voc(root, "train")
    image, label = dataset[0]
    assert len(dataset) == 2 and image.shape == (3, 6, 8) and image.dtype == torch.uint8
    assert label.dtype == torch.uint8 and label[:, 0].tolist() == [0, 0, 8, 12, 255, 8]
    with Image.open(root / "JPEGImages/a.jpg") as photo:
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(photo))


def test_chosen_classes_are_renumbered(root):
    dataset = voc(root, "train", keep=("background", "dog"))
    assert dataset[1][1][:, 3].tolist() == [0, 0, 255, 1, 255, 255]


def test_mask_folder_with_every_mask_is_found(root):
    (root / "SegmentationClassAug").mkdir()
    for name in ("a", "b"):
        write_mask(root / f"SegmentationClassAug/{name}.png", np.full((6, 8), 3))
    assert voc(root, "train")[0][1].max() == 255
    assert voc(root, "train", labels="SegmentationClassAug")[0][1].unique().tolist() == [3]
    (root / "SegmentationClass/b.png").unlink()
    assert voc(root, "train")[0][1].unique().tolist() == [3]


def test_indices_behave_as_in_a_list(root):
    dataset = voc(root, "train", transform=TrainAugment(crop_size=(4, 4)))
    assert torch.equal(dataset[-1][0], dataset[1][0])
    with pytest.raises(IndexError):
        dataset[2]


def test_draws_differ_and_repeat(root):
    dataset = voc(root, "train", transform=TrainAugment(crop_size=(4, 4)), seed=5)
    again = voc(root, "train", transform=TrainAugment(crop_size=(4, 4)), seed=5)
    draws = [dataset[0, draw][0] for draw in range(8)]
    assert all(torch.equal(a, again[0, draw][0]) for draw, a in enumerate(draws))
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) > 4
    other_seed = voc(root, "train", transform=TrainAugment(crop_size=(4, 4)), seed=6)
    assert any(not torch.equal(other_seed[0, draw][0], a) for draw, a in enumerate(draws))


def test_workers_change_nothing(root):
    dataset = voc(root, "train", transform=TrainAugment(crop_size=(4, 4)))
    batches = [
        list(
            DataLoader(
                dataset, 3, sampler=TrainSampler(2, stop=9), num_workers=workers, persistent_workers=False
            )
        )
        for workers in (0, 2)
    ]
    assert len(batches[0]) == len(batches[1]) == 3
    for (image, label), (image_2, label_2) in zip(*batches, strict=True):
        assert torch.equal(image, image_2) and torch.equal(label, label_2)


def test_missing_pieces_are_named(root):
    with pytest.raises(UserError, match=r"val\.txt is missing; lists found there: train"):
        voc(root, "val")
    with pytest.raises(UserError, match=r"Masks is missing; found in .*SegmentationClass"):
        voc(root, "train", labels="Masks")
    (root / "SegmentationClass/b.png").unlink()
    with pytest.raises(UserError, match=r"1 files are missing, first: mask b\.png in .*SegmentationClass;"):
        voc(root, "train")
    (root / "JPEGImages/a.jpg").unlink()
    with pytest.raises(UserError, match=r"2 files are missing, first: photo a in .*JPEGImages"):
        voc(root, "train")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n")
    with pytest.raises(UserError, match=r"split 'train' of .* has no samples"):
        voc(root, "train")


def test_wrong_value_is_named_with_its_file_and_place(root):
    values = np.zeros((6, 8))
    values[2, 5] = 37
    write_mask(root / "SegmentationClass/b.png", values)
    with pytest.raises(UserError, match=r"b\.png: value 37 at row 2, column 5.*0\.\.20"):
        voc(root, "train")[1]


def test_size_mismatch_names_both_files(root):
    write_mask(root / "SegmentationClass/a.png", np.zeros((8, 6)))
    with pytest.raises(UserError, match=r"a\.png is 6x8.*a\.jpg is 8x6"):
        voc(root, "train")[0]


def test_colour_and_broken_masks_are_refused(root):
    path = root / "SegmentationClass/a.png"
    Image.new("RGB", (8, 6)).save(path)
    with pytest.raises(UserError, match=r"a\.png: saved as RGB with three equal channels"):
        read_mask(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"a\.png: not a picture"):
        read_mask(path)


@needs_animals
def test_real_photos():
    dataset = voc(ANIMALS, "train_aug", keep=KEEP)
    assert len(dataset) == 3131 and len(voc(ANIMALS, "val")) == 223
    image, label = dataset[0]
    assert image.shape[1:] == label.shape
    for index in range(0, 3131, 500):
        assert set(dataset[index][1].unique().tolist()) <= {*range(7), 255}


@needs_animals
def test_real_pixel_shares_are_the_published_ones():
    dataset = voc(ANIMALS, "train_aug")
    counts = np.zeros(256, dtype=np.int64)
    for index in range(len(dataset)):
        counts += np.bincount(dataset.source.label(index).ravel(), minlength=256)
    shares = 100 * counts / counts.sum()
    published = {
        "background": 65.7,
        "cat": 10.9,
        "dog": 9.7,
        "horse": 3.0,
        "person": 3.0,
        "sheep": 2.1,
        "cow": 1.8,
    }
    for name, share in published.items():
        assert abs(shares[VOC_CLASSES.index(name)] - share) <= 0.1, name

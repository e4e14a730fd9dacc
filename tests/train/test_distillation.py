"""Distillation: maps cut as their photos are, classes matched by name, the loss by hand, and a run that learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import NAMES, make_squares, squares_recipe

from deeplab.config import ResizeRule
from deeplab.data.augment import TrainAugment
from deeplab.data.resize import scaled_size
from deeplab.data.teacher_maps import Grid, TeacherMaps, class_matches, write_classes, write_map
from deeplab.errors import UserError
from deeplab.layers.resize import resize_bilinear
from deeplab.model.checkpoint import load
from deeplab.train.losses.distillation import distillation_loss
from deeplab.train.recipe import Recipe
from deeplab.train.run import train


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def taught_by(
    squares: Path, teacher: str | Path, *, augment: dict | None = None, **optimise: float
) -> Recipe:
    values = squares_recipe(squares, **optimise).model_dump(mode="json")
    values["augment"] |= augment or {}
    return Recipe.model_validate(values | {"distil": {"teacher": str(teacher)}})


def store(folder: Path, classes: tuple[str, ...], maps: dict[str, np.ndarray]) -> Path:
    write_classes(folder, classes)
    for name, probabilities in maps.items():
        write_map(folder / f"{name}.npz", probabilities)
    return folder


@pytest.mark.parametrize("rule", ["align_corners", "half_pixel", "legacy"])
def test_logits_lie_where_the_rule_enlarges_them_from(rule: ResizeRule) -> None:
    """A ramp taken at the grid's positions and enlarged is the ramp again, between the outermost positions."""
    side, stride = 48, 4
    at = Grid(stride, rule).positions(side)
    small = torch.tensor(at, dtype=torch.float32)[None, None, None].expand(1, 1, len(at), len(at))
    large = resize_bilinear(small, (side, side), rule)[0, 0, side // 2]
    within = (np.arange(side) >= at[0]) & (np.arange(side) <= at[-1])
    np.testing.assert_allclose(large.numpy()[within], np.arange(side)[within], atol=1e-4)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize(("side", "scale"), [(33, 1.5), (65, 0.7)])
def test_a_map_is_cut_scaled_and_mirrored_as_its_photo(
    tmp_path: Path, flip: float, side: int, scale: float
) -> None:
    """Planes that are ramps over the photo are where the pixels of a photo with the same ramps are."""
    height, width = 40, 56
    ramps = np.stack(
        np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij"), axis=2
    ).astype(np.float32)
    photo = np.dstack([ramps * 200, np.full((height, width), 100.0)]).astype(np.float32)
    coarse = ramps[:: height - 1, :: width - 1].transpose(2, 0, 1)
    folder = store(tmp_path, ("background", "red"), {"photo": coarse})
    taught = TeacherMaps([folder], ("background", "red"), Grid(4)).of("somewhere/photo.jpg")
    augment = TrainAugment(crop_size=(side, side), scale_range=(scale, scale), flip_probability=flip)
    label = np.zeros((height, width), np.uint8)
    image, labels, shares = augment(photo, label, np.random.default_rng(3), taught)
    at = np.rint(Grid(4).positions(side)).astype(int)
    pixels, shown = image.numpy()[:2][:, at][:, :, at], labels.numpy()[at][:, at]
    padding = shown == 255
    assert padding.any() == (scale < 1) and (scale < 1 or scaled_size(height, width, scale=scale)[0] > side)
    np.testing.assert_allclose(shares.numpy() * 200, np.where(padding, 0, pixels), atol=0.7)


def test_classes_are_matched_by_name_and_the_rest_is_background(tmp_path: Path) -> None:
    teacher = ("Background", "sofa", "cat")
    np.testing.assert_array_equal(
        class_matches(teacher, ("cat", "background", "dog"), "t"), [[0, 0, 1], [1, 1, 0], [0, 0, 0]]
    )
    # without a background what has no name is no class
    np.testing.assert_array_equal(class_matches(teacher, ("cat", "sofa"), "t"), [[0, 0, 1], [0, 1, 0]])
    with pytest.raises(
        UserError, match=r"somebody has the classes Background, sofa, cat, of which fewer than two"
    ):
        class_matches(teacher, ("horse", "cat"), "somebody")


def test_teachers_are_averaged_and_not_heard_where_they_lack_the_class(tmp_path: Path) -> None:
    """Of two teachers one knows no dog; half of the photo is one."""
    maps = [np.full((2, 2, 2), 0.5), np.zeros((3, 5, 5))]
    maps[1][2] = 1
    folders = [
        store(tmp_path / str(number), classes, {"a": planes})
        for number, (classes, planes) in enumerate(
            zip((("background", "cat"), ("background", "cat", "dog")), maps, strict=True)
        )
    ]
    label = np.zeros((9, 9), np.uint8)
    label[:, 5:] = 2
    taught = TeacherMaps(folders, ("background", "cat", "dog"), Grid(4)).of("a.png")
    shares = taught.cut(label, size=(9, 9), offset=(0, 0), flip=False).numpy()
    np.testing.assert_allclose(shares[:, 0], np.array([[0.25, 0.25, 0.5], [0.25, 0.25, 0.5], [0, 0, 1]]).T)


def test_divergence_by_hand() -> None:
    """T^2 sum p log(p / q) of softened p and q over the places that are taught."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    said = torch.randn(2, 3, 4, 5) * 2
    shares = said.softmax(1)
    shares[0, :, 1] = 0
    found = distillation_loss(logits, shares, temperature=2.0)
    right, own = (said / 2).softmax(1), (logits / 2).softmax(1)
    each = 4 * (right * (right / own).log()).sum(1)
    taught = torch.ones(2, 4, 5, dtype=torch.bool)
    taught[0, 1] = False
    torch.testing.assert_close(found, each[taught].mean())
    found.backward()
    assert (logits.grad[0, :, 1] == 0).all() and (logits.grad[1] != 0).any()
    same = distillation_loss(said, said.softmax(1), temperature=3.0)
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(logits, torch.zeros_like(shares)).item() == 0


def test_a_student_learns_what_only_its_teacher_says(squares: Path, tmp_path: Path, own_cache: Path) -> None:
    """The student's masks count for nothing; the teacher has learnt from them."""
    teacher = tmp_path / "teacher"
    train(squares_recipe(squares, steps=60), teacher, device="cpu")
    untaught = {"loss": {"cross_entropy": 1e-9}}
    recipe = Recipe.model_validate(taught_by(squares, teacher, steps=100).model_dump(mode="json") | untaught)
    confusion = train(recipe, tmp_path / "student", device="cpu")
    assert confusion.mean_iou() > 0.6
    record = json.loads((tmp_path / "student" / "run.json").read_text())
    assert record["taught by"][0]["provenance"]["recipe sha256"] == load(teacher).provenance["recipe sha256"]
    (folder,) = (own_cache / "teachers").iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] + 8 * [".npz"]
    # the maps are made once, and what is missing of them is made again
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    gone = folder / "photo3.npz"
    gone.unlink()
    train(taught_by(squares, teacher, steps=1), tmp_path / "again", device="cpu")
    changed = {path for path in folder.iterdir() if times[path] != path.stat().st_mtime_ns}
    assert changed == {gone, folder / "classes.json"}
    # and may be handed on as they are; that they were made draws nothing from the generators of the training
    train(taught_by(squares, folder, steps=1), tmp_path / "stored", device="cpu")
    same = [load(tmp_path / name).state_dict() for name in ("again", "stored")]
    assert all(torch.equal(value, same[1][key]) for key, value in same[0].items())


def test_mistakes_are_told(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distil.teacher: no model 'animal'.*did you mean animals"):
        train(taught_by(squares, "animal"), tmp_path / "a", device="cpu")
    maps = {f"photo{index}": np.zeros((3, 2, 2)) for index in range(1, 8)}
    folder = store(tmp_path / "maps", NAMES, maps)
    with pytest.raises(UserError, match=r"photo0.npz is missing, as are 0 further"):
        train(taught_by(squares, folder), tmp_path / "b", device="cpu")
    write_map(folder / "photo0.npz", np.zeros((2, 2, 2)))
    with pytest.raises(
        UserError, match=r"photo0.npz: holds float16 of the shape \(2, 2, 2\); allowed: .*\(3, h, w\)"
    ):
        train(taught_by(squares, folder, steps=1), tmp_path / "c", device="cpu")
    (folder / "photo0.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"photo0.npz: cannot be read as a teacher's map"):
        train(taught_by(squares, folder, steps=1), tmp_path / "d", device="cpu")
    (folder / "classes.json").write_text("{}")
    with pytest.raises(UserError, match=r"classes.json: is no list of class names"):
        train(taught_by(squares, folder, steps=1), tmp_path / "e", device="cpu")
    with pytest.raises(ValueError, match=r"not turned or pasted; leave out augment.rotate"):
        taught_by(squares, folder, augment={"rotate": 5})


def test_crops_without_a_teacher_are_as_they_were(tmp_path: Path) -> None:
    """The third part draws nothing from the generator, so teachers change no sample."""
    folder = store(tmp_path, NAMES, {"a": np.full((3, 2, 2), 0.3)})
    taught = TeacherMaps([folder], NAMES, Grid(4)).of("a.png")
    photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    label = np.zeros((30, 40), np.uint8)
    for jitter in (None, (0.2, 0.2, 0.2)):
        augment = TrainAugment(crop_size=(17, 17), jitter=jitter)
        plain, with_map = (augment(photo, label, np.random.default_rng(1), *more) for more in ((), (taught,)))
        assert all(torch.equal(one, other) for one, other in zip(plain, with_map, strict=False))
        assert len(with_map) == 3

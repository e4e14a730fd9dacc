"""The data doctor finds every fault, names the right files and says what to do; a healthy data set passes."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from broken_datasets import FAULTS, NAMES, TRAIN, labels, make_broken, make_healthy, make_several
from PIL import Image
from support.banded_photos import scene, write_folder, write_tiff

from deeplab.config import PixelConfig
from deeplab.data.opening import open_complete
from deeplab.data.storage import Storage
from deeplab.doctor.findings import Finding
from deeplab.doctor.report import write_report
from deeplab.doctor.run import Checked, Expected, check_data
from deeplab.errors import UserError


def text_of(finding: Finding) -> str:
    return "\n".join((finding.what, *finding.details, finding.fix))


def by_code(checked: Checked) -> dict[str, Finding]:
    return {finding.code: finding for finding in checked.findings}


def test_a_healthy_data_set_has_no_finding(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    checked = check_data(tmp_path)
    assert checked.findings == ()
    assert checked.passed
    assert len(checked.data.items) == len(NAMES)


# Faults that bring others with them, which are right too.
ALSO = {
    "class_absent": set(),
    "anti_aliased": set(),
    "ignore_as_class": {"class-absent-train", "class-absent-val"},
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_with_its_files_and_its_fix(name: str, tmp_path: Path) -> None:
    fault = make_broken(tmp_path, name)
    checked = check_data(tmp_path)
    found = by_code(checked)
    assert set(found) - ALSO.get(name, set()) == {fault.code}, found
    finding = found[fault.code]
    assert finding.severity == fault.severity
    assert finding.files == fault.files
    assert finding.count == (len(fault.files) or 1)
    for words in fault.words:
        assert words in text_of(finding)
    assert re.fullmatch(r"[A-Z].{20,}\.", finding.fix), finding.fix
    assert checked.passed == (fault.severity == "warning")


def test_several_faults_at_once_are_all_found(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    faults = [
        FAULTS[name](tmp_path)
        for name in ("out_of_range", "missing_photo", "truncated_mask", "size_mismatch")
    ]
    # the photo of d is gone, but its mask is still read
    found = by_code(check_data(tmp_path))
    assert set(found) == {fault.code for fault in faults}
    for fault in faults:
        assert found[fault.code].files == fault.files


def test_the_page_of_the_doctor_shows_what_it_says_of_several_faults(tmp_path: Path) -> None:
    codes = make_several(tmp_path / "several")
    page = (Path(__file__).parents[2] / "docs/doctor.md").read_text(encoding="utf-8")
    shown = page.partition("$ deeplab data check broken/several\n")[2].partition("\n    classes (")[0]
    found = check_data(tmp_path / "several").findings
    assert {finding.code for finding in found} == codes
    for finding in found:
        assert finding.code in shown and all(file in shown for file in finding.files)
        for text in (finding.what, *finding.details, finding.fix):
            assert set(text.split()) <= set(shown.split()), text


def test_expectations_given_by_hand(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    (tmp_path / "classes.txt").unlink()
    checked = check_data(tmp_path)
    assert checked.data.classes.names == ("class_0", "class_1", "class_2")
    refused = by_code(checked)["training-refuses"]
    assert len(checked.findings) == 1 and "classes.txt" in refused.what and "names" in refused.fix
    assert check_data(tmp_path, Expected(num_classes=3)).findings == ()
    differ = by_code(check_data(tmp_path, Expected(Storage(names=("ground", "disc")), num_classes=3)))
    assert "names 2 classes but --num-classes is 3" in differ["class-list"].what
    few = by_code(check_data(tmp_path, Expected(num_classes=2)))
    assert few["value-out-of-range"].count == len(NAMES)
    ignored = check_data(tmp_path, Expected(num_classes=2, ignore_label=2))
    assert ignored.counts[0].ignored == sum(int((labels(name) == 2).sum()) for name in TRAIN)
    assert [finding.code for finding in ignored.findings] == ["training-refuses"]
    assert ignored.findings[0].fix == "Save 255 in place of 2."


def test_class_names_come_from_a_file_or_words(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    names = tmp_path / "mine.txt"
    names.write_text("\ufeffground\n\nround thing\nKiste\n", encoding="utf-8")
    assert check_data(tmp_path, Expected(Storage(names=(str(names),)))).data.classes.names == (
        "ground",
        "round thing",
        "Kiste",
    )
    assert check_data(tmp_path, Expected(Storage(names=("x", "y", "z")))).data.classes.names == (
        "x",
        "y",
        "z",
    )
    with pytest.raises(UserError, match=r"nowhere\.txt: cannot be read"):
        check_data(tmp_path, Expected(Storage(names=("nowhere.txt",))))


def test_a_name_on_both_lists_is_a_duplicate(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    (tmp_path / "val.txt").write_text("f\ng\nh\na\n")
    found = by_code(check_data(tmp_path))
    assert found["duplicate-across-splits"].files == ("images/a.jpg",)
    assert (
        "images/a.jpg (val) is images/a.jpg (train); 0 of 128" in found["duplicate-across-splits"].details[0]
    )


def test_a_copy_within_a_split_is_a_warning(tmp_path: Path) -> None:
    make_healthy(tmp_path)
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / folder / f"b.{suffix}").write_bytes((tmp_path / folder / f"a.{suffix}").read_bytes())
    checked = check_data(tmp_path)
    assert checked.passed and by_code(checked)["duplicate-within-split"].files == ("images/b.jpg",)


def test_a_validation_split_of_one_clip_is_a_warning_and_one_of_many_places_is_not(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    wide = random.integers(0, 256, (24, 60, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    make_healthy(tmp_path)
    for number in range(12):
        # a camera that drives by, two pixels a frame
        Image.fromarray(wide[:, 2 * number : 2 * number + 320]).save(
            tmp_path / f"images/frame_{number:02}.png"
        )
        Image.fromarray(np.full((240, 320), number % 3, np.uint8)).save(
            tmp_path / f"masks/frame_{number:02}.png"
        )
    frames = [f"frame_{number:02}" for number in range(12)]
    (tmp_path / "val.txt").write_text("\n".join(frames))
    checked = check_data(tmp_path)
    clip = by_code(checked)["split-one-clip"]
    assert checked.passed and clip.files == tuple(f"images/{name}.png" for name in frames)
    assert clip.details == ("val: 12 photos",)

    for number in range(0, 12, 2):
        other = random.integers(0, 256, (24, 32, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(other).save(tmp_path / f"images/frame_{number:02}.png")
    assert "split-one-clip" not in by_code(check_data(tmp_path))


@pytest.mark.parametrize("seed", range(3))
def test_many_small_regions_are_not_taken_for_blur(seed: int, tmp_path: Path) -> None:
    """Sixty classes in one mask, cut into small pieces but with sharp edges, as in ADE20K."""
    make_healthy(tmp_path)
    points = np.random.default_rng(seed).random((60, 2)) * (64, 96)
    rows, columns = np.mgrid[:64, :96]
    nearest = ((rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2).argmin(
        axis=2
    )
    for name in NAMES:
        Image.fromarray(np.roll(nearest, 7 * NAMES.index(name), axis=1).astype(np.uint8)).save(
            tmp_path / "masks" / f"{name}.png"
        )
    (tmp_path / "classes.txt").unlink()
    assert check_data(tmp_path, Expected(num_classes=60)).findings == ()


def test_values_decide_how_many_classes_where_nobody_says(tmp_path: Path) -> None:
    make_broken(tmp_path, "out_of_range")
    (tmp_path / "classes.txt").unlink()
    checked = check_data(tmp_path)
    assert len(checked.data.classes.names) == 3
    assert by_code(checked)["value-out-of-range"].files == ("masks/d.png",)


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [("dark", "photo-dark", "levels of 256"), ("band", "photo-band", "transparency"), ("wide", "", "")],
)
def test_photos_that_8_bit_rgb_would_spoil(kind: str, code: str, words: str, tmp_path: Path) -> None:
    make_healthy(tmp_path)
    path = next(path for path in sorted((tmp_path / "images").iterdir()) if path.stem == TRAIN[0])
    with Image.open(path) as held:
        width, height = held.size
    draw = np.random.default_rng(0)
    if kind == "band":
        pixels = draw.integers(0, 256, (height, width, 4), dtype=np.uint8)
    else:
        low, high = (7000, 8200) if kind == "dark" else (0, 65536)
        pixels = draw.integers(low, high, (height, width)).astype(np.uint16)
    path.unlink()
    Image.fromarray(pixels).save(path.with_suffix(".png"))
    found = by_code(check_data(tmp_path))
    assert set(found) == ({code} if code else set())
    if code:
        # the other photos are RGB, and training refuses this one beside them
        assert found[code].severity == "error" and path.stem in found[code].files[0]
        assert words in text_of(found[code])


@pytest.mark.parametrize(
    ("kind", "code", "measured"),
    [
        ("thermal", "photo-dark", "bands: [band 1]\n    values: uint16\n    range: [0, 16383]"),
        ("infrared", "photo-bands", "values: uint16\n    range: [0, 8191]"),
        ("float", "photo-bands", "values: float32\n    range: [-2, 2]"),
    ],
)
def test_photos_of_bands_are_measured_for_the_model_that_reads_them(
    kind: str, code: str, measured: str, tmp_path: Path
) -> None:
    root = write_folder(tmp_path / "data", kind)
    checked = check_data(root)
    assert checked.passed and set(by_code(checked)) == {code}
    assert by_code(checked)[code].count == 9
    written = write_report(checked, tmp_path / "out")
    assert tmp_path / "out" / "overlays.png" in written
    assert measured in (tmp_path / "out" / "pixels.yaml").read_text()
    assert checked.pixels is not None
    values = yaml.safe_load((tmp_path / "out" / "pixels.yaml").read_text())["model"]
    assert PixelConfig.model_validate(values["pixels"]) == checked.pixels
    trained_on = np.stack([scene(kind, seed)[0].astype(np.float64) for seed in range(6)])
    np.testing.assert_allclose(checked.pixels.mean, trained_on.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(checked.pixels.std, trained_on.std((0, 1, 2)), rtol=1e-3)


@pytest.mark.parametrize("kind", ["thermal", "alpha"])
def test_photos_of_bands_in_shards_are_judged_as_files_are(kind: str, tmp_path: Path) -> None:
    """They were called unreadable, though a model that reads their bands trains on them."""
    root = write_folder(tmp_path / "files", "thermal")
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "classes.txt").write_text((root / "classes.txt").read_text())
    for split in ("train", "val"):
        with tarfile.open(shards / f"{split}-000000.tar", "w") as tar:
            for name in (root / f"{split}.txt").read_text().split():
                photo = root / f"images/{name}.png"
                if kind == "alpha":
                    draw = np.random.default_rng(int(name[1:]))
                    bands = draw.integers(0, 256, (48, 48, 4), dtype=np.uint8)
                    Image.fromarray(bands).save(photo)
                tar.add(photo, f"{name}.png")
                tar.add(root / f"masks/{name}.png", f"{name}.seg.png")
    files, packed = check_data(root), check_data(shards)
    assert packed.layout == "webdataset" and packed.passed
    assert set(by_code(packed)) == set(by_code(files)) and by_code(packed)
    assert packed.pixels is not None and packed.pixels == files.pixels
    assert tmp_path / "out" / "overlays.png" in write_report(packed, tmp_path / "out")
    bands = packed.pixels.read_as()
    photos = [open_complete(place, "train", bands=bands).photo(0) for place in (root, shards)]
    np.testing.assert_array_equal(*photos)


def test_photos_unlike_the_rest_are_errors(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "infrared")
    write_tiff(root / "images/p2.tif", scene("infrared", 2)[0][..., :3], photometric="rgb")
    (root / "images/p4.tif").unlink()
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(root / "images/p4.png")
    found = by_code(check_data(root))
    assert set(found) == {"photo-bands", "photo-differs"}
    assert found["photo-differs"].files == ("images/p2.tif", "images/p4.png")
    assert "the rest, which hold 4 bands of uint16" in found["photo-differs"].what
    assert "images/p2.tif holds 3 bands of uint16" in found["photo-differs"].details[0]
    assert found["photo-differs"].details[1] == "images/p4.png is 8-bit grey or RGB"


def test_floats_without_a_value_are_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "float")
    stored = scene("float", 1)[0]
    stored[3, 4, 1] = np.nan
    write_tiff(root / "images/p1.tif", stored)
    found = by_code(check_data(root))
    assert found["photo-unreadable"].files == ("images/p1.tif",)
    assert "holds NaN or infinity" in found["photo-unreadable"].details[0]

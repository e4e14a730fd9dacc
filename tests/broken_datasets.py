"""Makes small broken data sets, one a fault, to show and to test the data doctor.

    python tests/broken_datasets.py DIR    # writes DIR/FAULT/{images,masks,...} for every fault, DIR/healthy and
                                           # DIR/several

Each starts as the same healthy data set (8 photos, 3 classes, lists train and val), then one thing is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("background", "disc", "box")
TRAIN = ("a", "b", "c", "d", "e")
VAL = ("f", "g", "h")
NAMES = TRAIN + VAL
SIZE = (96, 64)
VOC_COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
OWN_COLOURS = np.array([(0, 0, 0), (10, 200, 30), (250, 120, 5)], np.uint8)


@dataclass(frozen=True)
class Fault:
    """What the doctor must say: the finding's code, the files it must name, and words of its text."""

    code: str
    files: tuple[str, ...]
    words: tuple[str, ...] = ()
    severity: str = "error"


def photo(root: Path, name: str) -> Path:
    return root / "images" / f"{name}.jpg"


def mask(root: Path, name: str) -> Path:
    return root / "masks" / f"{name}.png"


def masks(*names: str) -> tuple[str, ...]:
    return tuple(f"masks/{name}.png" for name in names or NAMES)


def labels(name: str) -> np.ndarray:
    """uint8 [64, 96]: a disc (1) and a box (2) whose places depend on the name."""
    shift = 5 * NAMES.index(name)
    image = Image.new("L", SIZE)
    draw = ImageDraw.Draw(image)
    draw.ellipse((8 + shift, 6, 34 + shift, 32), fill=1)
    draw.rectangle((2, 40, 40 + shift, 58), fill=2)
    return np.array(image)


def picture(name: str) -> Image.Image:
    """A photo-like picture: coloured shapes where the labels are, on a soft random ground."""
    rng = np.random.default_rng(NAMES.index(name))
    ground = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC
    )
    pixels = np.array(ground)
    shapes = labels(name)
    pixels[shapes == 1] = rng.integers(0, 256, 3)
    pixels[shapes == 2] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7))


def make_healthy(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        picture(name).save(photo(root, name), quality=90)
        Image.fromarray(labels(name)).save(mask(root, name))
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "train.txt").write_text("\n".join(TRAIN) + "\n")
    (root / "val.txt").write_text("\n".join(VAL) + "\n")


def rewrite(root: Path, change: Callable[[np.ndarray], np.ndarray], *names: str) -> None:
    """Save the masks of these names, or of all, as `change` makes them of the right labels."""
    for name in names or NAMES:
        Image.fromarray(change(labels(name))).save(mask(root, name))


def voc_colours(root: Path) -> Fault:
    rewrite(root, lambda indices: VOC_COLOURS[indices])
    return Fault(
        "mask-rgb", masks(), ("Pascal VOC", "(128, 0, 0) -> 1 (aeroplane)", "(0, 128, 0) -> 2 (bicycle)")
    )


def own_colours(root: Path) -> Fault:
    rewrite(root, lambda indices: OWN_COLOURS[indices])
    return Fault("mask-rgb", masks(), ("no known palette", "(0, 0, 0) -> 0,", "(250, 120, 5) -> 1,"))


def grey_in_rgb(root: Path) -> Fault:
    rewrite(root, lambda indices: np.repeat(indices[..., None], 3, axis=2))
    return Fault("mask-rgb-grey", masks(), ("three equal channels", "[..., 0]"))


def rgba(root: Path) -> Fault:
    clear = np.full((*SIZE[::-1], 1), 255, np.uint8)
    clear[:4] = 0
    rewrite(root, lambda indices: np.concatenate([VOC_COLOURS[indices], clear], axis=2), "b", "c")
    return Fault("mask-rgba", masks("b", "c"), ("RGBA", "2 have transparent pixels, first masks/b.png"))


def black_and_white(root: Path) -> Fault:
    rewrite(root, lambda indices: np.where(indices > 0, 255, 0).astype(np.uint8))
    return Fault("mask-binary", masks(), ("0 and 255 only", "255 is the ignore label", "// 255"))


def off_by_one(root: Path) -> Fault:
    rewrite(root, lambda indices: indices + np.uint8(1))
    return Fault("off-by-one", masks(), ("1..3 and never 0", "Subtract 1"))


def greys(root: Path) -> Fault:
    rewrite(root, lambda indices: np.array([0, 150, 250], np.uint8)[indices])
    return Fault("mask-greys", masks(), ("0, 150, 250", "150 -> 1", "250 -> 2"))


def anti_aliased(root: Path) -> Fault:
    """Drawn large with values far apart and shrunk smoothly, as drawing programs do."""
    for name in ("c", "g"):
        large = Image.fromarray(labels(name) * np.uint8(100)).resize((384, 256), Image.Resampling.NEAREST)
        large.rotate(7).resize(SIZE, Image.Resampling.BICUBIC).save(mask(root, name))
    return Fault("mask-blurred", masks("c", "g"), ("anti-aliased", "nearest neighbour"))


def jpeg_masks(root: Path) -> Fault:
    for name in NAMES:
        mask(root, name).unlink()
        Image.fromarray(labels(name) * np.uint8(100)).save(root / "masks" / f"{name}.jpg", quality=80)
    return Fault("mask-jpeg", tuple(f"masks/{name}.jpg" for name in NAMES), ("compression", "as PNG"))


def out_of_range(root: Path) -> Fault:
    spoiled = labels("d")
    spoiled[17, 42:45] = 78
    Image.fromarray(spoiled).save(mask(root, "d"))
    return Fault(
        "value-out-of-range",
        masks("d"),
        ("78", "first masks/d.png at row 17, column 42", "3 pixels in 1 file", "0..2"),
    )


def size_mismatch(root: Path) -> Fault:
    Image.fromarray(labels("e")).resize((48, 32), Image.Resampling.NEAREST).save(mask(root, "e"))
    return Fault(
        "size-mismatch", masks("e"), ("masks/e.png is 48x32, images/e.jpg is 96x64", "nearest neighbour")
    )


def swapped_sides(root: Path) -> Fault:
    rewrite(root, lambda indices: np.ascontiguousarray(indices.T), "b")
    return Fault("size-swapped", masks("b"), ("swapped", "Transpose", "masks/b.png is 64x96"))


def exif_rotation(root: Path) -> Fault:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("c").save(photo(root, "c"), exif=exif)
    return Fault("exif-rotation", ("images/c.jpg",), ("EXIF", "96x64", "64x96"), severity="warning")


def missing_masks(root: Path) -> Fault:
    mask(root, "b").unlink()
    mask(root, "h").unlink()
    return Fault("mask-missing", ("images/b.jpg", "images/h.jpg"), ("no mask",))


def missing_photo(root: Path) -> Fault:
    photo(root, "d").unlink()
    return Fault("photo-missing", masks("d"), ("no photo",))


def listed_but_absent(root: Path) -> Fault:
    (root / "val.txt").write_text("f\ng\nh\nzebra\n")
    return Fault("listed-missing", ("zebra (list val)",), ("neither",))


def truncated_photo(root: Path) -> Fault:
    whole = photo(root, "c").read_bytes()
    photo(root, "c").write_bytes(whole[: len(whole) // 2])
    return Fault("photo-unreadable", ("images/c.jpg",), ("images/c.jpg: damaged or cut off", "truncated"))


def truncated_mask(root: Path) -> Fault:
    whole = mask(root, "g").read_bytes()
    mask(root, "g").write_bytes(whole[: len(whole) * 2 // 3])
    return Fault("mask-unreadable", masks("g"), ("masks/g.png: damaged or cut off",))


def empty_file(root: Path) -> Fault:
    mask(root, "a").write_bytes(b"")
    return Fault("mask-unreadable", masks("a"), ("masks/a.png: the file is empty (0 bytes)",))


def all_ignored(root: Path) -> Fault:
    rewrite(root, lambda indices: np.full_like(indices, 255), "e")
    return Fault("all-ignored", masks("e"), ("255",), severity="warning")


def class_absent(root: Path) -> Fault:
    rewrite(root, lambda indices: np.where(indices == 2, 0, indices).astype(np.uint8), *VAL)
    return Fault("class-absent-val", (), ("box", "IoU"), severity="warning")


def one_class(root: Path) -> Fault:
    rewrite(root, np.zeros_like)
    return Fault("one-class", (), ("class 0 (background)",))


def wide_masks(root: Path) -> Fault:
    rewrite(root, lambda indices: indices.astype(np.uint16) * 256, "a", "f")
    return Fault("mask-16-bit", masks("a", "f"), ("up to 512", "256 * k"))


def wide_but_small(root: Path) -> Fault:
    rewrite(root, lambda indices: indices.astype(np.uint16), "a")
    return Fault("mask-16-bit-small", masks("a"), ("8 bits",), severity="warning")


def palettes_vary(root: Path) -> Fault:
    """Disc and box trade indices in one file, whose palette makes it look right."""
    for name in NAMES:
        trade = np.array([0, 2, 1] if name == "d" else [0, 1, 2], np.uint8)
        image = Image.fromarray(trade[labels(name)])
        image.putpalette(VOC_COLOURS[trade].tobytes())
        image.save(mask(root, name))
    return Fault("palette-varies", masks("d"), ("different indices",), severity="warning")


def duplicates(root: Path) -> Fault:
    """A training photo in val under another name: smaller, and compressed again."""
    picture("b").resize((72, 48), Image.Resampling.LANCZOS).save(photo(root, "g"), quality=60)
    Image.fromarray(labels("b")).resize((72, 48), Image.Resampling.NEAREST).save(mask(root, "g"))
    return Fault(
        "duplicate-across-splits", ("images/g.jpg",), ("images/g.jpg (val) is images/b.jpg (train)",)
    )


def empty_class_list(root: Path) -> Fault:
    (root / "classes.txt").write_text("\n")
    return Fault("class-list", ("classes.txt",), ("names no class",))


def ignore_as_class(root: Path) -> Fault:
    (root / "classes.txt").write_text("\n".join([*CLASSES, "void"]))
    return Fault("class-list", ("classes.txt",), ("void", "--ignore-label"))


def short_class_list(root: Path) -> Fault:
    (root / "classes.txt").write_text("background\ndisc\n")
    return Fault("value-out-of-range", masks(), ("2 classes (classes.txt)", "if there are 3 classes"))


def nothing(root: Path) -> Fault:
    for name in NAMES:
        photo(root, name).unlink()
        mask(root, name).unlink()
    for split in ("train", "val"):
        (root / f"{split}.txt").unlink()
    return Fault("empty", (), ("No photo and no mask", "images/", "masks/"))


FAULTS: dict[str, Callable[[Path], Fault]] = {
    fault.__name__: fault
    for fault in (
        voc_colours, own_colours, grey_in_rgb, rgba, black_and_white, off_by_one, greys, anti_aliased, jpeg_masks,
        out_of_range, size_mismatch, swapped_sides, exif_rotation, missing_masks, missing_photo,
        listed_but_absent, truncated_photo, truncated_mask, empty_file, all_ignored, class_absent, one_class,
        wide_masks, wide_but_small, palettes_vary, duplicates, empty_class_list, ignore_as_class,
        short_class_list, nothing,
    )
}  # fmt: skip


# of the data set that docs/doctor.md shows
SEVERAL = ("missing_masks", "truncated_photo", "rgba", "out_of_range", "duplicates")


def make_several(root: Path) -> set[str]:
    """Write a data set with several faults into `root`; the findings' codes."""
    make_healthy(root)
    return {FAULTS[name](root).code for name in SEVERAL}


def make_broken(root: Path, name: str) -> Fault:
    """Write the data set with that fault into `root`."""
    make_healthy(root)
    return FAULTS[name](root)


def make_all(folder: Path) -> dict[str, Fault]:
    """Write every broken data set, one with several faults, and a healthy one into subfolders of `folder`."""
    make_healthy(folder / "healthy")
    make_several(folder / "several")
    return {name: make_broken(folder / name, name) for name in FAULTS}


if __name__ == "__main__":
    for made, expected in make_all(Path(sys.argv[1])).items():
        print(f"{made}: {expected.severity} {expected.code}: {', '.join(expected.files[:3])}")

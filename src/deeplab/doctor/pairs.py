"""Photos and masks matched by name, leniently: what has no partner is kept, as a fault to report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deeplab.doctor.places import WHOLE, Layout, Place, looks_like_mask, pictures
from deeplab.errors import UserError

_TRAIN_LISTS = ("train", "trainaug", "train_aug", "training", "trainval")
_AUG_TRAIN_LISTS = ("trainaug", "train_aug", "train", "training", "trainval")
_VAL_LISTS = ("val", "valid", "validation")
_AFFIXES = ("mask", "masks", "label", "labels", "labelids", "seg", "gt", "annotation", "image", "img", "l")


@dataclass(frozen=True)
class Pair:
    """A photo and its mask; one of them is None if it is missing, both if only a list names them.

    `index` is the sample's place in its split, for formats that are read through their own decoder.
    """

    name: str
    split: str
    photo: Path | None
    mask: Path | None
    index: int = 0


@dataclass(frozen=True)
class Matched:
    """All pairs of a data set.

    Attributes:
        pairs: in the data set's order.
        ambiguous: files whose name another file of the folder has too.
        unlisted: how many pairs are left out: on no list, or of a test split without masks.
        missing: files that a format of its own asks for, in words.
    """

    pairs: tuple[Pair, ...]
    ambiguous: tuple[Path, ...] = ()
    unlisted: int = 0
    missing: tuple[str, ...] = ()


def match_pairs(layout: Layout, *, train: str | None = None, val: str | None = None) -> Matched:
    """Match the files of a layout.

    Args:
        layout: as found by `deeplab.doctor.places.find_layout`.
        train: file with names, or name of a list in the layout's folder of lists; None looks for the usual
            names.
        val: likewise.

    Raises:
        UserError: a list that is asked for is missing.
    """
    parts = [_match_place(place, layout) for place in layout.places]
    matched = Matched(
        tuple(pair for part in parts for pair in part.pairs),
        tuple(file for part in parts for file in part.ambiguous),
    )
    lists = _find_lists(layout, train=train, val=val)
    if lists:
        matched = _by_lists(matched, lists)
    elif layout.name == "images" and len(layout.places) == 1:
        matched = _by_hash(matched)
    return _without_secret_masks(matched)


def _without_secret_masks(matched: Matched) -> Matched:
    """Leave out a test split of which no mask is there: benchmarks keep them to themselves."""
    if any(pair.split == "test" and pair.mask for pair in matched.pairs):
        return matched
    kept = tuple(pair for pair in matched.pairs if pair.split != "test")
    return replace(matched, pairs=kept, unlisted=matched.unlisted + len(matched.pairs) - len(kept))


def _match_place(place: Place, layout: Layout) -> Matched:
    if place.photos == place.masks:
        photo_files, mask_files = _told_apart(list(pictures(place.photos)))
    else:
        photo_files, mask_files = pictures(place.photos), pictures(place.masks)
    photos, twice_photos = _by_key(photo_files, place.photos, ending=layout.photo_ending)
    masks, twice_masks = _by_key(mask_files, place.masks, ending=layout.mask_ending)
    partners = _partners(photos, masks)
    pairs = [Pair(key, place.split, photos[key], partners.get(key)) for key in photos]
    used = set(partners.values())
    pairs += [Pair(key, place.split, None, mask) for key, mask in masks.items() if mask not in used]
    return Matched(tuple(pairs), (*twice_photos, *twice_masks))


def _told_apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Photos and masks of one folder: masks by name, or the PNG beside a photo of another kind."""
    others = {file.with_suffix("") for file in files if file.suffix.lower() != ".png"}
    masks = [
        file
        for file in files
        if looks_like_mask(file.stem) or (file.suffix.lower() == ".png" and file.with_suffix("") in others)
    ]
    taken = set(masks)
    return [file for file in files if file not in taken], masks


def _by_key(files: Iterable[Path], folder: Path, *, ending: str) -> tuple[dict[str, Path], list[Path]]:
    """Files by name; and those whose name another file of the folder has too."""
    found: dict[str, Path] = {}
    twice = []
    for file in files:
        key = file.relative_to(folder).with_suffix("").as_posix()
        if not key.endswith(ending):
            continue
        key = key.removesuffix(ending)
        if key in found:
            twice.append(file)
        else:
            found[key] = file
    return found, twice


def _partners(photos: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """Mask of each photo: of the same name, else of the same name but for case and affixes."""
    partners = {key: masks[key] for key in photos if key in masks}
    rest = {_core(key): mask for key, mask in masks.items() if key not in photos}
    for key in photos:
        if key not in partners and _core(key) in rest:
            partners[key] = rest.pop(_core(key))
    return partners


def _core(key: str) -> str:
    """The key without words like "mask" or "img" before or after its name."""
    folder, _, name = key.lower().replace("-", "_").rpartition("/")
    words = name.replace(".", "_").split("_")
    while len(words) > 1 and words[-1] in _AFFIXES:
        words.pop()
    while len(words) > 1 and words[0] in _AFFIXES:
        words.pop(0)
    return f"{folder}/{'_'.join(words)}"


def _find_lists(layout: Layout, *, train: str | None, val: str | None) -> dict[str, Path]:
    folder = layout.lists
    if train or val:
        asked = {"train": train, "val": val}
        return {split: _asked_list(name, folder) for split, name in asked.items() if name}
    if folder is None or not folder.is_dir() or len(layout.places) > 1:
        return {}
    uses_aug = layout.places[0].masks.name.endswith("Aug")
    usual = {"train": _AUG_TRAIN_LISTS if uses_aug else _TRAIN_LISTS, "val": _VAL_LISTS, "test": ("test",)}
    found = {
        split: next((path for name in names if (path := folder / f"{name}.txt").is_file()), None)
        for split, names in usual.items()
    }
    return {split: path for split, path in found.items() if path is not None}


def _asked_list(name: str, folder: Path | None) -> Path:
    tried = [Path(name), *([folder / name, folder / f"{name}.txt"] if folder else [])]
    for path in tried:
        if path.is_file():
            return path
    raise UserError(
        f"list {name!r} is not there; looked for {', '.join(map(str, tried))}; "
        "fix: give a text file with one photo name a line"
    )


def read_names(path: Path) -> list[str]:
    """Names of a list: the first word of each line, without an extension.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of names ({error})") from error
    words = [line.strip() for line in lines if line.strip()]
    # A name may hold blanks; two columns are told by the second one being a path too.
    firsts = [word.split()[0] if "/" in word.split()[-1] else word for word in words]
    return [_without_picture_suffix(word.lstrip("/")) for word in firsts]


def _without_picture_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp") else name


def _by_lists(matched: Matched, lists: dict[str, Path]) -> Matched:
    """The pairs that lists name, in the lists' order and splits; names without any file included."""
    known = {pair.name: pair for pair in matched.pairs}
    by_stem = {pair.name.rpartition("/")[2]: pair for pair in matched.pairs}
    listed = []
    for split, path in lists.items():
        for name in read_names(path):
            pair = known.get(name) or by_stem.get(name.rpartition("/")[2]) or Pair(name, split, None, None)
            listed.append(replace(pair, split=split))
    unlisted = len(known.keys() - {pair.name for pair in listed})
    return Matched(tuple(listed), matched.ambiguous, unlisted)


def _by_hash(matched: Matched) -> Matched:
    """The split that training makes of a folder without lists."""
    from deeplab.data.layouts.splits import falls_into_val

    pairs = (
        replace(pair, split="val" if falls_into_val(pair.name) else "train") if pair.split == WHOLE else pair
        for pair in matched.pairs
    )
    return replace(matched, pairs=tuple(pairs))

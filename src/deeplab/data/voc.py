"""A data set in the PASCAL VOC layout: photos, index masks, and lists of names.

    ROOT/JPEGImages/NAME.jpg (or .jpeg, .png)
    ROOT/SegmentationClass/NAME.png or ROOT/SegmentationClassAug/NAME.png (SBD, for trainaug)
    ROOT/ImageSets/Segmentation/SPLIT.txt, one NAME a line

Masks hold class indices (palette or grey PNG); 255 is "ignore" (reference facts 5.1 and 5.2). Photos are
read as for prediction: upright, so a mask belongs to what a viewer shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from deeplab.data.augment import IGNORE_LABEL, to_tensors
from deeplab.errors import UserError
from deeplab.imaging.photos import read_photo
from deeplab.palettes import VOC_CLASSES

LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
INDEX_MODES = ("P", "L", "1")

Sample = tuple[torch.Tensor, torch.Tensor]
Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], Sample]


def select_classes(
    names: Sequence[str], keep: Sequence[str], *, other: str = "ignore", ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """A look-up table that renumbers masks so that `keep[i]` becomes class i.

    Args:
        names: class names of the masks, by index.
        keep: names that stay, in their new order.
        other: what becomes of all other classes: "ignore", or "background" (which must be in `keep`).
        ignore_label: value that means ignore, before and after.

    Returns:
        uint8 [256]; every value that is no class of `names` maps to `ignore_label`.

    Raises:
        UserError: an unknown or repeated name, or a wrong `other`.
    """
    unknown = [name for name in keep if name not in names]
    if unknown or len(set(keep)) != len(keep) or not keep:
        problem = f"{unknown[0]!r} is not a class" if unknown else "names must be given, each once"
        raise UserError(f"classes to keep {list(keep)}: {problem}; allowed: {', '.join(names)}")
    if other not in ("ignore", "background") or (other == "background" and "background" not in keep):
        raise UserError(
            f"other={other!r} with classes {list(keep)}: allowed are 'ignore', and 'background' where "
            "background is among the classes to keep"
        )
    table = np.full(256, ignore_label, dtype=np.uint8)
    if other == "background":
        table[: len(names)] = list(keep).index("background")
    for index, name in enumerate(keep):
        table[list(names).index(name)] = index
    table[ignore_label] = ignore_label
    return table


class VOCDataset(Dataset[Sample]):
    """Samples of one split.

    `dataset[i]` is sample i as it is seen on draw 0; `dataset[i, draw]` as seen on a later draw (say, an
    epoch). The generator handed to the transform depends on (seed, i, draw) alone, so the samples are the
    same with any number of workers and after any resume.

    Without a transform a sample is (image uint8 [3, H, W] in 0..255, label uint8 [H, W]).

    Raises:
        UserError: always with the file and the fix. When made: a folder, list, photo or mask is missing.
            When a sample is read: a file is broken or of the wrong kind, the two differ in size, or the
            mask holds a value that is no class.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        labels: str | None = None,
        num_classes: int = len(VOC_CLASSES),
        label_map: np.ndarray | None = None,
        transform: Transform | None = None,
        seed: int = 0,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        """Read the list and look for every file on it; none is opened before it is asked for.

        Args:
            root: folder that holds JPEGImages, the masks' folder and ImageSets.
            split: name of the list, such as "train", "train_aug", "val".
            labels: the masks' folder; None takes SegmentationClass if every mask is there, else
                SegmentationClassAug.
            num_classes: number of classes in the masks on disk.
            label_map: uint8 [256], applied to every mask; see `select_classes`.
            transform: (image uint8 [H, W, 3], label uint8 [H, W], generator) to the sample.
            seed: of all random choices.
            ignore_label: value on disk that is no class.
        """
        self.root = Path(root)
        self.names = _read_list(self.root / "ImageSets" / "Segmentation", split)
        self.images = _find_files(self.root, ("JPEGImages",), self.names, IMAGE_SUFFIXES)
        folders = LABEL_FOLDERS if labels is None else (labels,)
        self.masks = _find_files(self.root, folders, self.names, (".png",))
        self.num_classes = num_classes
        self.label_map = label_map
        self.transform = transform
        self.seed = seed
        self.ignore_label = ignore_label

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        index = range(len(self))[index]
        image, label = self.load(index)
        if self.transform is None:
            return to_tensors(image, label)
        return self.transform(image, label, np.random.default_rng([self.seed, index, draw]))

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample `index` as decoded: (image uint8 [H, W, 3], label uint8 [H, W] after `label_map`)."""
        image_path, label_path = self.paths(index)
        image, label = read_photo(image_path), read_label(label_path)
        if image.shape[:2] != label.shape:
            raise UserError(
                f"{label_path} is {label.shape[1]}x{label.shape[0]} (width x height) but {image_path} is "
                f"{image.shape[1]}x{image.shape[0]}; fix: make the mask again at the photo's size, "
                "upright as a viewer shows it (EXIF rotation applied)"
            )
        self._check_values(label, label_path)
        return image, label if self.label_map is None else self.label_map[label]

    def paths(self, index: int) -> tuple[Path, Path]:
        """Files of sample `index`: (photo, mask)."""
        return self.images[index], self.masks[index]

    def _check_values(self, label: np.ndarray, path: Path) -> None:
        wrong = (label >= self.num_classes) & (label != self.ignore_label)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise UserError(
                f"{path}: value {label[row, column]} at row {row}, column {column} is no class; allowed: "
                f"0..{self.num_classes - 1}, and {self.ignore_label} for ignore; "
                "fix: correct the mask, or the number of classes"
            )


def read_label(path: Path) -> np.ndarray:
    """Decode an index mask, uint8 [H, W].

    Raises:
        UserError: the file is missing, broken, or a colour picture.
    """
    try:
        with Image.open(path) as mask:
            mode, values = mask.mode, np.array(mask)
    # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error}); fix: replace the file") from error
    if mode not in INDEX_MODES:
        raise UserError(
            f"{path}: the mask's mode is {mode}; allowed: 8-bit palette (P) or grey (L) PNG of class "
            "indices; fix: turn its colours or values into class indices"
        )
    return values.astype(np.uint8, copy=False)


def _find_files(
    root: Path, folders: Sequence[str], names: Sequence[str], suffixes: Sequence[str]
) -> list[Path]:
    """Each name's file in the first folder that has them all; otherwise say what is missing where."""
    problem = f"{root} holds no folder {' or '.join(folders)}"
    for folder in folders:
        if not (root / folder).is_dir():
            continue
        files = {file.stem: file for file in (root / folder).iterdir() if file.suffix.lower() in suffixes}
        missing = [name for name in names if name not in files]
        if not missing:
            return [files[name] for name in names]
        problem = (
            f"{len(missing)} of the {len(names)} names on the list have no file in {root / folder}, "
            f"first {missing[0]}{suffixes[0]}"
        )
    raise UserError(f"{problem}; fix: add what is missing, or take the names off the list")


def _read_list(folder: Path, split: str) -> list[str]:
    path = folder / f"{split}.txt"
    if not path.is_file():
        found = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
        raise UserError(f"{path} is missing; lists found there: {found}; fix: name one of them as the split")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path} is empty; fix: write one photo name a line, without folder and extension")
    return names

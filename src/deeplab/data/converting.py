"""Any data set as a plain folder of photos and index masks: outlines are drawn once instead of every epoch.

    OUTPUT/images/SPLIT/NAME.jpg, OUTPUT/masks/SPLIT/NAME.png, OUTPUT/classes.txt

This is what `deeplab.data.layouts.images` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.config.labels import LabelSpec
from deeplab.data.layouts.images import MASK_FOLDERS, PHOTO_FOLDERS
from deeplab.data.source import Source, check_sample
from deeplab.errors import UserError
from deeplab.imaging.label_maps import save_label_map
from deeplab.imaging.png import save_png
from deeplab.system.reading import read_bytes
from deeplab.system.writing import write_whole


def write_plain(
    source: Source, output: Path, split: str, *, on_sample: Callable[[], None] = lambda: None
) -> None:
    """Write one split; photo files are copied as they are, masks are indexed PNGs in the classes' colours.

    Args:
        source: the split; sizes and values of every sample are checked.
        output: folder, made if need be; what it holds of the same names is replaced.
        split: name of the split there.
        on_sample: called after each sample, for a progress bar.

    Raises:
        UserError: a sample that is wrong, two of one name, or a folder that has other classes.
    """
    _write_classes(source.classes, output / "classes.txt")
    palette = np.array(LabelSpec.named(source.classes).palette, np.uint8)
    written: set[str] = set()
    for index in range(len(source)):
        image, label = source.photo(index), source.label(index)
        check_sample(source, index, image=image, label=label)
        # a folder's name in front keeps photos of one name apart
        name = source.name(index).replace("/", "_")
        if name in written:
            raise UserError(f"two photos are called {name}, one is {source.files(index)[0]}", fix="rename it")
        written.add(name)
        save_label_map(label, output / MASK_FOLDERS[0] / split / f"{name}.png", palette=palette)
        _write_photo(source.files(index)[0], image, output / PHOTO_FOLDERS[0] / split / name)
        on_sample()


def _write_photo(file: str, image: np.ndarray, target: Path) -> None:
    """Copy the file, or write the pixels where it is none of its own."""
    stored = Path(file)
    if not stored.is_file():
        save_png(Image.fromarray(image), target.with_name(f"{target.name}.png"))
        return
    write_whole(target.with_name(target.name + stored.suffix.lower()), stored)


def _write_classes(classes: tuple[str, ...], path: Path) -> None:
    text = "\n".join(classes) + "\n"
    if path.is_file() and read_bytes(path) != text.encode():
        raise UserError(f"{path} lists other classes than {', '.join(classes)}", fix="name another folder")
    write_whole(path, text)

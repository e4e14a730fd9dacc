"""Label maps as files: one class index per pixel, in a PNG that shows colours and keeps the numbers.

An indexed PNG (mode P) carries both: viewers show the palette, `np.array(Image.open(path))` gives the
indices. A plain grey PNG of indices 0, 1, 2 looks all black, and an RGB picture of the colours has lost the
indices; converting an indexed PNG to grey (`.convert("L")`, OpenCV) yields brightness, not classes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab.errors import UserError
from deeplab.imaging.palettes import pascal
from deeplab.imaging.pictures import opened_picture
from deeplab.imaging.png import save_png

_INDEXED_ENTRIES = 256
_MAX_LABEL = 65535


def save_label_map(labels: np.ndarray, path: str | os.PathLike[str], *, palette: np.ndarray) -> Path:
    """Write class indices as an indexed PNG, exactly; atomically.

    With more than 256 classes (rows of the palette), or a label above 255, the file is a 16-bit grey PNG:
    the indices are exact but a viewer shows it nearly black, so look at the overlay instead.

    Args:
        labels: integers [H, W], 0..65535, the ignore label included.
        path: target, ending in .png.
        palette: uint8 [classes, 3]. Indices that it lacks (the ignore label 255 for instance) take the
            Pascal colours, so that every index is visible.

    Raises:
        UserError: wrong dtype, shape or range, or the file cannot be written.
    """
    _check_labels(labels, path)
    return save_png(label_map_picture(labels, palette=palette), path)


def label_map_picture(labels: np.ndarray, *, palette: np.ndarray) -> Image.Image:
    """What `save_label_map` writes: indexed, or 16-bit grey above 256 classes or a label above 255."""
    if len(palette) > _INDEXED_ENTRIES or labels.max() >= _INDEXED_ENTRIES:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    image.putpalette(_full_palette(palette).tobytes())
    return image


def _check_labels(labels: np.ndarray, path: str | os.PathLike[str]) -> None:
    if labels.ndim != 2 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{os.fspath(path)}: a label map is an integer array [H, W] with at least one pixel, "
            f"found dtype {labels.dtype} and shape {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > _MAX_LABEL:
        raise UserError(f"{os.fspath(path)}: labels run from {low} to {high}, allowed is 0..{_MAX_LABEL}")


def _full_palette(palette: np.ndarray) -> np.ndarray:
    full = pascal(_INDEXED_ENTRIES).copy()
    full[: len(palette)] = palette
    return full


def read_label_map(path: str | os.PathLike[str]) -> np.ndarray:
    """Read class indices as they are stored: no colour conversion, no scaling.

    Returns:
        [H, W], uint8 for indexed, 8-bit grey and 1-bit files (1-bit gives 0 and 1), uint16 for 16-bit grey.

    Raises:
        UserError: unreadable; a JPEG (compression invents labels); or a colour picture, which holds
            colours rather than indices. The message says how to fix it.
    """
    name = os.fspath(path)
    try:
        with opened_picture(name) as image:
            image.load()
            return _indices(image, name=name)
    except UserError as error:
        raise error.within(name) from error.__cause__
    except UnidentifiedImageError as error:
        raise UserError("not a picture that Pillow can read", file=name) from error
    # Damaged files make the decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        raise UserError(f"cannot be read as a label map ({error})", file=name) from error


def _indices(image: Image.Image, *, name: str) -> np.ndarray:
    if image.format == "JPEG":
        raise UserError(
            "a JPEG cannot hold labels, its compression changes values near every edge",
            fix="export the masks again as PNG",
            file=name,
        )
    if image.mode in ("P", "L", "1"):
        return np.array(image).astype(np.uint8, copy=False)
    values = np.array(image)
    if (
        image.mode == "I" or image.mode.startswith("I;16")
    ) and 0 <= values.min() <= values.max() <= _MAX_LABEL:
        return values.astype(np.uint16)
    raise _not_indices(image.mode, values).within(name)


def _not_indices(mode: str, values: np.ndarray) -> UserError:
    wanted = "a label map is an indexed (mode P) or grey PNG whose pixel values are the class indices"
    if mode not in ("RGB", "RGBA"):
        return UserError(f"pixels of mode {mode!r} are not class indices; {wanted}")
    rgb = values[..., :3]
    if (rgb == rgb[..., :1]).all():
        return UserError(
            f"saved as {mode} with three equal channels; {wanted}",
            fix="keep one channel, Image.fromarray(np.array(mask)[..., 0]).save('mask.png')",
        )
    # Four evenly spaced rows are enough for examples; sorting millions of colours takes seconds.
    rows = rgb[:: max(1, len(rgb) // 4)].reshape(-1, 3)
    colours = ", ".join(str(tuple(colour)) for colour in np.unique(rows, axis=0)[:4].tolist())
    return UserError(
        f"a {mode} picture holds colours (such as {colours}), not class indices; {wanted}",
        fix="look each colour up in the palette it was drawn with and save the index; converting to grey does not "
        "give the index",
    )

"""Show labels on a photo: tinted classes, crisp edges, a legend with names and shares.

Tints and edges are one table lookup per pixel (label -> colour and opacity) and one alpha paste, all in
8-bit arithmetic inside numpy and Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from deeplab.errors import UserError
from deeplab.imaging.legend import PANEL, Entry, draw_legend, text_height
from deeplab.imaging.photos import PhotoLike, as_photo

_LISTED_CLASSES = 10


def class_shares(labels: np.ndarray, n_classes: int, *, ignore_label: int | None = 255) -> np.ndarray:
    """Share of each class among the pixels that are not ignored.

    Args:
        labels: integers [H, W], class indices 0..n_classes-1 or `ignore_label`.
        n_classes: number of classes, 1 or more.
        ignore_label: value left out of the count; None if there is none.

    Returns:
        float64 [n_classes], summing to 1; all 0 if every pixel is ignored.

    Raises:
        UserError: a label outside the range; it names the values.
    """
    return _shares(_indexed(labels, n_classes, ignore_label), n_classes)


def draw_overlay(
    photo: PhotoLike,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    palette: np.ndarray,
    alpha: float = 0.5,
    legend: bool = True,
    ignore_label: int | None = 255,
) -> Image.Image:
    """Tint each class of a photo and name the classes beneath it.

    Pixels of the ignore label, and of class 0 if it is called "background", keep the photo's colours.

    Args:
        photo: anything `as_photo` takes; [H, W].
        labels: integers [H, W], class indices or `ignore_label`.
        class_names: one per class.
        palette: uint8 [classes or more, 3], RGB.
        alpha: opacity of the tint, 0..1; outlines are opaque, so 0 draws outlines only.
        legend: adds a panel beneath the photo with the largest classes; the picture grows in height, and
            in width if the photo is too narrow for one name.
        ignore_label: value of pixels without a class; None if there is none.

    Returns:
        RGB image; the photo's size if `legend` is off.

    Raises:
        UserError: sizes differ, a label has no name, a name no colour, or alpha is out of range.
    """
    pixels = as_photo(photo)
    _check(pixels, labels, class_names, palette, alpha)
    indices = _indexed(labels, len(class_names), ignore_label)
    untinted = _has_background(class_names)
    image = _tinted(pixels, indices, palette[: len(class_names)], alpha=alpha, first_tinted=int(untinted))
    if not legend:
        return image
    entries = _entries(_shares(indices, len(class_names)), class_names, palette, untinted=untinted)
    panel = draw_legend(entries, width=image.width, text_size=text_height(*image.size))
    return _stacked(image, panel)


def _check(
    pixels: np.ndarray, labels: np.ndarray, class_names: Sequence[str], palette: np.ndarray, alpha: float
) -> None:
    if labels.shape != pixels.shape[:2]:
        raise UserError(
            f"labels of shape {list(labels.shape)} do not fit a photo of height {pixels.shape[0]} and "
            f"width {pixels.shape[1]}",
            fix="predict at the photo's size, or resize with nearest neighbour",
        )
    if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) < len(class_names):
        raise UserError(
            f"{len(class_names)} classes need a palette of at least [{len(class_names)}, 3], found "
            f"{list(palette.shape)}",
            fix=f"deeplab.imaging.palettes.distinct({len(class_names)})",
        )
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is {alpha}, allowed is 0 (outlines only) to 1 (colours only)")


def _indexed(labels: np.ndarray, n_classes: int, ignore_label: int | None) -> np.ndarray:
    """intp [H, W]: labels as table indices, the ignore label moved to n_classes."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 2:
        raise UserError(f"labels are integers [H, W], found {labels.dtype} {list(labels.shape)}")
    indices = labels.astype(np.intp)
    ignored = labels == ignore_label if ignore_label is not None else np.zeros(labels.shape, bool)
    strays = ((indices < 0) | (indices >= n_classes)) & ~ignored
    if strays.any():
        ignore_note = "" if ignore_label is None else f" and {ignore_label} (ignored)"
        raise UserError(
            f"labels {np.unique(labels[strays])[:8].tolist()} have no class name: "
            f"allowed is 0..{n_classes - 1}{ignore_note}"
        )
    indices[ignored] = n_classes
    return indices


def _shares(indices: np.ndarray, n_classes: int) -> np.ndarray:
    counts = np.bincount(indices.ravel(), minlength=n_classes + 1)[:n_classes]
    return counts / max(1, counts.sum())


def _has_background(class_names: Sequence[str]) -> bool:
    return bool(class_names) and class_names[0].strip("_ ").lower() == "background"


def _tinted(
    pixels: np.ndarray, indices: np.ndarray, colours: np.ndarray, *, alpha: float, first_tinted: int
) -> Image.Image:
    # Edges lean to white, so that dark classes (the Pascal cat is 400000) show an outline too.
    pale = (0.6 * colours + 0.4 * 255).astype(np.uint8)
    tint = np.take(_lookup(colours, opacity=round(255 * alpha), first_tinted=first_tinted), indices)
    edges = _edges(indices, thickness=_edge_thickness(indices.shape))
    tint[edges] = _lookup(pale, opacity=255, first_tinted=first_tinted)[indices[edges]]
    layer = Image.frombuffer("RGBA", indices.shape[::-1], tint, "raw", "RGBA", 0, 1)
    image = Image.fromarray(pixels)
    image.paste(layer, (0, 0), layer)
    return image


def _lookup(colours: np.ndarray, *, opacity: int, first_tinted: int) -> np.ndarray:
    """uint32 [classes + 1], RGBA bytes: one 32-bit gather is cheaper than four of 8 bits."""
    table = np.zeros((len(colours) + 1, 4), np.uint8)
    table[first_tinted:-1, :3] = colours[first_tinted:]
    table[first_tinted:-1, 3] = opacity
    return table.view(np.uint32).ravel()


def _edge_thickness(shape: tuple[int, ...]) -> int:
    return max(1, round(min(shape) / 700))


def _edges(indices: np.ndarray, *, thickness: int) -> np.ndarray:
    """bool [H, W]: another class lies within `thickness` pixels to a side, above or below."""
    edges = np.zeros(indices.shape, bool)
    for k in range(1, thickness + 1):
        across = indices[:, k:] != indices[:, :-k]
        edges[:, k:] |= across
        edges[:, :-k] |= across
        along = indices[k:] != indices[:-k]
        edges[k:] |= along
        edges[:-k] |= along
    return edges


def _entries(
    shares: np.ndarray, class_names: Sequence[str], palette: np.ndarray, *, untinted: bool
) -> list[Entry]:
    """Classes present, largest first, at most `_LISTED_CLASSES` of them."""
    order = np.argsort(-shares, kind="stable")
    present = [int(i) for i in order if shares[i] > 0]
    entries = [
        Entry(
            name=class_names[i] or f"class {i}",
            share=float(shares[i]),
            colour=None if untinted and i == 0 else tuple(palette[i].tolist()),
        )
        for i in present[:_LISTED_CLASSES]
    ]
    if not present:
        return [Entry(name="nothing labelled", share=None, colour=None)]
    if len(present) > _LISTED_CLASSES:
        rest = float(shares[present[_LISTED_CLASSES:]].sum())
        entries.append(Entry(name=f"+ {len(present) - _LISTED_CLASSES} more", share=rest, colour=None))
    return entries


def _stacked(image: Image.Image, panel: Image.Image) -> Image.Image:
    stacked = Image.new("RGB", (panel.width, image.height + panel.height), PANEL)
    stacked.paste(image, ((panel.width - image.width) // 2, 0))
    stacked.paste(panel, (0, image.height))
    return stacked

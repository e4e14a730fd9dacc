"""Sheets of small pictures to look at: overlays of healthy pairs, and the masks that findings are about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from deeplab.doctor.class_pixels import ClassPixels
from deeplab.doctor.examined import STORED, Examined, is_index_mask
from deeplab.doctor.findings import Finding
from deeplab.doctor.inspect import Inspected
from deeplab.doctor.text import FAINT_INK, INK, draw_text
from deeplab.imaging.legend import PANEL, Entry, draw_legend
from deeplab.imaging.overlay import draw_overlay
from deeplab.imaging.palettes import pascal
from deeplab.imaging.pictures import opened_picture

TILE_WIDTH = 320
TILE_HEIGHT = 240
CAPTION = 30
GAP = 12
COLUMNS = 4
_MOST_TILES = 24
_PROBLEM_COLUMNS = 2
_EACH_FINDING = 2
_TEXT = 14
_LEGEND_TEXT = 16
_STRAY = (255, 0, 255)
_IGNORED = (110, 110, 110)


class Tile(NamedTuple):
    """A picture, what it is, and a remark."""

    picture: Image.Image
    name: str
    note: str


def draw_overlays(data: Examined, counts: Sequence[ClassPixels], palette: np.ndarray) -> Image.Image | None:
    """Overlays of up to 24 healthy pairs that together show every class; None if no pair is healthy.

    Args:
        data: the data set.
        counts: by split, for the legend's shares.
        palette: uint8 [classes, 3].
    """
    chosen = choose_pairs(data)
    tiles = [
        Tile(_overlay(data, item, palette), data.file(item.pair.photo), item.pair.split) for item in chosen
    ]
    if not tiles:
        return None
    sheet = _sheet(tiles, columns=min(COLUMNS, len(tiles)), width=TILE_WIDTH)
    shares = np.sum([split.pixels for split in counts], axis=0) / max(
        1, sum(int(s.pixels.sum()) for s in counts)
    )
    entries = [
        Entry(name, float(share), tuple(colour))
        for name, share, colour in zip(data.classes.names, shares, palette.tolist(), strict=True)
        if share > 0
    ]
    legend = draw_legend(entries, width=sheet.width, text_size=_LEGEND_TEXT)
    return _above(sheet, legend)


def choose_pairs(data: Examined, *, most: int = _MOST_TILES) -> list[Inspected]:
    """Healthy pairs: for each class, rarest first, the one that shows most of it; then evenly from all."""
    healthy = [item for item in data.items if _healthy(data, item)]
    by_class: dict[int, list[tuple[int, int]]] = {}
    for place, item in enumerate(healthy):
        for value, count in data.decoded(item.mask).items():
            by_class.setdefault(value, []).append((count, place))
    by_class.pop(data.classes.ignore_label, None)
    chosen: dict[int, None] = {}
    for value in sorted(by_class, key=lambda value: (len(by_class[value]), value)):
        chosen.setdefault(max(by_class[value])[1])
    room = max(0, most - len(chosen))
    others = [place for place in range(len(healthy)) if place not in chosen]
    even = np.linspace(0, max(0, len(others) - 1), num=min(room, len(others)), dtype=int).tolist()
    return [healthy[place] for place in sorted([*list(chosen)[:most], *(others[n] for n in even)])]


def _healthy(data: Examined, item: Inspected) -> bool:
    if item.photo is None or item.mask is None or item.photo.error or not is_index_mask(item.mask):
        return False
    allowed = {*range(len(data.classes.names)), data.classes.ignore_label}
    return (
        item.mask.size in (item.photo.upright_size, item.photo.size)
        and data.decoded(item.mask).keys() <= allowed
    )


def _overlay(data: Examined, item: Inspected, palette: np.ndarray) -> Image.Image:
    photo = Image.fromarray(data.reader.photo(item.pair))
    labels = Image.fromarray(data.reader.labels(item.pair).astype(np.uint8))
    size = _fitted(photo.size)
    return draw_overlay(
        photo.resize(size, Image.Resampling.BOX, reducing_gap=2),
        np.array(labels.resize(size, Image.Resampling.NEAREST)),
        class_names=data.classes.names,
        palette=palette,
        alpha=0.6,
        legend=False,
        ignore_label=data.classes.ignore_label,
    )


def draw_problems(data: Examined, findings: Sequence[Finding], palette: np.ndarray) -> Image.Image | None:
    """Photo and mask of the first files of each finding, side by side; None if there is nothing to show.

    Values that are no class are magenta, ignored pixels grey.
    """
    by_file = {data.file(path): item for item in data.items for path in (item.pair.photo, item.pair.mask)}
    tiles = [
        Tile(_photo_beside_mask(data, by_file[name], palette), name, finding.code)
        for finding in findings
        for name in finding.files[:_EACH_FINDING]
        if name in by_file
    ]
    if not tiles:
        return None
    return _sheet(tiles[:_MOST_TILES], columns=min(_PROBLEM_COLUMNS, len(tiles)), width=2 * TILE_WIDTH + GAP)


def _photo_beside_mask(data: Examined, item: Inspected, palette: np.ndarray) -> Image.Image:
    both = Image.new("RGB", (2 * TILE_WIDTH + GAP, TILE_HEIGHT), PANEL)
    both.paste(_drawn(lambda: Image.fromarray(data.reader.photo(item.pair)), there=item.pair.photo), (0, 0))
    both.paste(
        _drawn(lambda: _mask_picture(data, item, palette), there=item.pair.mask), (TILE_WIDTH + GAP, 0)
    )
    return both


def _drawn(picture: Callable[[], Image.Image], *, there: object) -> Image.Image:
    """The picture in a tile, or a tile that says why there is none."""
    tile = Image.new("RGB", (TILE_WIDTH, TILE_HEIGHT), (41, 44, 50))
    if there is None:
        return _with_note(tile, "missing")
    try:
        image = picture()
    # Broken files are what this sheet is about, and decoders fail in their own ways.
    except Exception:
        return _with_note(tile, "cannot be read")
    image = image.resize(_fitted(image.size), Image.Resampling.NEAREST)
    tile.paste(image, ((TILE_WIDTH - image.width) // 2, (TILE_HEIGHT - image.height) // 2))
    return tile


def _with_note(tile: Image.Image, note: str) -> Image.Image:
    middle = (TILE_WIDTH // 2, TILE_HEIGHT // 2)
    draw_text(ImageDraw.Draw(tile), middle, note, size=18, fill=FAINT_INK, anchor="ms")
    return tile


def _mask_picture(data: Examined, item: Inspected, palette: np.ndarray) -> Image.Image:
    if item.mask is None or not is_index_mask(item.mask):
        return _as_stored(item)
    labels = data.reader.labels(item.pair)
    colours = np.empty((2 * STORED, 3), np.uint8)
    colours[:] = _STRAY if data.classes.known else pascal(2 * STORED)
    colours[: len(data.classes.names)] = palette
    colours[data.classes.ignore_label] = _IGNORED
    return Image.fromarray(colours[labels])


def _as_stored(item: Inspected) -> Image.Image:
    """Colours as they are; greys spread so that the largest value is white."""
    assert item.pair.mask is not None
    with opened_picture(item.pair.mask) as stored:
        if item.mask is None or not item.mask.counts:
            return stored.convert("RGB")
        grey = np.array(stored).astype(np.float32)
    return Image.fromarray((grey * (255 / max(1, max(item.mask.counts)))).astype(np.uint8)).convert("RGB")


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(TILE_WIDTH / size[0], TILE_HEIGHT / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _sheet(tiles: Sequence[Tile], *, columns: int, width: int) -> Image.Image:
    step_x, step_y = width + GAP, TILE_HEIGHT + CAPTION
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (GAP + columns * step_x, GAP + rows * step_y), PANEL)
    draw = ImageDraw.Draw(sheet)
    for place, tile in enumerate(tiles):
        x, y = GAP + place % columns * step_x, GAP + place // columns * step_y
        inset = ((width - tile.picture.width) // 2, (TILE_HEIGHT - tile.picture.height) // 2)
        sheet.paste(tile.picture, (x + inset[0], y + inset[1]))
        baseline = y + TILE_HEIGHT + 18
        note_room = width // 3
        draw_text(draw, (x, baseline), tile.name, size=_TEXT, fill=INK, room=width - note_room - GAP)
        draw_text(
            draw, (x + width, baseline), tile.note, size=_TEXT, fill=FAINT_INK, room=note_room, anchor="rs"
        )
    return sheet


def _above(sheet: Image.Image, legend: Image.Image) -> Image.Image:
    both = Image.new("RGB", (max(sheet.width, legend.width), sheet.height + legend.height), PANEL)
    both.paste(sheet, (0, 0))
    both.paste(legend, (0, sheet.height))
    return both

"""The shape of each class in a label map: COCO's run lengths, and outlines as GeoJSON writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

Ring = list[list[int]]


def coco_counts(mask: np.ndarray) -> str:
    """COCO's compressed run lengths of a bool mask [H, W]: down the columns, zeros first.

    Each number has five bits a character, low ones first, with a bit for "more follows", and a sign; from the
    fourth on it is the difference to the number two before.
    """
    flat = np.asarray(mask, bool).T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(changes, prepend=0, append=flat.size).tolist()
    text = bytearray()
    for index, run in enumerate(runs):
        left = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            low = left & 0x1F
            left >>= 5
            more = left != (-1 if low & 0x10 else 0)
            text.append(48 + (low | (0x20 if more else 0)))
    return text.decode("ascii")


def polygons(mask: np.ndarray) -> list[list[Ring]]:
    """The outlines of a bool mask [H, W], exactly, along the edges of its pixels.

    Returns:
        a polygon for each area whose pixels touch with their sides: its outer ring, then those of its holes. A ring
        is [x, y] of its corners, the first one repeated at its end; (0, 0) is the photo's upper left corner. Outer
        rings turn from x to y, holes the other way.
    """
    rows, columns, across, down = _corners(mask)
    edges = _vertical_edges(rows, columns, down, mask.shape[0])
    owner = np.full(len(rows), -1)
    found: list[list[Ring]] = []
    height = mask.shape[0]
    # corners come row by row, so each ring is met at the left end of its uppermost edge
    for start in range(len(rows)):
        if owner[start] >= 0:
            continue
        ring, members, corner = [], [], start
        while True:
            for partner in (across, down):
                ring.append([int(columns[corner]), int(rows[corner])])
                members.append(corner)
                corner = int(partner[corner])
            if corner == start:
                break
        row, column = rows[start], columns[start]
        if row < height and column < mask.shape[1] and mask[row, column]:
            number = len(found)
            found.append([[*ring, ring[0]]])
        else:
            # the area around a hole holds the pixel above its uppermost edge, and was met before
            free = np.flatnonzero(~mask[row - 1, :column])
            left = free[-1] + 1 if len(free) else 0
            position = np.searchsorted(edges[0], left * (height + 1) + row - 1, side="right") - 1
            number = int(owner[edges[1][position]])
            ring.reverse()
            found[number].append([*ring, ring[0]])
        owner[members] = number
    return found


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of all corners of a mask's outline, and each one's partner along its two edges.

    Where two areas touch at a point, each has a corner there.
    """
    set_ = np.pad(np.asarray(mask, bool), 1)
    upper_left, upper_right = set_[:-1, :-1], set_[:-1, 1:]
    lower_left, lower_right = set_[1:, :-1], set_[1:, 1:]
    diagonal = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    odd = upper_left ^ upper_right ^ lower_left ^ lower_right
    rows, columns = np.nonzero(odd | diagonal)
    twice = diagonal[rows, columns]
    # at a touching point the first corner's horizontal edge leads left; its vertical one up where the upper left
    # pixel is set, else down
    down_first = np.repeat(twice & ~upper_left[rows, columns], 1 + twice)
    rows, columns = np.repeat(rows, 1 + twice), np.repeat(columns, 1 + twice)
    second = np.zeros(len(rows), bool)
    second[1:] = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
    across = np.arange(len(rows)) ^ 1
    order = np.lexsort((second ^ down_first, rows, columns))
    down = np.empty(len(rows), np.int64)
    down[order[0::2]], down[order[1::2]] = order[1::2], order[0::2]
    return rows, columns, across, down


def _vertical_edges(
    rows: np.ndarray, columns: np.ndarray, down: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Upper ends of vertical edges, by column and row: what sorts them, and which corner each is."""
    upper = np.flatnonzero(rows < rows[down])
    keys = columns[upper] * (height + 1) + rows[upper]
    order = np.argsort(keys, kind="stable")
    return keys[order], upper[order]


def features(labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """A GeoJSON FeatureCollection: a MultiPolygon for each class found, in pixels, y downwards."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"id": index, "name": classes[index], "area": int(np.sum(labels == index))},
                "geometry": {"type": "MultiPolygon", "coordinates": polygons(labels == index)},
            }
            for index in np.unique(labels).tolist()
            if index < len(classes)
        ],
    }


def run_lengths(labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """COCO's run lengths for each class found."""
    size = list(labels.shape)
    return {
        "size": size,
        "classes": [
            {
                "id": index,
                "name": classes[index],
                "area": int(np.sum(labels == index)),
                "segmentation": {"size": size, "counts": coco_counts(labels == index)},
            }
            for index in np.unique(labels).tolist()
            if index < len(classes)
        ],
    }

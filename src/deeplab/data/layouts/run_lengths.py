"""Masks stored as run lengths: COCO's, CVAT's, and Label Studio's brush.

Formats: COCO's mask API (runs down the columns, zeros first; a string holds them in base 48 with deltas);
CVAT's XML (runs along the rows of a box, zeros first); Label Studio's brush (a bit stream of RGBA values).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeplab.errors import UserError
from deeplab.imaging.pictures import most_pixels

Size = tuple[int, int]


def from_runs(runs: Sequence[int], size: Size, *, by_column: bool) -> np.ndarray:
    """Runs of zeros and ones in turn, zeros first, as bool [height, width].

    Raises:
        UserError: the runs do not add up to the size.
    """
    lengths, pixels = np.asarray(runs, np.int64), size[0] * size[1]
    if min(size) < 1 or pixels > most_pixels():
        raise UserError(
            f"run lengths for {size[0]} x {size[1]} pixels",
            allowed=f"up to {most_pixels()}",
            fix="export again",
        )
    if lengths.ndim != 1 or ((lengths < 0) | (lengths > pixels)).any() or lengths.sum() != pixels:
        raise UserError(
            f"run lengths that add up to {lengths.sum()} for {size[0]} x {size[1]} pixels", fix="export again"
        )
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape(size[1], size[0]).T if by_column else values.reshape(size)


def coco_runs(text: str) -> list[int]:
    """The runs of COCO's compressed string.

    Each number has five bits a character, low ones first, with a bit for "more follows", and a sign; from the
    fourth on it is the difference to the number two before.

    Raises:
        UserError: it ends inside a number.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise UserError("a compressed mask ends inside a number", fix="export again")
    return runs


def brush_mask(codes: Sequence[int], size: Size) -> np.ndarray:
    """Label Studio's brush as bool [height, width]: where its alpha is not 0.

    Raises:
        UserError: it is not of that form, or of another size.
    """
    try:
        values = _brush_values(bytes(codes), size)
    except UserError:
        raise
    # a stream that ends too early gives empty words
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"a brush mask cannot be read ({error})", fix="export again as JSON") from error
    return values.reshape(*size, 4)[..., 3] > 0


def _brush_values(data: bytes, size: Size) -> np.ndarray:
    """Expand the stream: a header (count, word size, four sizes of lengths), then runs and literals.

    Half a million runs are usual, so the loop calls nothing of its own.
    """
    bits = bin(int.from_bytes(b"\x01" + data))[3:]
    count, word = int(bits[:32], 2), int(bits[32:37], 2) + 1
    widths = {f"{number:02b}": int(bits[37 + 4 * number : 41 + 4 * number], 2) + 1 for number in range(4)}
    if count != size[0] * size[1] * 4 or count > 4 * most_pixels():
        raise UserError(
            f"a brush mask of {count} values for {size[0]} x {size[1]} pixels", fix="export again as JSON"
        )
    position, left = 53, count
    values: list[int] = []
    lengths: list[int] = []
    while left > 0:
        start = position + 3
        position = start + widths[bits[position + 1 : start]]
        length = int(bits[start:position], 2) + 1
        left -= length
        if bits[start - 3] == "1":
            values.append(int(bits[position : position + word], 2))
            lengths.append(length)
            position += word
        else:
            end = position + length * word
            values += [int(bits[at : at + word], 2) for at in range(position, end, word)]
            lengths += [1] * length
            position = end
    if position > len(bits):
        raise ValueError("it ends too early")
    return np.repeat(np.array(values, np.uint8), lengths)[:count]

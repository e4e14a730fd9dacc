"""Colours and names of classes: the palettes of Pascal VOC, Cityscapes, ADE20K, Mapillary, and `distinct`.

Source: tf-reference section 5.5 and Appendix A (the tables of the reference's colour maps); `distinct` is
our own, for class lists that come without colours. A palette is a read-only uint8 array [entries, 3], RGB.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

VOC_CLASSES: tuple[str, ...] = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tv",
)  # fmt: skip

CITYSCAPES_CLASSES: tuple[str, ...] = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def _frozen(palette: np.ndarray) -> np.ndarray:
    palette.setflags(write=False)
    return palette


def _from_hex(table: str, *, entries: int) -> np.ndarray:
    """uint8 [entries, 3] from RRGGBB words (ten a line below); entries beyond the table are black."""
    palette = np.zeros((entries, 3), np.uint8)
    colours = np.frombuffer(bytes.fromhex(table), np.uint8).reshape(-1, 3)
    palette[: len(colours)] = colours
    return _frozen(palette)


# 19 train ids, then black up to 255, as in the reference.
CITYSCAPES: np.ndarray = _from_hex(
    """
    804080 F423E8 464646 66669C BE9999 999999 FAAA1E DCDC00 6B8E23 98FB98
    4682B4 DC143C FF0000 00008E 000046 003C64 005064 0000E6 770B20
    """,
    entries=256,
)

# Index 0 is "ignored / other".
ADE20K: np.ndarray = _from_hex(
    """
    000000 787878 B47878 06E6E6 503232 04C803 787850 8C8C8C CC05FF E6E6E6
    04FA07 E005FF EBFF07 96053D 787846 08FF33 FF0652 8FFF8C CCFF04 FF3307
    CC4603 0066C8 3DE6FA FF0633 0B66FF FF0747 FF09E0 0907E6 DCDCDC FF095C
    7009FF 08FFD6 07FFE0 FFB806 0AFF47 FF290A 07FFFF E0FF08 6608FF FF3D06
    FFC207 FF7A08 00FF14 FF0829 FF0599 0633FF EB0CFF A09614 00A3FF 8C8C8C
    FA0A0F 14FF00 1FFF00 FF1F00 FFE000 99FF00 0000FF FF4700 00EBFF 00ADFF
    1F00FF 0BC8C8 FF5200 00FFF5 003DFF 00FF70 00FF85 FF0000 FFA300 FF6600
    C2FF00 008FFF 33FF00 0052FF 00FF29 00FFAD 0A00FF ADFF00 00FF99 FF5C00
    FF00FF FF00F5 FF0066 FFAD00 FF0014 FFB8B8 001FFF 00FF3D 0047FF FF00CC
    00FFC2 00FF52 000AFF 0070FF 3300FF 00C2FF 007AFF 00FFA3 FF9900 00FF0A
    FF7000 8FFF00 5200FF A3FF00 FFEB00 08B8AA 8500FF 00FF5C B800FF FF001F
    00B8FF 00D6FF FF0070 5CFF00 00E0FF 70E0FF 46B8A0 A300FF 9900FF 47FF00
    FF00A3 FFCC00 FF008F 00FFEB 85FF00 FF00EB F500FF FF007A FFF500 0ABED4
    D6FF00 00CCFF 1400FF FFFF00 0099FF 0029FF 00FFCC 2900FF 29FF00 AD00FF
    00F5FF 4700FF 7A00FF 00FFB8 005CFF B8FF00 0085FF FFD600 19C2C2 66FF00
    5C00FF
    """,
    entries=151,
)

MAPILLARY: np.ndarray = _from_hex(
    """
    A52A2A 00C000 C4C4C4 BE9999 B4A5B4 66669C 66669C 8040FF 8C8CC8 AAAAAA
    FAAAA0 606060 E6968C 804080 6E6E6E F423E8 966464 464646 96785A DC143C
    FF0000 FF0000 FF0000 C88080 FFFFFF 40AA40 804040 4682B4 FFFFFF 98FB98
    6B8E23 00AA1E FFFF80 FA001E 000000 DCDCDC AAAAAA DE2828 64AA1E 282828
    212121 AAAAAA 00008E AAAAAA D2AA64 999999 808080 00008E FAAA1E C0C0C0
    DCDC00 B4A5B4 770B20 00008E 003C64 00008E 00005A 0000E6 005064 804040
    00006E 000046 0000C0 202020 000000 000000
    """,
    entries=66,
)


_FIRST_COLOURS: np.ndarray = _from_hex("E63C46 1E88E5 FFC107 43BE5A AB47BC 00C8D4 FF801E", entries=7)

_LINEAR_TO_CONES = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
_CONES_TO_OKLAB = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)


def pascal(n: int = 256) -> np.ndarray:
    """The Pascal VOC palette by its bit rule.

    Bits 0, 1, 2 of the index are the top bits of red, green, blue; bits 3, 4, 5 the next ones, and so on.

    Args:
        n: number of entries, 1 or more; index 255 is the cream that VOC paints "void" with.

    Returns:
        uint8 [n, 3].
    """
    _require_positive(n)
    index = np.arange(n)
    palette = np.zeros((n, 3), np.int64)
    for plane in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * plane + channel)) & 1) << (7 - plane)
    return _frozen(palette.astype(np.uint8))


def distinct(n: int) -> np.ndarray:
    """Colours for a class list of one's own: black for index 0, then colours as unlike as possible.

    The same on every machine, and `distinct(k)` is the start of `distinct(n)`, so a class keeps its colour
    when classes are added. Each colour is the candidate farthest (OKLab distance) from all before it, among
    colours neither so dark nor so pale that they vanish on a photo.

    Args:
        n: number of entries, 1 or more.

    Returns:
        uint8 [n, 3].

    Raises:
        ValueError: n is less than 1, or more than there are candidate colours (over a thousand).
    """
    _require_positive(n)
    if n > 1 + len(_candidates()):
        raise ValueError(f"distinct() has {1 + len(_candidates())} colours, {n} were asked for")
    return _frozen(np.concatenate([np.zeros((1, 3), np.uint8), _farthest_first(n - 1)]))


@lru_cache(maxsize=1)
def _candidates() -> np.ndarray:
    """uint8 [m, 3]: colours of middle lightness and fair chroma, without the neon ones."""
    levels = np.linspace(0, 255, 16).round().astype(np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    return rgb[(lab[:, 0] > 0.5) & (lab[:, 0] < 0.88) & (chroma > 0.12) & (chroma < 0.27)]


@lru_cache(maxsize=8)
def _farthest_first(count: int) -> np.ndarray:
    """uint8 [count, 3]: the first colours chosen by eye, the rest farthest from all before."""
    candidates = _candidates()
    lab = _oklab(candidates)
    chosen = list(_FIRST_COLOURS[:count])
    gap = np.full(len(candidates), np.inf)
    for colour in _oklab(np.concatenate([[[0, 0, 0]], _FIRST_COLOURS])):
        gap = np.minimum(gap, _oklab_distance(lab, colour))
    while len(chosen) < count:
        best = int(gap.argmax())
        chosen.append(candidates[best])
        gap = np.minimum(gap, _oklab_distance(lab, lab[best]))
    return np.array(chosen, np.uint8).reshape(-1, 3)


def _oklab_distance(colours: np.ndarray, other: np.ndarray) -> np.ndarray:
    # Lightness counts less: under a half-transparent tint the photo decides how light a pixel looks.
    return np.linalg.norm((colours - other) * (0.7, 1.0, 1.0), axis=1)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """OKLab (L 0..1, a, b) of sRGB 0..255, [n, 3]. Source: Ottosson, A perceptual color space (2020)."""
    srgb = np.asarray(rgb, np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LINEAR_TO_CONES) @ _CONES_TO_OKLAB


def _require_positive(n: int) -> None:
    if n < 1:
        raise ValueError(f"a palette has at least one entry, {n} were asked for")

"""Masks of the wrong kind: colours instead of indices, wide integers, lossy compression, blurred edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deeplab.doctor.colours import Colour, mapping_lines, recognise
from deeplab.doctor.examined import Examined, is_blurred
from deeplab.doctor.findings import Finding, of_files
from deeplab.doctor.mask_facts import WIDE, MaskFacts

_COLOUR_MODES = ("RGB", "RGBA", "LA", "PA", "CMYK")
_LISTED_COLOURS = 24

NamedMask = tuple[str, MaskFacts]


def kind_findings(data: Examined) -> list[Finding]:
    """Everything that is wrong with the kind of the mask files."""
    masks = data.masks()
    lossy = [(name, mask) for name, mask in masks if mask.format == "JPEG"]
    rest = [(name, mask) for name, mask in masks if mask.format != "JPEG"]
    return [
        *of_files(
            "mask-jpeg",
            "error",
            [name for name, _ in lossy],
            what="A mask is a JPEG, whose compression changes values near every edge.",
            fix="Export the masks again as PNG from where they were drawn; the JPEG has lost the labels at edges.",
        ),
        *_blurred([pair for pair in rest if is_blurred(pair[1])]),
        *_colour_masks([pair for pair in rest if pair[1].mode in _COLOUR_MODES]),
        *_wide_masks([pair for pair in rest if pair[1].mode.startswith("I") and pair[1].counts]),
        *_odd_masks(rest),
        *_palettes_vary(rest),
    ]


def _blurred(masks: Sequence[NamedMask]) -> list[Finding]:
    lines = [f"{name} holds {len(mask.counts)} values, {mask.thin_values} of them in lines of one pixel"
             for name, mask in masks[:5]]  # fmt: skip
    return of_files(
        "mask-blurred",
        "error",
        [name for name, _ in masks],
        what="A mask holds many rare values along its edges: it was anti-aliased, blurred, resized smoothly or "
        "saved as JPEG before.",
        fix="Export the masks again without anti-aliasing, and resize masks with nearest neighbour only.",
        details=lines,
    )


def _colour_masks(masks: Sequence[NamedMask]) -> list[Finding]:
    with_alpha = [pair for pair in masks if pair[1].mode in ("RGBA", "LA", "PA")]
    opaque = [pair for pair in masks if pair not in with_alpha]
    found = []
    for code, kind, group in (("mask-rgba", "RGBA", with_alpha), ("mask-rgb", "RGB", opaque)):
        if group:
            found += _one_colour_kind(code, kind, group)
    return found


def _one_colour_kind(code: str, kind: str, masks: Sequence[NamedMask]) -> list[Finding]:
    many = [pair for pair in masks if pair[1].many_colours]
    few = [pair for pair in masks if not pair[1].many_colours]
    grey = [pair for pair in few if all(r == g == b for r, g, b in pair[1].colours)]
    # all-black masks say nothing by themselves: they are grey only among grey ones
    if len(grey) < len(few):
        grey = []
    coloured = [pair for pair in few if pair not in grey]
    return [
        *of_files(
            f"{code}-many-colours",
            "error",
            [name for name, _ in many],
            what=f"A mask is an {kind} picture of more than 256 colours: anti-aliased, lossy, or a photo.",
            fix="Export the masks again as one-channel PNG of class indices, without anti-aliasing.",
        ),
        *of_files(
            f"{code}-grey",
            "error",
            [name for name, _ in grey],
            what=f"A mask is saved as {kind} with three equal channels.",
            fix="Keep one channel: Image.fromarray(np.array(mask)[..., 0]).save(path).",
            details=_alpha_lines(grey),
        ),
        *_palette_finding(code, f"{kind} picture", coloured),
    ]


def _palette_finding(code: str, kind: str, masks: Sequence[NamedMask]) -> list[Finding]:
    if not masks:
        return []
    colours: Counter[Colour] = Counter()
    for _, mask in masks:
        colours.update(mask.colours)
    known = recognise(colours)
    whose = f"the {known.name} palette" if known else f"{len(colours)} colours of no known palette"
    turn = f"Turn {known.name} colours into" if known else "Turn colours into"
    return of_files(
        code,
        "error",
        [name for name, _ in masks],
        what=f"A mask is an {kind} of {whose}, not of class indices.",
        fix=f"{turn} class indices by the mapping listed and save one-channel PNGs; "
        "converting to grey does not give indices.",
        details=[*mapping_lines(colours, known, most=_LISTED_COLOURS), *_alpha_lines(masks)],
    )


def _alpha_lines(masks: Sequence[NamedMask]) -> list[str]:
    clear = [name for name, mask in masks if mask.see_through]
    return [f"{len(clear)} have transparent pixels, first {clear[0]}: are they ignored?"] if clear else []


def _wide_masks(masks: Sequence[NamedMask]) -> list[Finding]:
    large = [(name, max(mask.counts)) for name, mask in masks if max(mask.counts) >= WIDE]
    return [
        *of_files(
            "mask-16-bit",
            "error",
            [name for name, _ in large],
            what=f"A mask stores 16 or 32 bits a pixel, with values up to {max([v for _, v in large], default=0)}.",
            fix="Turn the values into class indices below 255 and save 8 bits; values such as 26001 are "
            "class * 1000 + instance, and 256 * k is an index k that was shifted.",
            details=[f"{name} holds {value}" for name, value in large[:5]],
        ),
        *of_files(
            "mask-16-bit-small",
            "warning",
            [name for name, mask in masks if max(mask.counts) < WIDE],
            what="A mask stores 16 or 32 bits a pixel though its values fit 8: it is read here, but not everywhere.",
            fix="Save it as 8 bits: Image.fromarray(np.array(mask).astype('uint8')).save(path).",
        ),
    ]


def _odd_masks(masks: Sequence[NamedMask]) -> list[Finding]:
    """Floats, HSV and the like."""
    odd = [
        (name, mask.mode)
        for name, mask in masks
        if not mask.holds_indices
        and mask.mode not in _COLOUR_MODES
        and not (mask.mode.startswith("I") and mask.counts)
    ]
    return of_files(
        "mask-mode",
        "error",
        [name for name, _ in odd],
        what=f"A mask has pixels of mode {', '.join(sorted({mode for _, mode in odd}))}, which are no indices.",
        fix="Save class indices as 8-bit PNG: Image.fromarray(indices.astype('uint8')).save(path).",
    )


def _palettes_vary(masks: Sequence[NamedMask]) -> list[Finding]:
    """Indexed masks of which one colour stands at different indices: each file got a palette of its own."""
    index_of: dict[Colour, int] = {}
    odd = []
    for name, mask in masks:
        colours = {colour: value for value, colour in mask.palette.items()}
        # a colour that two values of one file share says nothing about files
        if len(colours) < len(mask.palette):
            continue
        if any(index_of.setdefault(colour, value) != value for colour, value in colours.items()):
            odd.append(name)
    return of_files(
        "palette-varies",
        "warning",
        odd,
        what="One colour stands for different indices in different masks, as when every file was reduced to "
        "a palette of its own.",
        fix="Turn the colours into indices with one table for all files.",
    )

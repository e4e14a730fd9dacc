"""What an exported model says about itself, inside its file and beside it: one class, written and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from deeplab.config import DeepLabConfig, Positive, Strict, Width, parse_config
from deeplab.config.labels import LabelSpec
from deeplab.errors import UserError
from deeplab.prediction.artefacts.apart import KEY
from deeplab.system.reading import foreign, parse_json, shown

FORMAT: Literal[1] = 1
# that one file may name
MOST_SIZES = 64
PHOTO = "photo"
Output = Literal["labels", "logits", "probabilities", "small-logits"]
Precision = Literal["float32", "float16", "int8"]
Side = tuple[Positive, Positive]


class PhotoInput(Strict):
    """What goes in. Nothing is to be normalised or resized before: that is inside.

    layout: of an array, or an image as Core ML has it. sizes: the heights and widths that it takes, empty where any
    are taken from `smallest` to `largest` (None: no end). batch: whether several photos of one size are taken at once.
    """

    name: str = PHOTO
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC", "image"] = "NHWC"
    channels: Width
    values: str = "RGB, 0..255"
    sizes: Annotated[tuple[Side, ...], Field(max_length=MOST_SIZES)] = ()
    smallest: Side = (1, 1)
    largest: Side | None = None
    batch: bool = True

    def takes(self, size: Side) -> bool:
        """Whether a photo of this height and width may go in."""
        if self.sizes:
            return size in self.sizes
        least = all(side >= least for side, least in zip(size, self.smallest, strict=True))
        return least and (
            self.largest is None or all(side <= most for side, most in zip(size, self.largest, strict=True))
        )

    def nearest(self, size: tuple[int, ...]) -> Side:
        """What a photo of this height and width has to be resized to, to go in; the first of named sizes."""
        if self.sizes:
            return self.sizes[0]
        most = self.largest or (max(size), max(size))
        height, width = (
            max(low, min(side, high)) for side, low, high in zip(size, self.smallest, most, strict=True)
        )
        return height, width

    def said(self) -> str:
        """The sizes in words."""
        if self.sizes:
            return " or ".join(f"{height} x {width}" for height, width in self.sizes)
        upper = "" if self.largest is None else f" up to {self.largest[0]} x {self.largest[1]}"
        return f"any size from {self.smallest[0]} x {self.smallest[1]}{upper}"


class Result(Strict):
    """What comes out: for every name of `names`, that of the main output first.

    labels: class indices [N, H, W]; logits, probabilities: [N, classes, H, W]; small-logits: [N, classes, h, w] on the
    network's own grid, to be resized by `resize`.
    """

    kind: Output
    names: tuple[str, ...]
    dtype: Literal["uint8", "int32", "float32"]
    resize: str


class Description(Strict):
    """Everything about an exported model but its weights.

    notes: what a user should know, in sentences. calibration: digest of the photos that int8 ranges are from.
    parity: figures of the comparison with PyTorch, see `deeplab.export.gate`; None while they are being taken.
    """

    format: Literal[1] = FORMAT
    target: str
    architecture: DeepLabConfig
    labels: LabelSpec
    output_stride: Positive
    input: PhotoInput
    output: Result
    precision: Precision = "float32"
    calibration: str | None = None
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    parity: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _of_one_model(self) -> Self:
        counts = {
            "labels.classes": (len(self.labels.classes), self.architecture.num_classes),
            "output.names": (len(self.output.names), len(self.architecture.outputs)),
            "input.channels": (self.input.channels, self.architecture.backbone.in_channels),
        }
        for key, (found, due) in counts.items():
            if found != due:
                raise ValueError(f"{key}: {found} of them, and the architecture has {due}")
        return self

    def to_json(self) -> str:
        """Equal text for equal descriptions."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


class Artefact(NamedTuple):
    """An exported model, opened in its own runtime.

    run: uint8 [N, H, W, channels] to one array for each of the output's names; may be called from several threads.
    """

    description: Description
    run: Callable[[np.ndarray], list[np.ndarray]]


def described(text: str | None, path: Path) -> Description:
    """The description in a file's metadata.

    Raises:
        UserError: there is none, or not one of this version.
    """
    if not text:
        raise UserError(
            f"has no {KEY!r} metadata: it was not exported by this package",
            fix="deeplab export writes such files, deeplab import reads published weights",
            file=path,
        )
    with foreign(path, "its description is not JSON", fix="export it again"):
        values = parse_json(text)
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise UserError(
            f"has format {shown(found)}; this version reads {FORMAT}", fix="export again", file=path
        )
    return parse_config(Description, values, str(path))

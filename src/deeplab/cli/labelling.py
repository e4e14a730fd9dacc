"""Options that every command which labels photos takes, and the one description that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from deeplab.errors import UserError

if TYPE_CHECKING:
    from deeplab.prediction.labelling import Labelling

# more change little and take half a second each
CALIBRATION_PHOTOS = 32


@Parameter(name="*")
@dataclass(frozen=True)
class Runtime:
    """What computes the network.

    Parameters
    ----------
    output_stride:
        4, 8, 16 or 32: smaller is denser and slower. Default: the model's own.
    device:
        auto, cpu, cuda, cuda:1, mps. With torchrun, cuda gives each process its own GPU.
    precision:
        float32; bfloat16: up to twice as fast where the processor has instructions for it, labels change at some
        edges; int8: faster again, on processors, with --calibration.
    engine:
        What runs the network: torch, openvino, onnxruntime (extras openvino, onnx), or auto, the fastest of
        those that are installed.
    calibration:
        For int8: photos, folders or glob patterns of photos like those to label; of many, some are taken.
    """

    output_stride: int | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    engine: str = "torch"
    calibration: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()


@Parameter(name="*")
@dataclass(frozen=True)
class Passes:
    """How often and in what pieces the network sees a photo, and what becomes of its answer.

    Parameters
    ----------
    scales:
        Sizes to average over, such as 0.75 1 1.25. A model that looks at several itself does so at each.
    flip:
        Also average over the mirrored photo.
    window:
        Height and width: label photos in windows of this size and blend them, for photos larger than memory.
    overlap:
        Least share of the window that neighbours share.
    seams:
        Of windows: blend averages where they overlap; shared gathers what the network asks of the whole photo first,
        in a pass more; exact also lets windows overlap by as much as the network sees, with the whole photo's labels.
    crf:
        Snap labels to the photo's edges by the fully connected CRF: v1, v2-resnet101, or a JSON file as written by
        deeplab crf search. Not with --window.
    threshold:
        Of a model of two classes: pixels whose probability of the second is above this are of that class. Default: the
        model's own, mostly 0.5.
    """

    scales: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (1.0,)
    flip: Annotated[bool, Parameter(negative="")] = False
    window: tuple[int, int] | None = None
    overlap: float = 1 / 3
    seams: Literal["blend", "shared", "exact"] = "blend"
    crf: str | None = None
    threshold: float | None = None


USUAL, ONE_PASS = Runtime(), Passes()


def labelling(runtime: Runtime, passes: Passes = ONE_PASS, *, scenes: bool = False) -> Labelling:
    """The description that the options make; scenes come in windows without `--window`, too.

    Raises:
        UserError: see `Labelling`; or no photos to calibrate with are found, no such parameters of a CRF, or seams or
            an overlap of no windows.
    """
    from deeplab.crf import crf_parameters
    from deeplab.imaging.photos import find_photos
    from deeplab.prediction.labelling import Labelling
    from deeplab.prediction.windows import Window

    if passes.window is None:
        refuse_idle(passes, "overlap", *([] if scenes else ["seams"]), needs="--window HEIGHT WIDTH")
    found = find_photos(runtime.calibration) if runtime.calibration else []
    return Labelling(
        scales=passes.scales,
        flip=passes.flip,
        window=None if passes.window is None else Window(*passes.window, overlap=passes.overlap),
        seams=passes.seams,
        crf=None if passes.crf is None else crf_parameters(passes.crf),
        output_stride=runtime.output_stride,
        engine=runtime.engine,
        precision=runtime.precision,
        device=runtime.device,
        calibration=tuple(spread(found, CALIBRATION_PHOTOS)),
        threshold=passes.threshold,
    )


def refuse_idle(options: Any, *names: str, needs: str) -> None:
    """Refuse those of a command's options, a dataclass, that were given though nothing is there that they speak of.

    Raises:
        UserError: one of these fields is not its default.
    """
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(options)
        if field.name in names and getattr(options, field.name) != field.default
    ]
    if given:
        raise idle(*given, needs=needs)


def idle(*options: str, needs: str) -> UserError:
    """What to raise of options that were given though nothing is there that they speak of."""
    return UserError(
        f"{' and '.join(options)} would change nothing",
        allowed=f"with {needs}",
        fix="leave it out" if len(options) == 1 else "leave them out",
    )


def spread(photos: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the photos, at equal distances."""
    return (
        [photos[index * len(photos) // most] for index in range(most)] if len(photos) > most else list(photos)
    )

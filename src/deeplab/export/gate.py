"""The gate: a file is right if its own runtime, given the file alone, computes what float64 PyTorch computes.

Compared on photos at sizes that tracing never saw. In float, what comes out may be off by as much as PyTorch's own
float32 is, times `FACTOR`, and labels may differ only where two classes are that near: a fixed bound would refuse
right files of models that are ill-conditioned. Of float16 weights and int8 the share of equal labels is judged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts.description import Artefact, Description, Output, PhotoInput, Side

# one pixel, odd and even, wide, even and odd, even; none of them traced
SIZES: tuple[Side, ...] = ((1, 1), (97, 130), (33, 257), (194, 151), (128, 160))
FACTOR, FLOOR = 5.0, 2e-5
# of equal labels, of one photo and on average
HALF, INT8_WORST, INT8_MEAN = 0.995, 0.95, 0.98
LONGEST = 513


class GateError(Exception):
    """The file does not compute what the model does.

    Attributes:
        parity: the figures, see `verdict`; None where it did not come to figures.
    """

    def __init__(self, message: str, parity: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.parity = parity


@dataclass(frozen=True)
class Compared:
    """One photo.

    Attributes:
        agreement: share of equal labels, of all outputs.
        error: largest difference over the standard deviation of the logits; None where labels come out.
        margin: largest distance of the two highest classes where labels differ, over the same.
        own: largest error of PyTorch's float32.
    """

    size: Side
    agreement: float
    error: float | None
    margin: float
    own: float


def gate_photos(description: Description, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What to compare on: at sizes of their own in float, and in int8 as large as they come, up to 513.

    Args:
        photos: uint8 [H, W, channels]; where there are none, they are drawn.
    """
    taken = description.input
    drawn = list(photos) or [drawn_photo((240, 320), taken.channels, seed=seed) for seed in range(3)]
    if taken.sizes:
        sizes = [size for size in taken.sizes for _ in range(max(3, len(photos)))]
    elif description.precision == "float32":
        sizes = [*SIZES, *([taken.largest] if taken.largest else [])]
    else:
        sizes = [_fitting(photo.shape[:2]) for photo in drawn]
    if not taken.sizes:
        sizes = [taken.nearest(size) for size in sizes]
    return [resized(drawn[index % len(drawn)], size) for index, size in enumerate(sizes)]


def drawn_photo(size: Side, channels: int, *, seed: int) -> np.ndarray:
    """A picture of smooth colours with grain, the same on every machine: uint8 [*size, channels]."""
    random = np.random.default_rng(seed)
    coarse = resized(random.integers(0, 256, (6, 8, channels)).astype(np.uint8), size).astype(np.float64)
    return (coarse + random.normal(0, 12, coarse.shape)).clip(0, 255).astype(np.uint8)


def compare(
    model: DeepLab, artefact: Artefact, photos: Sequence[np.ndarray]
) -> tuple[list[Compared], Callable[[Artefact], float]]:
    """What the artefact computes beside what the model does in float64.

    Args:
        model: what was exported, in float arithmetic and eval mode; left as it is.
        artefact: opened from its file.
        photos: see `gate_photos`.

    Returns:
        one comparison for each photo, and a function of another artefact of the same model: its worst agreement.

    Raises:
        GateError: the runtime cannot run the file, or a result has another shape or type than it says.
    """
    reference = copy.deepcopy(model).double()
    kind, names = artefact.description.output.kind, list(model.config.outputs)
    found = [
        (_logits(reference, photo, torch.float64), _logits(model, photo, torch.float32)) for photo in photos
    ]
    spread = {name: _spread([right[name] for right, _ in found]) for name in names}
    compared = []
    for photo, (right, own) in zip(photos, found, strict=True):
        results = _results(artefact, photo, right, model)
        off = {name: (own[name] - right[name]).abs().max().item() / spread[name] for name in names}
        compared.append(_compared(kind, photo, results, right, model, spread, max(off.values())))

    def agreement_of(other: Artefact) -> float:
        each = []
        for photo, (right, _) in zip(photos, found, strict=True):
            results = _results(other, photo, right, model)
            each.append(_compared(kind, photo, results, right, model, spread, 0.0).agreement)
        return min(each)

    return compared, agreement_of


def verdict(precision: str, compared: Sequence[Compared]) -> dict[str, Any]:
    """The figures and whether they pass, as JSON values: `passed`, and `criterion` in words."""
    agreements = [each.agreement for each in compared if min(each.size) > 1] or [compared[0].agreement]
    worst, mean = min(agreements), sum(agreements) / len(agreements)
    errors = [each.error for each in compared if each.error is not None]
    # the model's own conditioning, once for all sizes
    limit = FACTOR * max(each.own for each in compared) + FLOOR
    margin = max(each.margin for each in compared)
    if precision == "float32":
        passed = margin <= 2 * limit and all(error <= limit for error in errors)
        criterion = (
            f"difference to float64 at most {FACTOR:g} times PyTorch's own and {FLOOR:g} of the logits' standard "
            "deviation, and labels differ only where two classes are within twice that"
        )
    elif precision == "float16":
        passed, criterion = worst >= HALF, f"equal labels on {HALF:.1%} of each photo"
    else:
        passed = worst >= INT8_WORST and mean >= INT8_MEAN
        criterion = (
            f"equal labels on {INT8_WORST:.0%} of each photo and on {INT8_MEAN:.0%} of them on average"
        )
    return {
        "passed": bool(passed),
        "criterion": criterion,
        "agreement": worst,
        "mean agreement": mean,
        "error": max(errors) if errors else None,
        "margin": margin,
        "limit": limit,
        "float32 of PyTorch": max(each.own for each in compared),
        "photos": [
            {"size": list(each.size), "agreement": each.agreement, "error": each.error, "margin": each.margin}
            for each in compared
        ],
    }


def _compared(
    kind: Output,
    photo: np.ndarray,
    results: dict[str, torch.Tensor],
    right: dict[str, torch.Tensor],
    model: DeepLab,
    spread: dict[str, float],
    own: float,
) -> Compared:
    size = (photo.shape[0], photo.shape[1])
    equal, errors, margins = [], [0.0], [0.0]
    for name, logits in right.items():
        full = model.resize_logits(logits, size)
        expected = {"small-logits": logits, "probabilities": full.softmax(1)}.get(kind, full)
        result = results[name]
        if kind == "labels":
            labels, scores = result.long(), full
        else:
            labels, scores = result.argmax(1), expected if kind == "small-logits" else full
            # a probability moves by no more than the logits do
            errors.append(_largest((result.double() - expected).abs()) / spread[name])
        best = scores.argmax(1)
        differ = labels != best
        # by how much less the class taken scores than the best
        gap = scores.max(1).values - scores.gather(1, labels.clamp(0, scores.shape[1] - 1)[:, None])[:, 0]
        margins.append(_largest(gap) / spread[name])
        equal.append(1 - differ.double().mean().item())
    error = None if kind == "labels" else max(errors)
    return Compared(size=size, agreement=min(equal), error=error, margin=max(margins), own=own)


def _largest(values: torch.Tensor) -> float:
    """What is no number is larger than any."""
    return torch.nan_to_num(values.max(), nan=torch.inf).item()


def _logits(model: DeepLab, photo: np.ndarray, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    images = torch.from_numpy(photo).permute(2, 0, 1)[None].to(dtype)
    with torch.inference_mode():
        return {name: value.double() for name, value in model.low_resolution_logits(images).items()}


def _spread(logits: Sequence[torch.Tensor]) -> float:
    values = torch.cat([each.flatten() for each in logits])
    return max(values.std().item(), 1e-12) if len(values) > 1 else 1.0


def _results(
    artefact: Artefact, photo: np.ndarray, right: dict[str, torch.Tensor], model: DeepLab
) -> dict[str, torch.Tensor]:
    about, size = artefact.description.output, photo.shape[:2]
    try:
        results = artefact.run(photo[None])
    # every runtime has errors of its own
    except Exception as error:
        told = str(error).strip().splitlines()[-1:] or [""]
        raise GateError(
            f"its runtime cannot run it at {size[0]} x {size[1]} ({type(error).__name__}: {told[0][:200]})"
        ) from error
    found = {}
    for name, result in zip(right, results, strict=True):
        grid = right[name].shape[1:] if about.kind == "small-logits" else (right[name].shape[1], *size)
        shape = (1, *size) if about.kind == "labels" else (1, *grid)
        if tuple(result.shape) != shape or result.dtype.name != about.dtype:
            raise GateError(
                f"at {size[0]} x {size[1]} the file gives {result.dtype} {list(result.shape)} where {about.dtype} "
                f"{list(shape)} is right: the conversion went wrong"
            )
        found[name] = torch.from_numpy(np.ascontiguousarray(result))
    return found


def fitted(photo: np.ndarray, labels: np.ndarray, taken: PhotoInput) -> tuple[np.ndarray, np.ndarray]:
    """A photo, uint8 [H, W, channels], and its mask, uint8 [H, W], at the nearest size that an export takes."""
    size = taken.nearest(photo.shape[:2])
    if size == photo.shape[:2]:
        return photo, labels
    mask = Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return resized(photo, size), np.asarray(mask)


def _fitting(size: tuple[int, ...]) -> Side:
    scale = min(1.0, LONGEST / max(size))
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def resized(photo: np.ndarray, size: Side) -> np.ndarray:
    """uint8 [H, W, channels] at another size, each channel by itself, as there may be more than three."""
    planes = [
        Image.fromarray(np.ascontiguousarray(photo[..., channel])).resize(
            (size[1], size[0]), Image.Resampling.BICUBIC
        )
        for channel in range(photo.shape[2])
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)

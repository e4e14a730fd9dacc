"""A photo labelled whole, without its logits or probabilities at full size: those exist for a strip of rows at a time.

With 150 classes at 2000 x 3000 they would take 3.6 GB each. Logits at low resolution, of each size and mirror
image, are a 64th of that or less and are all kept. Labels of a single pass are those of
`deeplab.native.upsample_argmax`. Against `deeplab.prediction.inference.predict`, which interpolates rows and columns
in one, probabilities differ by rounding (below 1e-5) and labels where two classes are equal up to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from deeplab.config import ResizeRule
from deeplab.native.upsample_argmax import Axis, argmax_along, axis, interpolated
from deeplab.prediction.inference import finite, image_size, passes, predict
from deeplab.prediction.network import Network

STRIP_BYTES = 16 << 20


class Labelled(NamedTuple):
    """labels int64 [H, W]; confidence float32 [H, W], the probability of the label, 0..1, or None if nobody asked."""

    labels: torch.Tensor
    confidence: torch.Tensor | None

    def cpu(self) -> Labelled:
        """The same on the CPU."""
        return Labelled(self.labels.cpu(), None if self.confidence is None else self.confidence.cpu())


@torch.inference_mode()
def predict_whole(
    network: Network,
    image: torch.Tensor,
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    confidence: bool = True,
) -> Labelled:
    """Labels and confidence of one image.

    Args:
        network, scales, flip: see `deeplab.prediction.inference.predict`.
        image: [1, in_channels, H, W], see there.
        confidence: False leaves it out, which spares a single pass the strips.
    """
    if network.eight_bit:
        # its interpolation rounds to the runtime's own grid, which is exact only as a whole
        found = predict(network, image, scales=scales, flip=flip)["semantic"]
        labels = found.labels[0]
        return Labelled(labels, confidence_of(found.probabilities[0], labels) if confidence else None)
    size = image_size(image)
    if scales == (1.0,) and not flip:
        logits = finite(network.low_resolution_logits(image))["semantic"]
        return labelled_along(logits, *_axes(logits, size, network.config.resize), confidence=confidence)
    passed = [logits["semantic"] for logits in passes(network, image, scales=scales, flip=flip)]
    return _averaged(passed, size, network.config.resize)


def confidence_of(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float32 [H, W] of probabilities [C, H, W] and labels [H, W]."""
    return probabilities.gather(0, labels[None])[0].float()


def labelled_along(logits: torch.Tensor, rows: Axis, columns: Axis, *, confidence: bool) -> Labelled:
    """Labels and confidence at the pixels of two axes, of logits [1, C, h, w]."""
    logits = logits.float()
    labels = argmax_along(logits, rows, columns)[0].long()
    if not confidence:
        return Labelled(labels, None)
    sure = torch.empty(labels.shape, device=labels.device)
    for start, end in _strips(logits.shape[1], labels.shape):
        strip = _strip(logits, rows.part(start, end), columns)
        strip = strip - strip.gather(0, labels[None, start:end])
        sure[start:end] = strip.exp_().sum(0).reciprocal_()
    return Labelled(labels, sure)


def _averaged(passes: list[torch.Tensor], size: tuple[int, int], rule: ResizeRule) -> Labelled:
    labels = torch.empty(size, dtype=torch.int64, device=passes[0].device)
    confidence = torch.empty(size, device=labels.device)
    for start, end in _strips(passes[0].shape[1], size):
        total = torch.zeros(passes[0].shape[1], end - start, size[1], device=labels.device)
        for logits in passes:
            rows, columns = _axes(logits, size, rule)
            total += _strip(logits.float(), rows.part(start, end), columns).softmax(0)
        highest, labels[start:end] = total.max(0)
        confidence[start:end] = highest / len(passes)
    return Labelled(labels, confidence)


def _axes(logits: torch.Tensor, size: tuple[int, int], rule: ResizeRule) -> tuple[Axis, Axis]:
    return axis(logits.shape[-2], size[0], rule), axis(logits.shape[-1], size[1], rule)


def _strips(classes: int, size: Sequence[int]) -> list[tuple[int, int]]:
    """First and last rows, plus one, of strips that hold STRIP_BYTES of float32 logits, or one row."""
    rows = max(1, STRIP_BYTES // (4 * classes * size[1]))
    return [(start, min(start + rows, size[0])) for start in range(0, size[0], rows)]


def _strip(logits: torch.Tensor, rows: Axis, columns: Axis) -> torch.Tensor:
    """[C, rows, columns] of the logits [1, C, h, w]."""
    return interpolated(interpolated(logits, rows, -2), columns, -1)[0]

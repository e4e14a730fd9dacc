"""A network's answers on held-out photos, kept so that many CRFs can be measured on them.

Kept are the logits on the network's own grid, float32: a photo of 500 x 375 pixels and 21 classes takes 65 KB at output
stride 16 where its probabilities take 16 MB. Enlarging them again takes a hundredth of the CRF's time and gives the
probabilities of a single-scale prediction exactly. Photos and masks are read again each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from deeplab.crf.config import CRFConfig
from deeplab.crf.dense import dense_crf
from deeplab.data.dataset import SegmentationDataset
from deeplab.evaluation.metrics import ConfusionMatrix
from deeplab.prediction.predictor import Predictor


def choose_photos(available: int, *, photos: int, seed: int) -> list[int]:
    """Which of the `available` photos are held out, ascending; all if there are no more than `photos`."""
    return sorted(random.Random(seed).sample(range(available), min(photos, available)))


class HeldOut:
    """The chosen photos of a data set with the network's logits.

    Args:
        predictor: its network; of how it labels nothing else is used.
        dataset: without a transform.
        chosen: indices into it.
        on_photo: called after each photo.
    """

    @torch.inference_mode()
    def __init__(
        self,
        predictor: Predictor,
        dataset: SegmentationDataset,
        *,
        chosen: list[int],
        on_photo: Callable[[], None] = lambda: None,
    ) -> None:
        self._predictor, self._dataset, self._chosen = predictor, dataset, chosen
        self._logits = []
        for index in chosen:
            photo, _ = dataset.load(index)
            self._logits.append(predictor.logits_of(photo))
            on_photo()

    @property
    def output_stride(self) -> int:
        """Of the network."""
        return self._predictor.output_stride

    @torch.inference_mode()
    def mean_iou(self, parameters: CRFConfig | None, *, on_photo: Callable[[], None] = lambda: None) -> float:
        """Of the labels by the CRF, or with None of the network's own."""
        spec = self._predictor.labels
        confusion = ConfusionMatrix(len(spec.classes), ignore_label=spec.ignore_label)
        for index, logits in zip(self._chosen, self._logits, strict=True):
            photo, labels = self._dataset.load(index)
            found = self._predictor.network.resize_logits(logits[None], photo.shape[:2])[0].softmax(0)
            if parameters is not None:
                found = dense_crf(found, photo, parameters=parameters)
            confusion.update(labels, found.argmax(0))
            on_photo()
        return confusion.mean_iou()

"""The high-level API: `Segmenter()(photo)` gives labels, probabilities, an overlay, and files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.config.labels import LabelSpec
from deeplab.imaging.bands import viewable
from deeplab.imaging.label_maps import save_label_map
from deeplab.imaging.overlay import class_shares, draw_overlay
from deeplab.imaging.photos import PhotoLike
from deeplab.imaging.png import save_png
from deeplab.model.checkpoint import DEFAULT_MODEL
from deeplab.model.network import DeepLab
from deeplab.native.upsample_argmax import label_dtype
from deeplab.prediction.artefacts import open_predictor
from deeplab.prediction.labelling import AS_IT_IS, Labelling
from deeplab.prediction.predictor import Predictor


@dataclass(frozen=True)
class Segmentation:
    """One photo with every pixel named.

    Attributes:
        photo: uint8 [H, W, 3], RGB, upright; of a model that reads bands, these as they are stored.
        labels: uint8 [H, W] (uint16 above 256 classes), indices into `classes`.
        probabilities: float32 [C, H, W] summing to 1 over C, or None if they were not asked for.
        spec: names and colours of the classes.
    """

    photo: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray | None
    spec: LabelSpec

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, by index."""
        return self.spec.classes

    @property
    def shares(self) -> dict[str, float]:
        """Share of the photo's pixels by class name, largest first; classes not found are left out."""
        shares = class_shares(self.labels, len(self.classes), ignore_label=self.spec.ignore_label)
        found = [(self.classes[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")]
        return {name: share for name, share in found if share > 0}

    def overlay(self, *, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """The photo tinted by class, with a legend beneath; bands as `deeplab.imaging.bands.viewable` shows them."""
        return draw_overlay(
            viewable(self.photo),
            self.labels,
            class_names=self.classes,
            palette=np.array(self.spec.palette, np.uint8),
            alpha=alpha,
            legend=legend,
            ignore_label=self.spec.ignore_label,
        )

    def save(
        self, directory: str | PathLike[str], *, name: str, overlay: bool = True
    ) -> tuple[Path, Path | None]:
        """Write NAME_labels.png (indices, with the palette) and, unless it is not wanted, NAME_overlay.png.

        Returns:
            Both paths; None for an overlay that was not drawn.

        Raises:
            UserError: one cannot be written.
        """
        folder = Path(directory)
        palette = np.array(self.spec.palette, np.uint8)
        labels = save_label_map(self.labels, folder / f"{name}_labels.png", palette=palette)
        return labels, save_png(self.overlay(), folder / f"{name}_overlay.png") if overlay else None


class Segmenter:
    """A model ready for photos of any size.

    Args:
        model: an embedded model's name, a saved or exported model's folder or file, `hf:owner/name`, or a
            `DeepLab`.
        how: see `deeplab.prediction.labelling.Labelling`.
        options: fields of it by name, such as `scales=(0.75, 1.0), flip=True`, in place of those of `how`.

    Attributes:
        predictor: the network, ready for inference, see `deeplab.prediction.fold`; the one given is left as it is.

    Raises:
        UserError: no such model, device, output stride, precision or engine, or what does not go together.
    """

    def __init__(
        self, model: str | PathLike[str] | DeepLab = DEFAULT_MODEL, how: Labelling = AS_IT_IS, **options: Any
    ) -> None:
        how = replace(how, **options)
        self.predictor = (
            Predictor.of(model, how) if isinstance(model, DeepLab) else open_predictor(model, how)
        )

    def __call__(self, image: PhotoLike, *, probabilities: bool = False) -> Segmentation:
        """Label every pixel of one photo; may be called from several threads.

        Args:
            image: a path, a PIL image, or uint8 [H, W], [H, W, 3] or [H, W, 4] RGB values; for a model that reads
                bands a path, or an array [H, W, bands] of their type.
            probabilities: also keep them (4 bytes a pixel and class); with a CRF its marginals.

        Raises:
            UserError: the photo cannot be read, or is of another kind; or probabilities of windows.
        """
        photo = self.predictor.photo(image)
        shares = None
        if probabilities:
            labels, found = self.predictor.probabilities_of(photo)
            labels = labels.to(label_dtype(len(found)))
            shares = found.numpy()
        else:
            labels = self.predictor.labels_of(photo)
        return Segmentation(
            photo=photo, labels=labels.numpy(), probabilities=shares, spec=self.predictor.labels
        )

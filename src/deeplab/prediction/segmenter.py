"""The high-level API: `Segmenter()(photo)` gives labels, probabilities, an overlay, and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from deeplab.checkpoint import DEFAULT_MODEL, load
from deeplab.crf import CRFConfig
from deeplab.crf.labels import marginals_of
from deeplab.errors import UserError
from deeplab.imaging.label_maps import save_label_map
from deeplab.imaging.overlay import class_shares, draw_overlay
from deeplab.imaging.photos import PhotoLike, as_photo
from deeplab.imaging.png import save_png
from deeplab.labels import LabelSpec
from deeplab.model import DeepLab
from deeplab.native.upsample_argmax import label_dtype
from deeplab.prediction.fold import Precision, for_inference
from deeplab.prediction.inference import predict, predict_labels
from deeplab.prediction.runtimes import INT8, let_run
from deeplab.prediction.strips import predict_whole


@dataclass(frozen=True)
class Segmentation:
    """One photo with every pixel named.

    Attributes:
        photo: uint8 [H, W, 3], RGB, upright.
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
        """The photo tinted by class, with a legend beneath."""
        return draw_overlay(
            self.photo,
            self.labels,
            class_names=self.classes,
            palette=np.array(self.spec.palette, np.uint8),
            alpha=alpha,
            legend=legend,
            ignore_label=self.spec.ignore_label,
        )

    def save(self, directory: str | PathLike[str], *, name: str) -> tuple[Path, Path]:
        """Write NAME_labels.png (indices, with the palette) and NAME_overlay.png; returns both paths."""
        folder = Path(directory)
        palette = np.array(self.spec.palette, np.uint8)
        labels = save_label_map(self.labels, folder / f"{name}_labels.png", palette=palette)
        return labels, save_png(self.overlay(), folder / f"{name}_overlay.png")


class Segmenter:
    """A model ready for photos of any size.

    Args:
        model: an embedded model's name, a saved model's folder or file, a Hub id, or a `DeepLab`.
        output_stride: 4, 8, 16 or 32; None is the model's own.
        scales, flip: run at several sizes and mirrored, and average (slower, a little better).
        device: "auto" takes a CUDA GPU if there is one; else as torch names them.
        precision: "float32", "bfloat16": up to twice as fast where the processor has instructions for it, labels
            change at some edges; "int8": faster again, with engine "openvino" or "auto" only (extra `int8`).
        engine: "torch", "openvino" or "onnxruntime" run the network (extras `openvino`, `onnx`), or "auto", the
            fastest that is installed; see `deeplab.prediction.runtimes`.
        crf: snap labels to the photo's edges by the fully connected CRF with these parameters, on the CPU;
            probabilities are then its marginals.
        calibration: for int8, some dozens of photos like those that the model will see.

    Attributes:
        model: a copy made ready for inference, see `deeplab.prediction.fold`; the one given is left as it is.
        engine: what runs its network.

    Raises:
        UserError: no such model, device, output stride, precision or engine, a scale that is not positive, or int8
            without photos to calibrate with.
    """

    def __init__(
        self,
        model: str | PathLike[str] | DeepLab = DEFAULT_MODEL,
        *,
        output_stride: int | None = None,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
        device: str = "auto",
        precision: Precision | Literal["int8"] = "float32",
        engine: str = "torch",
        crf: CRFConfig | None = None,
        calibration: Sequence[PhotoLike] = (),
    ) -> None:
        if not scales or min(scales) <= 0:
            raise UserError(f"scales {scales}: give positive factors, like 0.75 1 1.25")
        self.device = pick_device(device)
        network = model if isinstance(model, DeepLab) else load(model)
        # what the engine does not compute stays in float32
        rest = "float32" if precision == INT8 else precision
        self.model = for_inference(network, device=self.device, precision=rest)
        if output_stride is not None:
            try:
                self.model.output_stride = output_stride
            except ValueError as error:
                raise UserError(str(error)) from None
        self.scales = tuple(scales)
        self.flip = flip
        self.engine = let_run(
            engine,
            self.model,
            network,
            device=self.device,
            precision=precision,
            one_pass=self.scales == (1.0,) and not flip,
            calibration=[as_photo(photo) for photo in calibration],
        )
        self.crf = crf

    def __call__(self, image: PhotoLike, *, probabilities: bool = False) -> Segmentation:
        """Label every pixel of one photo.

        Args:
            image: a path, a PIL image, or uint8 [H, W], [H, W, 3] or [H, W, 4] RGB values.
            probabilities: also keep them (4 bytes a pixel and class).

        Raises:
            UserError: the photo cannot be read, or is of another kind.
        """
        photo = as_photo(image)
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].to(self.device)
        passes = {"scales": self.scales, "flip": self.flip}
        shares = None
        if self.crf is not None:
            marginals = marginals_of(self.model, photo, parameters=self.crf, **passes)
            labels = marginals.argmax(0, keepdim=True).to(label_dtype(len(marginals)))
            shares = marginals.numpy() if probabilities else None
        elif probabilities:
            found = predict(self.model, pixels, **passes)["semantic"]
            labels = found.labels.to(label_dtype(self.model.config.num_classes))
            shares = found.probabilities[0].float().cpu().numpy()
        elif self.scales == (1.0,) and not self.flip:
            labels = predict_labels(self.model, pixels)["semantic"]
        else:
            found = predict_whole(self.model, pixels, **passes, confidence=False).labels[None]
            labels = found.to(label_dtype(self.model.config.num_classes))
        return Segmentation(
            photo=photo, labels=labels[0].cpu().numpy(), probabilities=shares, spec=self.model.labels
        )


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA GPU, else the CPU.

    Raises:
        UserError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {name!r} cannot be used here ({reason}); allowed: auto, cpu, cuda, cuda:1, mps"
        ) from None
    return device

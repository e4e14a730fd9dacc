"""What other runtimes are given: the network as one program, from photos as they lie in memory to small logits.

Upsampling and argmax stay outside: labels need no logits at full size (`deeplab.native.upsample_argmax`), and no
runtime fuses the two. The program takes any photo size, so a model is converted once; runtimes keep it in the
cache folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deeplab.config import ASPPConfig, DensePredictionCellConfig
from deeplab.errors import UserError
from deeplab.layers.resize import resize_bilinear, scale_sides
from deeplab.model.checkpoint import describe
from deeplab.model.network import DeepLab, Logits
from deeplab.system.cache import ANOTHER_CACHE, cache_folder
from deeplab.system.writing import whole_folder

# uint8 images [N, channels, H, W] of any size to logits; may be called from several threads
Run = Callable[[torch.Tensor], Logits]
# two photos of sides that no rule mistakes for fixed ones
EXAMPLE_SHAPE = (2, 97, 129)


class RuntimeNetwork:
    """A network that a runtime computes, for uint8 images; see `deeplab.prediction.network.Network`.

    Args:
        run: the whole network; images resized for a pass are rounded to whole values for it.
        model: what it was made from; it is not kept, nor are its weights.
        version: changes with what it computes; see `deeplab.model.checkpoint.version_of`.
        one_pass: whether images are run at their own size only, and not mirrored.

    Raises:
        UserError: several passes of a model that computes something else for each than for an image of its own.
    """

    eight_bit = False

    def __init__(self, run: Run, model: DeepLab, *, version: str, one_pass: bool) -> None:
        context = model.config.context
        window = isinstance(context, ASPPConfig | DensePredictionCellConfig) and context.image_pooling_crop
        alike = not window and (model.backbone.on_grid or model.decoder is not None)
        if not one_pass and not alike:
            raise UserError(
                "only PyTorch runs this model in several passes, as its network is not the same at each",
                fix="engine torch, or no scales and no flip",
            )
        self.config, self.version = model.config, version
        self._run = run

    def low_resolution_logits(self, images: torch.Tensor) -> Logits:
        """See `DeepLab.low_resolution_logits`."""
        return self._run(images)

    def scaled_logits(self, images: torch.Tensor, scale: float) -> Logits:
        """See `DeepLab.scaled_logits`."""
        if scale != 1.0:
            height, width = scale_sides(images.shape[-2:], scale, self.config.resize)
            resized = resize_bilinear(images.float(), (height, width), self.config.resize)
            images = resized.round_().clamp_(0, 255).to(torch.uint8)
        return self._run(images)

    def resize_logits(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """See `DeepLab.resize_logits`."""
        return resize_bilinear(logits, size, self.config.resize)


class PhotosToLogits(nn.Module):
    """uint8 [N, H, W, channels] to a tuple of float [N, h, w, classes], one for each of `model.config.outputs`."""

    def __init__(self, model: DeepLab) -> None:
        super().__init__()
        self.model = model

    def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self.model.low_resolution_logits(photos.permute(0, 3, 1, 2))
        return tuple(logits[name].permute(0, 2, 3, 1) for name in output_names(self.model))


def output_names(model: DeepLab) -> tuple[str, ...]:
    """Names of the logits, in the program's order."""
    return tuple(model.config.outputs)


def as_photos(images: torch.Tensor) -> torch.Tensor:
    """[N, channels, H, W] as [N, H, W, channels] in one piece; nothing moves if it came from photos."""
    return images.permute(0, 2, 3, 1).contiguous()


def as_logits(names: Sequence[str], results: Sequence[torch.Tensor]) -> Logits:
    """The program's results by name, as [N, classes, h, w] with channels last in memory."""
    return {name: result.permute(0, 3, 1, 2) for name, result in zip(names, results, strict=True)}


def exported(model: DeepLab) -> torch.export.ExportedProgram:
    """The model, in eval mode, as a program for any number and size of photos."""
    photos = torch.zeros((*EXAMPLE_SHAPE, model.config.backbone.in_channels), dtype=torch.uint8)
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        return torch.export.export(
            PhotosToLogits(model).eval(), (photos,), dynamic_shapes=({0: dynamic, 1: dynamic, 2: dynamic},)
        )


def converted(
    model: DeepLab,
    name: str,
    *,
    runtime: str,
    convert: Callable[[Path], None],
    photos: Sequence[np.ndarray] = (),
) -> Path:
    """The file `name` of the model's folder in the cache, made by `convert` if it is not there.

    Args:
        name: file to return.
        runtime: name and version of what converts and runs it.
        convert: writes `name`, and any files beside it, at the path it is given.
        photos: what else the program depends on.
    """
    folder = cache_folder() / "engines" / _key(model, runtime, photos)
    if not (folder / name).exists():
        with whole_folder(folder, otherwise=ANOTHER_CACHE) as beside:
            convert(beside / name)
    return folder / name


def _key(model: DeepLab, runtime: str, photos: Sequence[np.ndarray]) -> str:
    """Changes with whatever changes the program: architecture, stride, weights, versions, photos."""
    digest = hashlib.blake2b(digest_size=12)
    about = {**describe(model), "output_stride": model.output_stride}
    digest.update(json.dumps([runtime, torch.__version__, about], sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for photo in photos:
        digest.update(str(photo.shape).encode())
        digest.update(np.ascontiguousarray(photo).data)
    return digest.hexdigest()

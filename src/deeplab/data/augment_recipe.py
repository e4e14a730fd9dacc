"""The part of a training recipe that says how photos are varied, and the transform that it means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch.utils.data import Dataset

from deeplab.config import NonNegative, PixelConfig, Share, Strict, Width
from deeplab.data.augment import TrainAugment
from deeplab.data.copy_paste import CopyPaste
from deeplab.data.crop_choice import CropChoice
from deeplab.data.dataset import Sample, SegmentationDataset
from deeplab.data.resize import ResizeToRange
from deeplab.data.source import IGNORE_LABEL
from deeplab.errors import UserError

Scale = Annotated[float, Field(gt=0, le=64)]
# what is defined for red, green and blue from 0 to 255 alone, and what turns it off
OF_COLOURS = {"jitter": "null", "hue": "0", "gamma": "null", "blur": "0"}


class ResizeRecipe(Strict):
    """A size for all photos before anything else; see `deeplab.data.resize.resize_to_range_size`."""

    min_size: Width
    max_size: Width | None = None
    factor: Width | None = None
    keep_aspect_ratio: bool = True


class AugmentRecipe(Strict):
    """Random scale (factor from `scales`, spaced by `scale_step`; 0 is uniform), crop, flip: the reference's.

    Off by default: resize, to a range first. rotate: largest angle, degrees. jitter: largest relative change
    of brightness, contrast, saturation. hue: largest angle by which colours are turned, degrees. gamma: smallest
    and largest exponent of the brightness, such as 0.7 and 1.4. blur: share of the samples that are blurred, by
    a standard deviation from `blur_sigma`, pixels. max_share: crops in which one class covers this share or
    more are drawn again, up to `tries` times. rare: share of crops centred on a pixel of one of
    `rare_classes`. copy_paste: share of samples into which what another photo shows of one of
    `copy_paste_classes` is laid, anywhere, or with `copy_paste_keeps_row` at the height in the photo at
    which it stood: cars stay on the street.
    """

    crop: tuple[Width, Width] = (513, 513)
    resize: ResizeRecipe | None = None
    scales: tuple[Scale, Scale] = (0.5, 2.0)
    scale_step: NonNegative = 0.25
    flip: Share = 0.5
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    jitter: tuple[Share, Share, Share] | None = None
    hue: Annotated[float, Field(ge=0, le=180)] = 0.0
    gamma: tuple[Scale, Scale] | None = None
    blur: Share = 0.0
    blur_sigma: tuple[Scale, Scale] = (0.1, 2.0)
    max_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    tries: Annotated[int, Field(gt=0, le=1000)] = 10
    rare: Share = 0.0
    rare_classes: tuple[str, ...] = ()
    copy_paste: Share = 0.0
    copy_paste_classes: tuple[str, ...] = ()
    copy_paste_keeps_row: bool = False


def train_transform(
    recipe: AugmentRecipe, *, classes: Sequence[str], pixels: PixelConfig, ignore_label: int = IGNORE_LABEL
) -> TrainAugment:
    """The recipe's transform of one sample.

    Args:
        recipe: what is done.
        classes: names by index, for `rare_classes`.
        pixels: of the model; padding has its mean colour.
        ignore_label: label of the padding.

    Raises:
        UserError: a setting is out of its range, names no class, or is about colours where a model reads bands.
    """
    wished = [name for name in OF_COLOURS if getattr(recipe, name)]
    if pixels.bands and wished:
        raise UserError(
            f"augment.{wished[0]} changes colours of 8 bits, and the model reads the bands {', '.join(pixels.bands)}",
            fix=f"augment.{wished[0]}={OF_COLOURS[wished[0]]}",
        )
    mean = pixels.mean if pixels.channels == "rgb" else pixels.mean[::-1]
    return TrainAugment(
        crop_size=recipe.crop,
        scale_range=recipe.scales,
        scale_step=recipe.scale_step,
        flip_probability=recipe.flip,
        resize=ResizeToRange(**recipe.resize.model_dump()) if recipe.resize else None,
        rotation=recipe.rotate,
        jitter=recipe.jitter,
        hue=recipe.hue,
        gamma=recipe.gamma,
        blur_probability=recipe.blur,
        blur_range=recipe.blur_sigma,
        crops=CropChoice(
            max_share=recipe.max_share,
            tries=recipe.tries,
            rare_classes=_indices("rare_classes", recipe.rare_classes, classes),
            rare_probability=recipe.rare,
        ),
        pad_pixel=mean,
        ignore_label=ignore_label,
    )


def with_copy_paste(
    dataset: SegmentationDataset, recipe: AugmentRecipe, *, classes: Sequence[str]
) -> Dataset[Sample]:
    """`dataset`, or if the recipe says so `dataset` with regions of other samples laid in.

    Raises:
        UserError: `copy_paste_classes` are missing, or name no class.
    """
    if not recipe.copy_paste:
        return dataset
    indices = _indices("copy_paste_classes", recipe.copy_paste_classes, classes)
    return CopyPaste(
        dataset, classes=indices, probability=recipe.copy_paste, keep_row=recipe.copy_paste_keeps_row
    )


def _indices(key: str, names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(classes)}"
            raise UserError(f"augment.{key}: {name!r} is no class; {hint}")
    return tuple(list(classes).index(name) for name in names)

"""Published files known by checksum: what their classes are called.

A weights file seldom says what its channels mean. For these files the names are on record elsewhere; any
other file gets names only where the number of classes leaves no doubt to a reader (see `labels_for`).
"""

from __future__ import annotations

from typing import NamedTuple

from deeplab.config.labels import LabelSpec
from deeplab.imaging.ade20k_classes import ADE20K_CLASSES
from deeplab.imaging.palettes import CITYSCAPES_CLASSES, VOC_CLASSES

# MLPerf Mobile keeps the 31 most frequent classes of ADE20K, and 0 is the rest
ADE20K_31_CLASSES = ADE20K_CLASSES[:32]


class Published(NamedTuple):
    """A published file: what it is, and its classes in channel order."""

    title: str
    classes: tuple[str, ...]


FILES: dict[str, Published] = {
    "68a539782c2c6a72f8aac3724600124a85ed977162b44e84cbae5db717c933c6": Published(
        "deeplabv3_257_mv_gpu.tflite (DeepLabv3, MobileNetV2 0.5, PASCAL VOC, Apache-2.0)", VOC_CLASSES
    ),
    "350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398": Published(
        "deeplabv3_mnv2_pascal 8-bit (DeepLabv3, MobileNetV2 1.0, PASCAL VOC, Apache-2.0)", VOC_CLASSES
    ),
    "3960571f5e2de1cec771a8f7a15b86f31b94cceccac8d993addbc1e29829de6a": Published(
        "MLPerf Mobile segmentation (DeepLabv3+, MobileNetV2 1.0, ADE20K, Apache-2.0)", ADE20K_31_CLASSES
    ),
}


def labels_for(num_classes: int, sha256: str) -> tuple[LabelSpec, str]:
    """Labels of an imported model, and where their names come from, in words.

    Raises nothing: without a source of names the classes are numbered.
    """
    published = FILES.get(sha256)
    if published and len(published.classes) == num_classes:
        return LabelSpec.named(published.classes), f"known file: {published.title}"
    if num_classes == len(VOC_CLASSES):
        return LabelSpec.named(VOC_CLASSES), "21 classes: taken to be PASCAL VOC's"
    if num_classes == len(CITYSCAPES_CLASSES):
        return LabelSpec.named(CITYSCAPES_CLASSES), "19 classes: taken to be Cityscapes'"
    if num_classes == len(ADE20K_CLASSES):
        # whose 0 is trained by nobody (reference fact 5.1)
        named = LabelSpec.named(ADE20K_CLASSES, ignore_label=0)
        return named, "151 classes: taken to be ADE20K's, 0 being all else"
    return LabelSpec.numbered(num_classes), f"{num_classes} classes without names: numbered"

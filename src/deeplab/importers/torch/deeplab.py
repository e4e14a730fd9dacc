"""PyTorch weights into our models: which library made a file is told by the names and shapes in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deeplab.config import DeepLabConfig
from deeplab.config.labels import LabelSpec
from deeplab.errors import UserError
from deeplab.importers.hints import Hints, flag
from deeplab.importers.new_head import fill_except
from deeplab.importers.one_logit import with_background
from deeplab.importers.published import labels_for
from deeplab.importers.report import Imported, ImportReport
from deeplab.importers.torch import huggingface, jfzhang, kazuto, mmseg, smp, torchvision, vainf
from deeplab.importers.torch.file import TorchFile, read_torch_file
from deeplab.importers.torch.layers import Draft, Weights, convert
from deeplab.model.network import DeepLab
from deeplab.system.reading import sha256_of


class Family(NamedTuple):
    """A library whose weights are known: `fits` sees the names, `read` the file; it `heeds` these hints."""

    name: str
    fits: Callable[[Weights], bool]
    read: Callable[[TorchFile, Hints], Draft]
    heeds: tuple[str, ...] = ()


HEAD = ("rates", "output_stride")


FAMILIES: tuple[Family, ...] = (
    Family(
        "transformers MobileNetV2",
        huggingface.is_mobilenet,
        huggingface.read_mobilenet,
        ("output_stride",),
    ),
    Family("mmsegmentation", mmseg.is_deeplab, mmseg.read_deeplab, (*HEAD, "multi_grid")),
    Family("kazuto1011/deeplab-pytorch", kazuto.is_deeplab, kazuto.read_deeplab, HEAD),
    Family("segmentation_models.pytorch", smp.is_deeplab, smp.read_deeplab, HEAD),
    Family("VainF/DeepLabV3Plus-Pytorch", vainf.is_deeplab, vainf.read_deeplab, HEAD),
    Family(
        "jfzhang95/pytorch-deeplab-xception",
        jfzhang.is_deeplab,
        jfzhang.read_deeplab,
        (*HEAD, "multi_grid"),
    ),
    Family("torchvision deeplabv3", torchvision.is_deeplab, torchvision.read_deeplab, HEAD),
    Family("torchvision classification", torchvision.is_classifier, torchvision.read_classifier),
)
# beginnings of names in files that are often met and not imported
STRANGERS: tuple[tuple[str, str], ...] = (
    ("decoder.blocks.", "a U-Net or another network of segmentation_models.pytorch"),
    ("encoder.model.", "segmentation_models.pytorch on a timm encoder"),
    ("classifier.cbr.", "torchvision's LR-ASPP"),
    ("decode_head.", "another network of mmsegmentation"),
    ("sem_seg_head.", "detectron2's DeepLab"),
    ("proposal_generator.", "a detector of detectron2"),
    ("roi_heads.", "a detector"),
    (
        "classifiers.semantic.",
        "this is a model of this package whose description was lost; use the file it came from",
    ),
    ("mobilevit.", "transformers' MobileViT"),
    ("segformer.", "transformers' SegFormer"),
    ("patch_embed.", "a vision transformer"),
    ("stages.", "a network of timm"),
    ("blocks.", "a network of timm"),
)


def import_torch(path: Path, hints: Hints) -> Imported:
    """The model in a PyTorch or safetensors file, from any of `FAMILIES`.

    Args:
        hints: rates and output stride, where training chose others than the source's own; which of two sets of
            weights.

    Raises:
        UserError: a damaged file, names of no known library (says what it seems to be), weights that do not
            fit, or hints that the library has no use for.
    """
    file = read_torch_file(path, hints.weights)
    family = _family(file)
    sha256 = sha256_of(path)
    try:
        _check_hints(family, hints)
        _check_statistics(file.weights)
        draft = family.read(file, hints)
        weights, used, aside = convert(draft, file.weights)
        threshold = draft.threshold if hints.threshold is None else hints.threshold
        config, binary = with_background(draft.model.config, threshold)
    except UserError as error:
        raise UserError(f"it seems to come from {family.name}: {error}", file=path) from None
    except KeyError as error:
        raise UserError(
            f"it seems to come from {family.name}: there is no {error.args[0]}, which a network of this kind has",
            file=path,
        ) from None
    model = DeepLab(config) if binary else draft.model
    source_of_names = "PASCAL VOC's, for the new head" if draft.new else "the source's"
    if len(draft.classes) == model.config.num_classes:
        model.labels = LabelSpec.named(draft.classes)
    elif not draft.new:
        model.labels, source_of_names = labels_for(model.config.num_classes, sha256)
    new = fill_except(model, weights, new=draft.new, source=str(path))
    report = ImportReport(
        source=path.name,
        sha256=sha256,
        format=f"PyTorch weights, {family.name}",
        variables=len(used),
        parameters=len(weights),
        values=sum(value.numel() for value in weights.values()),
        facts={"network": draft.network, **_facts(model.config), "class names": source_of_names},
        notes=(*file.notes, *_left_out(draft, aside), *draft.notes, *binary, *_assumed(draft)),
        unused=len(aside),
        new=new,
    )
    model.provenance = {"import": report.to_json()}
    return Imported(model.eval(), report)


def _check_hints(family: Family, hints: Hints) -> None:
    needless = [flag(name) for name in hints.of_structure() if name not in family.heeds]
    if needless:
        heeded = ", ".join(map(flag, (*family.heeds, "threshold", "weights")))
        raise UserError(f"{', '.join(needless)} cannot be chosen for these weights", allowed=heeded)


def _check_statistics(weights: Weights) -> None:
    # a convolution's weight has four sides, a norm's one
    norms = [name for name, value in weights.items() if name.endswith(".weight") and value.dim() == 1]
    if norms and not any(name.endswith(".running_mean") for name in weights):
        raise UserError(
            f"its {len(norms)} batch norms have no running statistics (there is no "
            f"{norms[0].removesuffix('weight')}running_mean)",
            fix="save the whole state dict, with its buffers, of a model whose norms track them",
        )


def _family(file: TorchFile) -> Family:
    for family in FAMILIES:
        if family.fits(file.weights):
            return family
    names = list(file.weights)
    kind = next((kind for start, kind in STRANGERS if any(name.startswith(start) for name in names)), None)
    seems = f"seems to be {kind}; it " if kind else ""
    known = ", ".join(family.name for family in FAMILIES)
    raise UserError(
        f"{seems}holds {len(names)} arrays ({', '.join(names[:3])}, ...) of no known source; known: {known}",
        file=file.path,
    )


def _facts(config: DeepLabConfig) -> dict[str, str]:
    backbone, context, decoder, pixels = config.backbone, config.context, config.decoder, config.pixels
    width, padding = getattr(backbone, "width", 1), getattr(backbone, "padding", "its own")
    wide = f" at width {width:g}" if width != 1 else ""
    return {
        "backbone": f"{backbone.name}{wide}, padding {padding}",
        "context": f"{context.kind}, {context.channels} channels" if context.kind != "none" else "none",
        "rates": ", ".join(map(str, config.rates)) or "none",
        "decoder": f"{decoder.convs} 3x3, low level {decoder.low_level_channels}" if decoder else "none",
        "classes": str(config.num_classes),
        "output stride": str(config.output_stride),
        "image pyramid": ", ".join(f"{scale:g}" for scale in config.image_pyramid),
        "resize rule": config.resize,
        "input": f"({'stored' if pixels.bands else pixels.channels} pixel - {pixels.mean}) / {pixels.std}",
    }


def _left_out(draft: Draft, aside: list[str]) -> list[str]:
    notes = []
    for start, reason in draft.left_out.items():
        number = sum(name.startswith(start) for name in aside)
        if number:
            notes.append(f"left aside: {reason} ({start}*, {number} arrays)")
    return notes


def _assumed(draft: Draft) -> list[str]:
    if draft.new or draft.complete:
        return []
    return [
        "the file says neither rates nor output stride: the source's usual ones hold unless chosen by name"
    ]

"""DeepLab: backbone, context head, decoder (or none), classifier.

One module for v1 (arXiv 1412.7062), v2 (1606.00915), v3 (1706.05587) and v3+ (1802.02611); which one it is
follows from its `DeepLabConfig`. Assembly and multi-scale rules: reference facts 3.1 to 3.8.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from deeplab.backbones import build_backbone
from deeplab.backbones.vgg import STAGES as VGG_STAGES
from deeplab.backbones.vgg import VGG16
from deeplab.config import DeepLabConfig
from deeplab.config.labels import LabelSpec
from deeplab.errors import UserError
from deeplab.heads.aspp import ASPP
from deeplab.heads.base import ContextHead, NoContext
from deeplab.heads.classifier import Classifier
from deeplab.heads.decoder import Decoder
from deeplab.heads.dense_prediction_cell import DensePredictionCell
from deeplab.heads.fully_connected import FullyConnectedContext
from deeplab.heads.multi_scale import MultiScaleFeatures
from deeplab.layers.containers import ModuleDict
from deeplab.layers.norm import NormLayer, norm_layer
from deeplab.layers.resize import ceil_divide, resize_bilinear, scale_sides
from deeplab.model.eight_bit import EightBit
from deeplab.model.initialise import initialise
from deeplab.model.normalise import normalise

Logits = dict[str, torch.Tensor]


class DeepLab(nn.Module):
    """Photos in, logits out, at the photo's own size.

    Args:
        config: the architecture; see `deeplab.presets` for named ones.
        labels: class names and colours; numbered classes if None.

    Attributes:
        provenance: how the weights were made, JSON values; saved with the checkpoint.
        eight_bit_tables: what `eight_bit` needs, of models from quantised files; saved with the checkpoint.

    Raises:
        ValueError: parts that do not fit, or labels of another number than `config.num_classes`.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, config: DeepLabConfig, labels: LabelSpec | None = None) -> None:
        super().__init__()
        self.config = config
        self.labels = labels or LabelSpec.numbered(config.num_classes)
        if len(self.labels.classes) != config.num_classes:
            raise ValueError(
                f"{len(self.labels.classes)} class names for {config.num_classes} classes: give one name a class"
            )
        self.provenance: dict[str, Any] = {}
        self.eight_bit_tables: EightBit | None = None
        self._eight_bit = False
        self.backbone = build_backbone(config.backbone, folded=config.folded, bounded=config.bounded)
        head_norm = norm_layer(
            eps=config.head_norm.eps, momentum=config.head_norm.momentum, folded=config.folded
        )
        self.context = _build_context(config, self.backbone.out_channels, head_norm)
        self.decoder = _build_decoder(
            config, self.context.out_channels, self.backbone.low_level_channels, head_norm
        )
        self.multi_scale = _build_multi_scale(config)
        added = self.multi_scale.added_channels if self.multi_scale else 0
        self.classifiers = _build_classifiers(config, (self.decoder or self.context).out_channels + added)
        self.restore_pixels()
        initialise(self)
        self.output_stride = config.output_stride

    def restore_pixels(self) -> None:
        """Set what pixels are normalised by, which the config says and no file of weights holds."""
        pixels = self.config.pixels
        self.register_buffer("pixel_mean", _per_channel(pixels.mean), persistent=False)
        self.register_buffer("pixel_std", _per_channel(pixels.std), persistent=False)

    @property
    def output_stride(self) -> int:
        """Input side over feature side. Settable at any time: 4, 8, 16 or 32, on the same weights.

        Smaller is denser, slower and usually a little better (v3 table 5). Setting raises ValueError for a
        stride the backbone cannot reach.
        """
        return self._output_stride

    @output_stride.setter
    def output_stride(self, value: int) -> None:
        self.backbone.set_output_stride(value)
        self.context.set_output_stride(value)
        if self.multi_scale:
            self.multi_scale.set_output_stride(value)
        for classifier in self.classifiers.values():
            classifier.set_output_stride(value)
        self._output_stride = value

    @property
    def eight_bit(self) -> bool:
        """Whether eval mode computes in 8 bits, with the labels of the quantised file's own runtime.

        True at first for models imported from such files. Settable at any time: False is plain float, faster,
        on the same weights. Train mode and exported programs are always plain float. Setting True raises
        UserError for other models.
        """
        return self._eight_bit

    @eight_bit.setter
    def eight_bit(self, value: bool) -> None:
        if value and self.eight_bit_tables is None:
            raise UserError(
                "eight_bit: this model was not imported from a quantised file and has no 8-bit scales",
                allowed="False",
            )
        self._eight_bit = value

    def forward(self, images: torch.Tensor) -> torch.Tensor | Logits:
        """Logits at the images' size.

        Args:
            images: [N, in_channels, H, W], uint8 or float, values as `config.pixels` says: RGB 0..255, or bands as
                they are stored; any H and W from 1.

        Returns:
            float [N, num_classes, H, W], or a dict of those by output name if there are extra outputs.
        """
        logits = {
            name: self.resize_logits(value, images.shape[-2:])
            for name, value in self.low_resolution_logits(images).items()
        }
        return logits if self.config.extra_outputs else logits["semantic"]

    def low_resolution_logits(self, images: torch.Tensor) -> Logits:
        """Logits before upsampling, merged over the image pyramid, by output name.

        float [N, classes, h, w], h = ceil(H / s) with s the decoder's last stride or the output stride.
        """
        return self._merged(self.pyramid_logits(images))

    def resize_logits(self, logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Logits [N, classes, h, w] at another size, by the model's resize rule and in its arithmetic."""
        tables = self._active_tables()
        if tables is not None:
            return tables.resize_logits(logits, size, self.config.resize)
        return resize_bilinear(logits, size, self.config.resize)

    def pyramid_logits(self, images: torch.Tensor) -> list[Logits]:
        """Logits of each scale of `config.image_pyramid`, all at the finest scale's size (fact 3.7)."""
        scales = self.config.image_pyramid
        if scales == (1.0,):
            return [self._on_grid(self._single_scale(images, 1.0), images.shape[-2:])]
        outputs = [self._single_scale(images, scale) for scale in scales]
        size: Sequence[int] = self.logits_size(images.shape[-2:])
        if self.config.resize == "half_pixel":
            size = outputs[scales.index(max(scales))]["semantic"].shape[-2:]
        return [
            {name: resize_bilinear(value, size, self.config.resize) for name, value in logits.items()}
            for logits in outputs
        ]

    def scaled_logits(self, images: torch.Tensor, scale: float) -> Logits:
        """Logits of the images resized by `scale`, at that pass's own size, by output name."""
        if self.config.image_pyramid == (1.0,):
            return self._single_scale(images, scale)
        return self.low_resolution_logits(self._resized(images, scale))

    def _resized(self, images: torch.Tensor, scale: float) -> torch.Tensor:
        pixels = images if images.is_floating_point() else images.float()
        if scale == 1.0:
            return pixels
        return resize_bilinear(
            pixels, scale_sides(images.shape[-2:], scale, self.config.resize), self.config.resize
        )

    @property
    def logits_stride(self) -> int:
        """Image side over logits side."""
        return self.decoder.strides[-1] if self.decoder else self.output_stride

    def logits_size(self, image_size: Sequence[int]) -> tuple[int, ...]:
        """Height and width of the logits of images of that size, before they are resized to it (fact 3.7)."""
        scales, rule = self.config.image_pyramid, self.config.resize
        if rule == "half_pixel":
            sides = scale_sides(image_size, max(scales), rule)
            return tuple(ceil_divide(side, self.logits_stride) for side in sides)
        return scale_sides(image_size, max(1.0, *scales) / self.logits_stride, rule)

    def _active_tables(self) -> EightBit | None:
        active = self._eight_bit and not self.training and not torch.compiler.is_exporting()
        return self.eight_bit_tables if active else None

    def _single_scale(self, images: torch.Tensor, scale: float) -> Logits:
        x = self._normalise(self._resized(images, scale))
        tables = self._active_tables()
        if tables is not None:
            return {"semantic": tables.logits(self, x)}
        image_size = tuple(x.shape[-2:])
        if self.multi_scale:
            assert isinstance(self.backbone, VGG16)
            features, pooled = self.backbone.with_poolings(x)
            features = self.multi_scale(self.context(features, image_size, scale), [x, *pooled])
        else:
            features, low_level = self.backbone(x, self.decoder.strides if self.decoder else ())
            features = self.context(features, image_size, scale)
        if self.decoder:
            features = self.decoder(features, low_level, image_size)
        if not self.classifiers:
            return {"semantic": features}
        return {name: classifier(features) for name, classifier in self.classifiers.items()}

    def _on_grid(self, logits: Logits, image_size: Sequence[int]) -> Logits:
        """Logits at ceil(side / stride), as the reference resizes them (fact 3.7); decoders give that anyway."""
        if self.backbone.on_grid or self.decoder:
            return logits
        size = scale_sides(image_size, 1 / self.logits_stride, self.config.resize)
        return {name: resize_bilinear(value, size, self.config.resize) for name, value in logits.items()}

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.config.pixels.channels == "bgr":
            pixels = pixels.flip(1)
        weight = next(self.parameters())
        return normalise(pixels, self.pixel_mean, self.pixel_std).to(weight.dtype)

    def _merged(self, pyramid: list[Logits]) -> Logits:
        if len(pyramid) == 1:
            return pyramid[0]
        found = {}
        for name in pyramid[0]:
            stacked = torch.stack([scale[name] for scale in pyramid])
            found[name] = stacked.amax(0) if self.config.pyramid_merge == "max" else stacked.mean(0)
        return found

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write `model.safetensors` and `config.json`; see `deeplab.model.checkpoint.save`."""
        from deeplab.model.checkpoint import save

        save(self, save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> DeepLab:
        """Load a model by name, directory, file or `hf:owner/name`; see `deeplab.model.checkpoint.load`."""
        from deeplab.model.checkpoint import load

        return load(pretrained_model_name_or_path, **options)


def _build_context(config: DeepLabConfig, in_channels: int, norm: NormLayer | None) -> ContextHead:
    context = config.context
    if context.kind == "none":
        return NoContext(in_channels)
    if context.kind == "fc":
        return FullyConnectedContext(in_channels, config=context, native_stride=config.output_stride)
    if context.kind == "dpc":
        return DensePredictionCell(in_channels, config=context, norm=norm, resize=config.resize)
    return ASPP(
        in_channels,
        config=context,
        native_stride=config.output_stride,
        norm=norm,
        resize=config.resize,
        activation="relu6" if config.bounded else "relu",
        depthwise_norm=config.depthwise_norm,
    )


def _build_decoder(
    config: DeepLabConfig, in_channels: int, low_level_channels: dict[int, int], norm: NormLayer | None
) -> Decoder | None:
    if config.decoder is None:
        return None
    missing = [stride for stride in config.decoder.strides if stride not in low_level_channels]
    if missing:
        has = f"them at {sorted(low_level_channels)}" if low_level_channels else "none"
        raise UserError(
            f"decoder.strides: {config.backbone.name} has no low-level features at {missing}, it has {has}; "
            f"leave the decoder away, or take a backbone that has them, such as mobilenet_v2 (4, 8 and 16)"
        )
    return Decoder(
        in_channels,
        low_level_channels=low_level_channels,
        config=config.decoder,
        norm=norm,
        activation="relu6" if config.bounded else "relu",
        resize=config.resize,
        depthwise_norm=config.depthwise_norm,
    )


def _build_multi_scale(config: DeepLabConfig) -> MultiScaleFeatures | None:
    if config.multi_scale_features is None:
        return None
    return MultiScaleFeatures(
        [config.backbone.in_channels, *(width for width, _ in VGG_STAGES[:-1])],
        config.multi_scale_features,
        native_stride=config.output_stride,
        resize=config.resize,
    )


def _build_classifiers(config: DeepLabConfig, in_channels: int) -> ModuleDict[Classifier]:
    if config.decoder and config.decoder.output_is_logits:
        return ModuleDict()
    return ModuleDict(
        {
            name: Classifier(
                in_channels,
                classes,
                kernel=config.classifier_kernel,
                rates=config.classifier_rates,
                native_stride=config.output_stride,
                sigmoid=config.sigmoid if name == "semantic" else None,
            )
            for name, classes in config.outputs.items()
        }
    )


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)

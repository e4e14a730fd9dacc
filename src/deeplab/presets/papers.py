"""The main tables of the four papers.

v1: arXiv 1412.7062. v2: 1606.00915. v3: 1706.05587. v3+: 1802.02611. JFT-300M is not public. Where the papers
leave open how a score was measured, or what else a model saw in training, so do these rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from deeplab.config import (
    BottleneckResNetConfig,
    DeepLabConfig,
    FullyConnectedConfig,
    NoContextConfig,
    NormConfig,
    VGG16Config,
)
from deeplab.presets.entry import VOC_SCALES, Preset, Result
from deeplab.presets.pixels import CAFFE_PIXELS
from deeplab.presets.reference import config_from_options

V1_TABLE, V1_FIELD = "v1 table 1", "v1 table 2"
V2_VGG, V2_RESNET = "v2 section 4.1", "v2 table 4"
V3_TABLES, V3_PLUS_RESNET, V3_PLUS_XCEPTION = "v3 section 4", "v3+ table 3", "v3+ table 5"
VOC, CITYSCAPES, CONTEXT, PARTS = "PASCAL VOC 2012", "Cityscapes", "PASCAL-Context", "PASCAL-Person-Part"
VOC_SIZE, CITYSCAPES_SIZE = (513, 513), (1025, 2049)
CAFFE_NORM = NormConfig(momentum=0.001)
# v2's order of improvements
COCO, SCALES = "COCO", "COCO, scale augmentation"
ASPP_L = (6, 12, 18, 24)


def _vgg(
    channels: int, *, rates: tuple[int, ...], kernel: int = 3, msc: bool = False, smooth: bool = False
) -> DeepLabConfig:
    return DeepLabConfig(
        backbone=VGG16Config(padding="caffe"),
        context=FullyConnectedConfig(
            channels=channels, kernel=kernel, rates=rates, smooth=smooth, dropout=0.5
        ),
        multi_scale_features=128 if msc else None,
        num_classes=21,
        output_stride=8,
        pixels=CAFFE_PIXELS,
    )


# the released LargeFOV networks take a mean of 3x3, pool5a, before fc6
LARGE_FOV = partial(_vgg, 1024, rates=(12,), smooth=True)


def _v2_resnet(*, rates: tuple[int, ...] = (), pyramid: bool = True, num_classes: int = 21) -> DeepLabConfig:
    return DeepLabConfig(
        backbone=BottleneckResNetConfig(
            name="resnet101", strides_at="first_1x1", rate_grows_at="unit", padding="caffe", norm=CAFFE_NORM
        ),
        context=NoContextConfig(),
        classifier_kernel=3 if rates else 1,
        classifier_rates=rates,
        num_classes=num_classes,
        output_stride=8,
        image_pyramid=(1.0, 0.75, 0.5) if pyramid else (1.0,),
        pixels=CAFFE_PIXELS,
    )


def _reference(variant: str, *, num_classes: int = 21, **options: Any) -> DeepLabConfig:
    outputs = {"semantic": num_classes}
    return config_from_options(
        {"model_variant": variant, "outputs_to_num_classes": outputs, "output_stride": 16, **options}
    )


def _cascade() -> DeepLabConfig:
    plain = _reference("resnet_v1_101_beta", multi_grid=(1, 2, 1))
    backbone = plain.backbone.model_copy(update={"cascade": 3})
    return plain.model_copy(update={"backbone": backbone, "context": NoContextConfig()})


V3 = partial(
    _reference,
    "resnet_v1_101_beta",
    multi_grid=(1, 2, 4),
    atrous_rates=(6, 12, 18),
    aspp_with_separable_conv=False,
)
V3_PLUS = {"atrous_rates": (6, 12, 18), "decoder_output_stride": (4,)}
V3_PLUS_65 = partial(_reference, "xception_65", **V3_PLUS)
V3_PLUS_71 = partial(_reference, "xception_71", num_classes=19, **V3_PLUS)
BEST = {"output_stride": 8, "scales": VOC_SCALES, "flip": True}


def _with_crf(plain: float, crf: float) -> tuple[Result, ...]:
    return Result(plain, 8), Result(crf, 8, crf=True)


def _tested(mean_iou: float) -> tuple[Result, ...]:
    return (Result(mean_iou, split="test", **BEST),)


PAPER_PRESETS: dict[str, Preset] = {
    "v1": Preset(partial(_vgg, 4096, kernel=4, rates=(4,)), VOC, VOC_SIZE, _with_crf(59.80, 63.74), V1_TABLE),
    "v1_msc": Preset(
        partial(_vgg, 4096, kernel=4, rates=(4,), msc=True), VOC, VOC_SIZE, _with_crf(61.30, 65.21), V1_TABLE
    ),
    "v1_7x7": Preset(
        partial(_vgg, 4096, kernel=7, rates=(4,)), VOC, VOC_SIZE, _with_crf(64.38, 67.64), V1_TABLE
    ),
    "v1_4x4": Preset(partial(_vgg, 4096, kernel=4, rates=(8,)), VOC, VOC_SIZE, (), V1_FIELD),
    "v1_largefov": Preset(LARGE_FOV, VOC, VOC_SIZE, _with_crf(62.25, 67.64), V1_TABLE),
    "v1_msc_largefov": Preset(
        partial(LARGE_FOV, msc=True), VOC, VOC_SIZE,
        (*_with_crf(64.21, 68.70), Result(71.6, 8, "test", crf=True)), V1_TABLE,
    ),
    "v2_vgg16_largefov": Preset(LARGE_FOV, VOC, VOC_SIZE, _with_crf(65.76, 69.84), V2_VGG),
    "v2_vgg16_aspp_s": Preset(
        partial(_vgg, 1024, rates=(2, 4, 8, 12)), VOC, VOC_SIZE, _with_crf(66.98, 69.73), V2_VGG
    ),
    "v2_vgg16_aspp_l": Preset(
        partial(_vgg, 1024, rates=ASPP_L), VOC, VOC_SIZE, _with_crf(68.96, 71.57), V2_VGG
    ),
    "v2_resnet101": Preset(partial(_v2_resnet, pyramid=False), VOC, VOC_SIZE, (Result(68.72, 8),), V2_RESNET),
    "v2_resnet101_msc": Preset(_v2_resnet, VOC, VOC_SIZE, (Result(71.27, 8),), V2_RESNET),
    "v2_resnet101_msc_coco": Preset(_v2_resnet, VOC, VOC_SIZE, (Result(73.28, 8),), V2_RESNET, training=COCO),
    "v2_resnet101_msc_coco_scales": Preset(
        _v2_resnet, VOC, VOC_SIZE, (Result(74.87, 8),), V2_RESNET, training=SCALES
    ),
    "v2_resnet101_largefov": Preset(
        partial(_v2_resnet, rates=(12,)), VOC, VOC_SIZE, (Result(75.54, 8),), V2_RESNET, training=SCALES
    ),
    "v2_resnet101_aspp": Preset(
        partial(_v2_resnet, rates=ASPP_L), VOC, VOC_SIZE,
        (*_with_crf(76.35, 77.69), Result(79.7, 8, "test", crf=True)), V2_RESNET, training=SCALES,
    ),
    "v2_resnet101_aspp_context": Preset(
        partial(_v2_resnet, rates=ASPP_L, num_classes=60), CONTEXT, VOC_SIZE, (Result(45.7, 8, crf=True),),
        "v2 section 4.2",
    ),
    "v2_resnet101_person_part": Preset(
        partial(_v2_resnet, num_classes=7), PARTS, VOC_SIZE, (Result(64.94, 8, crf=True),), "v2 section 4.3",
    ),
    "v2_resnet101_aspp_cityscapes": Preset(
        partial(_v2_resnet, rates=ASPP_L, num_classes=19), CITYSCAPES, CITYSCAPES_SIZE,
        (Result(70.4, 8, "test", crf=True),), "v2 section 4.4",
    ),
    "v3_resnet101": Preset(
        V3, VOC, VOC_SIZE,
        (Result(77.21, 16), Result(78.51, 8), Result(79.45, 8, scales=VOC_SCALES), Result(79.77, **BEST)),
        V3_TABLES,
    ),
    "v3_resnet101_cascade": Preset(_cascade, VOC, VOC_SIZE, (), V3_TABLES),
    "v3_resnet101_coco": Preset(
        V3, VOC, VOC_SIZE, (Result(82.70, **BEST), *_tested(85.7)), V3_TABLES, training=COCO
    ),
    "v3_resnet101_jft": Preset(V3, VOC, VOC_SIZE, _tested(86.9), V3_TABLES, training="COCO, JFT-300M"),
    "v3_resnet101_cityscapes": Preset(
        partial(V3, num_classes=19), CITYSCAPES, CITYSCAPES_SIZE, (Result(81.3, None, "test"),), "v3 appendix",
    ),
    "v3plus_resnet101": Preset(
        partial(V3, decoder_output_stride=(4,), decoder_use_separable_conv=False), VOC, VOC_SIZE,
        (Result(78.85, 16),), V3_PLUS_RESNET,
    ),
    "v3plus_xception65_coco": Preset(
        V3_PLUS_65, VOC, VOC_SIZE, _tested(87.8), V3_PLUS_XCEPTION, training=COCO
    ),
    "v3plus_xception65_jft": Preset(
        V3_PLUS_65, VOC, VOC_SIZE, (Result(84.56, **BEST), *_tested(89.0)), V3_PLUS_XCEPTION,
        training="COCO, JFT-300M",
    ),
    "v3plus_xception71_cityscapes": Preset(
        V3_PLUS_71, CITYSCAPES, CITYSCAPES_SIZE,
        (Result(79.55, None), Result(82.1, None, "test")), "v3+ table 7",
    ),
}  # fmt: skip

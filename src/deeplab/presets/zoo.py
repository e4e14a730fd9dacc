"""The reference's model zoo: 18 segmentation models and 6 backbones (reference facts 7.1 to 7.4 and 4.5)."""

from __future__ import annotations

from functools import partial
from typing import Any

from deeplab.config import DeepLabConfig, DensePredictionCellConfig
from deeplab.presets.entry import (
    CITYSCAPES_SCALES,
    LONG_CITYSCAPES_SCALES,
    VOC_SCALES,
    Preset,
    Result,
)
from deeplab.presets.reference import config_from_options

ZOO = "model zoo"
VOC, CITYSCAPES, ADE20K, IMAGENET = "PASCAL VOC 2012", "Cityscapes", "ADE20K", "ImageNet"
CLASSES = {VOC: 21, CITYSCAPES: 19, ADE20K: 151, IMAGENET: 21}
VOC_SIZE, CITYSCAPES_SIZE, ADE_MOBILE_SIZE = (513, 513), (1025, 2049), (257, 257)
EDGETPU_SIZE = (513, 513)
BACKBONE = "backbone only; the head is new"
SCRATCH = "from scratch"

# options shared by the zoo's models, by what the zoo calls their head
LIGHT: dict[str, Any] = {"output_stride": 16}
V3PLUS: dict[str, Any] = {"output_stride": 16, "atrous_rates": (6, 12, 18), "decoder_output_stride": (4,)}
LR_ASPP: dict[str, Any] = {
    "output_stride": 32,
    "image_pooling_crop_size": (769, 769),
    "image_pooling_stride": (4, 5),
    "aspp_convs_filters": 128,
    "aspp_with_concat_projection": False,
    "aspp_with_squeeze_and_excitation": True,
    "image_se_uses_qsigmoid": True,
    "decoder_use_sum_merge": True,
    "decoder_filters": 19,
    "decoder_output_is_logits": True,
    "decoder_output_stride": (8,),
}


def _reference(dataset: str, variant: str, options: dict[str, Any], **changes: Any) -> DeepLabConfig:
    classes = {"semantic": CLASSES[dataset]}
    return config_from_options(
        {"model_variant": variant, "outputs_to_num_classes": classes, **options, **changes}
    )


def _dense_prediction_cell(dataset: str) -> DeepLabConfig:
    # imported late: names of models must not wait for torch
    from deeplab.heads.dense_prediction_cell import CITYSCAPES_CELL

    plain = _reference(dataset, "xception_71", V3PLUS, atrous_rates=())
    return plain.model_copy(update={"context": DensePredictionCellConfig(branches=CITYSCAPES_CELL)})


def _slim_edgetpu() -> DeepLabConfig:
    # slim's definition of this network, edge_tpu_075, leaves its last convolution wide; the reference's own
    # narrows it and cannot load the published file (upstream issue 8366)
    plain = _reference(CITYSCAPES, "mobilenet_edgetpu", LIGHT, depth_multiplier=0.75, aspp_convs_filters=128)
    backbone = plain.backbone.model_copy(update={"last_channels": 1280})
    return plain.model_copy(update={"backbone": backbone})


MNV2 = "mobilenet_v2"
SMALL_VOC = partial(_reference, VOC, MNV2, LIGHT, depth_multiplier=0.5)
MOBILE_VOC = partial(_reference, VOC, MNV2, LIGHT)
XCEPTION_VOC = partial(_reference, VOC, "xception_65", V3PLUS)
BEST_VOC = {"output_stride": 8, "scales": VOC_SCALES, "flip": True}
BEST_CITYSCAPES = {"output_stride": 8, "scales": CITYSCAPES_SCALES, "flip": True}

ZOO_PRESETS: dict[str, Preset] = {
    "mobilenetv2_dm05_coco_voc_trainaug": Preset(
        SMALL_VOC, VOC, VOC_SIZE, (Result(70.19, 16),), ZOO,
        "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01.tar.gz", "ImageNet, COCO",
    ),
    "mobilenetv2_dm05_coco_voc_trainval": Preset(
        SMALL_VOC, VOC, VOC_SIZE, (Result(71.83, 8, "test"),), ZOO,
        "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01.tar.gz", "ImageNet, COCO, trainval",
    ),
    "mobilenetv2_coco_voc_trainaug": Preset(
        MOBILE_VOC, VOC, VOC_SIZE, (Result(75.32, 16), Result(77.33, **BEST_VOC)), ZOO,
        "deeplabv3_mnv2_pascal_train_aug_2018_01_29.tar.gz", "ImageNet, COCO",
    ),
    "mobilenetv2_coco_voc_trainval": Preset(
        MOBILE_VOC, VOC, VOC_SIZE, (Result(80.25, split="test", **BEST_VOC),), ZOO,
        "deeplabv3_mnv2_pascal_trainval_2018_01_29.tar.gz", "ImageNet, COCO, trainval",
    ),
    "xception65_coco_voc_trainaug": Preset(
        XCEPTION_VOC, VOC, VOC_SIZE, (Result(82.20, 16), Result(83.58, **BEST_VOC)), ZOO,
        "deeplabv3_pascal_train_aug_2018_01_04.tar.gz", "ImageNet, COCO",
    ),
    "xception65_coco_voc_trainval": Preset(
        XCEPTION_VOC, VOC, VOC_SIZE, (Result(87.80, split="test", **BEST_VOC),), ZOO,
        "deeplabv3_pascal_trainval_2018_01_04.tar.gz", "ImageNet, COCO, trainval",
    ),
    "mobilenetv2_dm05_coco_voc_trainaug_8bit": Preset(
        SMALL_VOC, VOC, VOC_SIZE, (Result(69.65, 16),), ZOO,
        "deeplabv3_mnv2_dm05_pascal_train_aug_8bit_2019_04_26.tar.gz", "ImageNet, COCO; quantised",
    ),
    "mobilenetv2_coco_voc_trainaug_8bit": Preset(
        MOBILE_VOC, VOC, VOC_SIZE, (Result(74.26, 16),), ZOO,
        "deeplabv3_mnv2_pascal_train_aug_8bit_2019_04_26.tar.gz", "ImageNet, COCO; quantised",
    ),
    "mobilenetv2_coco_cityscapes_trainfine": Preset(
        partial(_reference, CITYSCAPES, MNV2, LIGHT), CITYSCAPES, CITYSCAPES_SIZE,
        (Result(70.71, 16), Result(73.57, **BEST_CITYSCAPES)), ZOO,
        "deeplabv3_mnv2_cityscapes_train_2018_02_05.tar.gz", "ImageNet, COCO",
    ),
    "mobilenetv3_large_cityscapes_trainfine": Preset(
        partial(_reference, CITYSCAPES, "mobilenet_v3_large_seg", LR_ASPP), CITYSCAPES, CITYSCAPES_SIZE,
        (Result(72.41, 32),), ZOO, "deeplab_mnv3_large_cityscapes_trainfine_2019_11_15.tar.gz", SCRATCH,
    ),
    "mobilenetv3_small_cityscapes_trainfine": Preset(
        partial(_reference, CITYSCAPES, "mobilenet_v3_small_seg", LR_ASPP), CITYSCAPES, CITYSCAPES_SIZE,
        (Result(68.99, 32),), ZOO, "deeplab_mnv3_small_cityscapes_trainfine_2019_11_15.tar.gz", SCRATCH,
    ),
    "xception65_cityscapes_trainfine": Preset(
        partial(_reference, CITYSCAPES, "xception_65", V3PLUS), CITYSCAPES, CITYSCAPES_SIZE,
        (Result(78.79, 16), Result(80.42, **BEST_CITYSCAPES)), ZOO,
        "deeplabv3_cityscapes_train_2018_02_06.tar.gz", "ImageNet",
    ),
    "xception71_dpc_cityscapes_trainfine": Preset(
        partial(_dense_prediction_cell, CITYSCAPES), CITYSCAPES, CITYSCAPES_SIZE, (Result(80.31, 16),), ZOO,
        "deeplab_cityscapes_xception71_trainfine_2018_09_08.tar.gz", "ImageNet, COCO",
    ),
    "xception71_dpc_cityscapes_trainval": Preset(
        partial(_dense_prediction_cell, CITYSCAPES), CITYSCAPES, CITYSCAPES_SIZE,
        (Result(82.66, 8, "test", LONG_CITYSCAPES_SCALES, flip=True),), ZOO,
        "deeplab_cityscapes_xception71_trainvalfine_2018_09_08.tar.gz", "ImageNet, COCO, trainval, coarse",
    ),
    "edgetpu_deeplab": Preset(
        partial(_reference, CITYSCAPES, "mobilenet_edgetpu", LIGHT), CITYSCAPES, EDGETPU_SIZE,
        (Result(70.6, 32), Result(74.1, 16)), ZOO, "edgetpu-deeplab_2020_03_09.tar.gz", "ImageNet",
    ),
    "edgetpu_deeplab_slim": Preset(
        _slim_edgetpu, CITYSCAPES, EDGETPU_SIZE, (Result(70.0, 32), Result(73.2, 16)), ZOO,
        "edgetpu-deeplab-slim_2020_03_09.tar.gz", "ImageNet",
    ),
    "mobilenetv2_ade20k_train": Preset(
        partial(_reference, ADE20K, MNV2, LIGHT, decoder_output_stride=(4,)), ADE20K, ADE_MOBILE_SIZE,
        (Result(32.04, 16),), ZOO, "deeplabv3_mnv2_ade20k_train_2018_12_03.tar.gz", "ImageNet",
    ),
    "xception65_ade20k_train": Preset(
        partial(_reference, ADE20K, "xception_65", V3PLUS), ADE20K, VOC_SIZE,
        (Result(45.65, **BEST_VOC),), ZOO, "deeplabv3_xception_ade20k_train_2018_05_29.tar.gz", "ImageNet",
    ),
    "xception_41_imagenet": Preset(
        partial(_reference, IMAGENET, "xception_41", V3PLUS), IMAGENET, VOC_SIZE, (), ZOO,
        "xception_41_2018_05_09.tar.gz", BACKBONE,
    ),
    "xception_65_imagenet": Preset(
        partial(_reference, IMAGENET, "xception_65", V3PLUS), IMAGENET, VOC_SIZE, (), ZOO,
        "deeplabv3_xception_2018_01_04.tar.gz", BACKBONE,
    ),
    "xception_65_imagenet_coco": Preset(
        partial(_reference, IMAGENET, "xception_65", V3PLUS), IMAGENET, VOC_SIZE, (), ZOO,
        "xception_65_coco_pretrained_2018_10_02.tar.gz", f"COCO; {BACKBONE}",
    ),
    "xception_71_imagenet": Preset(
        partial(_reference, IMAGENET, "xception_71", V3PLUS), IMAGENET, VOC_SIZE, (), ZOO,
        "xception_71_2018_05_09.tar.gz", BACKBONE,
    ),
    "resnet_v1_50_beta_imagenet": Preset(
        partial(_reference, IMAGENET, "resnet_v1_50_beta", V3PLUS, multi_grid=(1, 2, 4)), IMAGENET, VOC_SIZE,
        (), ZOO, "resnet_v1_50_2018_05_04.tar.gz", BACKBONE,
    ),
    "resnet_v1_101_beta_imagenet": Preset(
        partial(_reference, IMAGENET, "resnet_v1_101_beta", V3PLUS, multi_grid=(1, 2, 4)), IMAGENET, VOC_SIZE,
        (), ZOO, "resnet_v1_101_2018_05_04.tar.gz", BACKBONE,
    ),
}  # fmt: skip

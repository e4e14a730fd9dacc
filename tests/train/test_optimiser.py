"""Who decays and who learns faster, where the reference has no record (`test_golden.py` judges its record)."""

from __future__ import annotations

import torch
from torch import nn

from deeplab import DeepLab, DeepLabConfig
from deeplab.train.optimiser import parameter_groups


def test_bias_multiplier_and_other_backbones() -> None:
    """A backbone that is no class of ours decays by the same rule; biases take the factor they are given."""
    config = DeepLabConfig.model_validate(
        {"backbone": {"name": "vgg16"}, "num_classes": 2, "output_stride": 8}
    )
    with torch.device("meta"):
        model = DeepLab(config)
        model.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)
        )
    groups = parameter_groups(model, weight_decay=0.1, head_multiplier=3, bias_multiplier=5)
    where = {
        key: (group["weight_decay"], group["multiplier"])
        for key, parameter in model.named_parameters()
        for group in groups
        if any(parameter is other for other in group["params"])
    }
    assert where["backbone.0.weight"] == (0.1, 1)
    assert where["backbone.0.bias"] == (0, 5)
    assert where["backbone.1.weight"] == where["backbone.2.weight"] == where["backbone.2.bias"] == (0, 1)
    assert where["classifiers.semantic.convs.0.bias"] == (0, 15)

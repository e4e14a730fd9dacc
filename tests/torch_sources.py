"""Plain PyTorch rebuilds of DeepLabs whose repositories cannot be installed: an oracle for their importers.

Written from what those repositories publish (module names, shapes, strides, rates, order of concatenation,
where is padded), in nothing but torch.nn and with none of this package's code. Rates are spelled out unit by
unit, as each source's own loop gives them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(
    inner: int, outer: int, kernel: int, *, stride: int = 1, rate: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution without bias, padded to keep size at stride 1, and its norm."""
    pad = kernel // 2 * rate
    return [nn.Conv2d(inner, outer, kernel, stride, pad, rate, groups, bias=False), nn.BatchNorm2d(outer)]


class Bottleneck(nn.Module):
    """torchvision's names: conv1, bn1, ..., downsample.0, downsample.1; the stride is in the 3x3."""

    def __init__(self, inner: int, width: int, *, stride: int, rate: int, first: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inner, width, 1)
        self.conv2, self.bn2 = conv_norm(width, width, 3, stride=stride, rate=rate)
        self.conv3, self.bn3 = conv_norm(width, 4 * width, 1)
        self.downsample = nn.Sequential(*conv_norm(inner, 4 * width, 1, stride=stride)) if first else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """torchvision's names. strides of layer1 to 4; rates of every unit of layer3 and layer4."""

    def __init__(
        self,
        *,
        strides: Sequence[int],
        rates3: Sequence[int],
        rates4: Sequence[int],
        stem: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if stem:
            widths, layers = [3, *stem], []
            for index in range(3):
                layers += [
                    *conv_norm(widths[index], widths[index + 1], 3, stride=1 + (index == 0)),
                    nn.ReLU(),
                ]
            self.stem = nn.Sequential(*layers)
        else:
            self.conv1, self.bn1 = conv_norm(3, 64, 7, stride=2)
        inner = 64
        for number, rates in enumerate(([1] * 3, [1] * 4, rates3, rates4)):
            units = []
            for index, rate in enumerate(rates):
                stride = strides[number] if index == 0 else 1
                units.append(Bottleneck(inner, 64 << number, stride=stride, rate=rate, first=index == 0))
                inner = 256 << number
            self.add_module(f"layer{number + 1}", nn.Sequential(*units))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x) if hasattr(self, "stem") else F.relu(self.bn1(self.conv1(x)))
        low_level = self.layer1(F.max_pool2d(x, 3, 2, 1))
        return self.layer4(self.layer3(self.layer2(low_level))), low_level


class EarlyPaddedBlock(nn.Module):
    """An inverted residual that pads its input: zeros there go through the expansion, its norm and ReLU6.

    nested: names conv.0.0, conv.0.1, conv.1.0, ... as in torchvision; otherwise conv.0, conv.1, conv.3, ...
    """

    def __init__(
        self, inner: int, outer: int, *, stride: int, rate: int, expansion: int, nested: bool
    ) -> None:
        super().__init__()
        hidden = inner * expansion
        self.rate, self.skip = rate, stride == 1 and inner == outer
        expand = [*conv_norm(inner, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        spatial = nn.Conv2d(hidden, hidden, 3, stride, 0, rate, hidden, bias=False)
        depthwise = [spatial, nn.BatchNorm2d(hidden), nn.ReLU6()]
        if nested:
            groups = [nn.Sequential(*part) for part in (expand, depthwise) if part]
            self.conv = nn.Sequential(*groups, *conv_norm(hidden, outer, 1))
        else:
            self.conv = nn.Sequential(*expand, *depthwise, *conv_norm(hidden, outer, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(F.pad(x, [self.rate] * 4))
        return x + out if self.skip else out


def mobilenet_v2(strides: Sequence[int], rates: Sequence[int], *, nested: bool) -> list[nn.Module]:
    """Stem and 17 blocks at width 1; `strides` and `rates` of every block."""
    rows = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    modules: list[nn.Module] = [nn.Sequential(*conv_norm(3, 32, 3, stride=2), nn.ReLU6())]
    inner, number = 32, 0
    for expansion, outer, repeats in rows:
        for _ in range(repeats):
            options = {"stride": strides[number], "rate": rates[number], "expansion": expansion}
            modules.append(EarlyPaddedBlock(inner, outer, nested=nested, **options))
            inner, number = outer, number + 1
    return modules


# every block of MobileNetV2 at output stride 16
MOBILE_STRIDES = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]


class TorchvisionASPP(nn.Module):
    """convs.0 (1x1), convs.1 to 3, convs.4 (pooling), project; in this order."""

    def __init__(self, inner: int, rates: Sequence[int], *, channels: int = 256) -> None:
        super().__init__()
        branches = [nn.Sequential(*conv_norm(inner, channels, 1), nn.ReLU())]
        branches += [nn.Sequential(*conv_norm(inner, channels, 3, rate=rate), nn.ReLU()) for rate in rates]
        branches.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm(inner, channels, 1), nn.ReLU()))
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*conv_norm(5 * channels, channels, 1), nn.ReLU(), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outs = [branch(x).expand(-1, -1, *x.shape[-2:]) for branch in self.convs]
        return self.project(torch.cat(outs, 1))


class VainFBackbone(nn.Module):
    """MobileNetV2 in two halves, as VainF renames it: features 0 to 3, then 4 to 17 counted from 0 again."""

    def __init__(self) -> None:
        super().__init__()
        modules = mobilenet_v2(MOBILE_STRIDES, [1] * 14 + [2, 2, 2], nested=True)
        self.low_level_features, self.high_level_features = (
            nn.Sequential(*modules[:4]),
            nn.Sequential(*modules[4:]),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low_level = self.low_level_features(x)
        return self.high_level_features(low_level), low_level


class VainF(nn.Module):
    """v3+ (low-level features first, one 3x3) or v3 (a 3x3 behind ASPP), at output stride 16."""

    def __init__(self, *, mobile: bool, plus: bool, classes: int) -> None:
        super().__init__()
        # the unit that loses its stride keeps the old rate
        resnet = {"strides": (1, 2, 2, 1), "rates3": [1] * 6, "rates4": (1, 2, 2)}
        self.backbone = VainFBackbone() if mobile else ResNet50(**resnet)
        inner, low_level = (320, 24) if mobile else (2048, 256)
        aspp = TorchvisionASPP(inner, (6, 12, 18))
        last = [nn.ReLU(), nn.Conv2d(256, classes, 1)]
        self.classifier = nn.Module()
        if plus:
            self.classifier.project = nn.Sequential(*conv_norm(low_level, 48, 1), nn.ReLU())
            self.classifier.aspp = aspp
            self.classifier.classifier = nn.Sequential(*conv_norm(304, 256, 3), *last)
        else:
            self.classifier.classifier = nn.Sequential(aspp, *conv_norm(256, 256, 3), *last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, low_level = self.backbone(x)
        if hasattr(self.classifier, "project"):
            detail = self.classifier.project(low_level)
            out = half_pixel(self.classifier.aspp(out), detail.shape[-2:])
            out = torch.cat([detail, out], 1)
        return half_pixel(self.classifier.classifier(out), x.shape[-2:])


class JfzhangBranch(nn.Module):
    """atrous_conv, bn."""

    def __init__(self, inner: int, kernel: int, rate: int) -> None:
        super().__init__()
        self.atrous_conv, self.bn = conv_norm(inner, 256, kernel, rate=rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class JfzhangMobileNet(nn.Module):
    """`features`, and its two halves under names of their own: every array is in the file twice."""

    def __init__(self) -> None:
        super().__init__()
        # a stage has one rate, and the one that loses its stride has the old one throughout
        self.features = nn.Sequential(*mobilenet_v2(MOBILE_STRIDES, [1] * 16 + [2], nested=False))
        self.low_level_features, self.high_level_features = self.features[0:4], self.features[4:]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low_level = self.low_level_features(x)
        return self.high_level_features(low_level), low_level


class Jfzhang(nn.Module):
    """v3+ at output stride 16: multi-grid 1, 2, 4 on rate 2, pooling last, two 3x3 with dropout."""

    def __init__(self, *, mobile: bool, classes: int) -> None:
        super().__init__()
        resnet = {"strides": (1, 2, 2, 1), "rates3": [1] * 6, "rates4": (2, 4, 8)}
        self.backbone = JfzhangMobileNet() if mobile else ResNet50(**resnet)
        inner, low_level = (320, 24) if mobile else (2048, 256)
        self.aspp = nn.Module()
        for number, (kernel, rate) in enumerate(((1, 1), (3, 6), (3, 12), (3, 18)), 1):
            self.aspp.add_module(f"aspp{number}", JfzhangBranch(inner, kernel, rate))
        self.aspp.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), *conv_norm(inner, 256, 1), nn.ReLU()
        )
        self.aspp.conv1, self.aspp.bn1 = conv_norm(1280, 256, 1)
        self.decoder = nn.Module()
        self.decoder.conv1, self.decoder.bn1 = conv_norm(low_level, 48, 1)
        first = [*conv_norm(304, 256, 3), nn.ReLU(), nn.Dropout(0.5)]
        second = [*conv_norm(256, 256, 3), nn.ReLU(), nn.Dropout(0.1)]
        self.decoder.last_conv = nn.Sequential(*first, *second, nn.Conv2d(256, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, low_level = self.backbone(x)
        aspp, decoder = self.aspp, self.decoder
        pooled = aspp.global_avg_pool(out).expand(-1, -1, *out.shape[-2:])
        out = torch.cat([aspp.aspp1(out), aspp.aspp2(out), aspp.aspp3(out), aspp.aspp4(out), pooled], 1)
        out = F.relu(aspp.bn1(aspp.conv1(out)))
        detail = F.relu(decoder.bn1(decoder.conv1(low_level)))
        out = decoder.last_conv(torch.cat([corners(out, detail.shape[-2:]), detail], 1))
        return corners(out, x.shape[-2:])


class ConvModule(nn.Module):
    """mmcv's: conv, bn, ReLU."""

    def __init__(self, inner: int, outer: int, kernel: int, *, rate: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv, self.bn = conv_norm(inner, outer, kernel, rate=rate, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class SeparableModule(nn.Module):
    """mmcv's: depthwise_conv, pointwise_conv, each with norm and ReLU."""

    def __init__(self, inner: int, outer: int, *, rate: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(inner, inner, 3, rate=rate, groups=inner)
        self.pointwise_conv = ConvModule(inner, outer, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class MMSegmentation(nn.Module):
    """deeplabv3 or deeplabv3plus on ResNet-50 v1c; d8 (contracted dilation) or d16-mg124."""

    def __init__(self, *, plus: bool, stride: int, align: bool, classes: int, channels: int = 64) -> None:
        super().__init__()
        self.align = align
        if stride == 8:
            resnet = {"strides": (1, 2, 1, 1), "rates3": (1, 2, 2, 2, 2, 2), "rates4": (2, 4, 4)}
        else:
            resnet = {"strides": (1, 2, 2, 1), "rates3": [1] * 6, "rates4": (1, 2, 4)}
        self.backbone = ResNet50(stem=(32, 32, 64), **resnet)
        head = self.decode_head = nn.Module()
        head.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(2048, channels, 1))
        rates = (12, 24, 36) if stride == 8 else (6, 12, 18)
        atrous = [
            SeparableModule(2048, channels, rate=rate) if plus else ConvModule(2048, channels, 3, rate=rate)
            for rate in rates
        ]
        head.aspp_modules = nn.ModuleList([ConvModule(2048, channels, 1), *atrous])
        head.bottleneck = ConvModule(5 * channels, channels, 3)
        if plus:
            head.c1_bottleneck = ConvModule(256, 48, 1)
            first = SeparableModule(channels + 48, channels)
            head.sep_bottleneck = nn.Sequential(first, SeparableModule(channels, channels))
        head.conv_seg = nn.Conv2d(channels, classes, 1)
        self.auxiliary_head = nn.Module()
        self.auxiliary_head.convs = nn.Sequential(ConvModule(1024, 16, 3))
        self.auxiliary_head.conv_seg = nn.Conv2d(16, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        head, resize = self.decode_head, corners if self.align else half_pixel
        out, low_level = self.backbone(x)
        pooled = head.image_pool(out).expand(-1, -1, *out.shape[-2:])
        out = head.bottleneck(torch.cat([pooled, *(module(out) for module in head.aspp_modules)], 1))
        if hasattr(head, "c1_bottleneck"):
            detail = head.c1_bottleneck(low_level)
            out = head.sep_bottleneck(torch.cat([resize(out, detail.shape[-2:]), detail], 1))
        return resize(head.conv_seg(out), x.shape[-2:])


class KazutoUnit(nn.Module):
    """reduce (with the stride), conv3x3, increase, shortcut."""

    def __init__(self, inner: int, outer: int, *, stride: int, rate: int, first: bool) -> None:
        super().__init__()
        self.reduce = _named(*conv_norm(inner, outer // 4, 1, stride=stride))
        self.conv3x3 = _named(*conv_norm(outer // 4, outer // 4, 3, rate=rate))
        self.increase = _named(*conv_norm(outer // 4, outer, 1))
        self.shortcut = _named(*conv_norm(inner, outer, 1, stride=stride)) if first else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.conv3x3(F.relu(self.reduce(x))))
        return F.relu(self.increase(out) + self.shortcut(x))


def _named(conv: nn.Module, bn: nn.Module) -> nn.Sequential:
    module = nn.Sequential()
    module.add_module("conv", conv)
    module.add_module("bn", bn)
    return module


class KazutoBase(nn.Module):
    """v2 on ResNet-50 in Caffe's layout: poolings round up, rate 2 in all of layer4, 4 in all of layer5."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer1 = nn.Module()
        self.layer1.conv1 = _named(*conv_norm(3, 64, 7, stride=2))
        inner = 64
        for number, (length, stride, rate) in enumerate(((3, 1, 1), (4, 2, 1), (6, 1, 2), (3, 1, 4))):
            layer, outer = nn.Sequential(), 256 << number
            for index in range(length):
                first = index == 0
                unit = KazutoUnit(inner, outer, stride=stride if first else 1, rate=rate, first=first)
                layer.add_module(f"block{index + 1}", unit)
                inner = outer
            self.add_module(f"layer{number + 2}", layer)
        self.aspp = nn.Module()
        for index, rate in enumerate((6, 12, 18, 24)):
            self.aspp.add_module(f"c{index}", nn.Conv2d(2048, classes, 3, 1, rate, rate))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.layer1.conv1(x))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = self.layer5(self.layer4(self.layer3(self.layer2(x))))
        return sum(conv(x) for conv in self.aspp.children())


class Kazuto(nn.Module):
    """Three scales, resized to the largest's logits and merged by maximum.

    Sizes are rounded down and resizing goes by sizes, as PyTorch did when those weights were published.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.base = KazutoBase(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.base(x)
        pyramid = [logits]
        for scale in (0.5, 0.75):
            small = half_pixel(x, [int(side * scale) for side in x.shape[-2:]])
            pyramid.append(half_pixel(self.base(small), logits.shape[-2:]))
        return half_pixel(torch.stack(pyramid).amax(0), x.shape[-2:])


def half_pixel(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def corners(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)

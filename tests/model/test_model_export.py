"""The contract's torch.export part: every backbone x head as a program, some with sizes that change."""

from __future__ import annotations

import pytest
import torch
from test_model import PAIRS, build
from torch import nn

torch.set_num_threads(1)

EXPORTED = [
    *((backbone, head) for backbone in ("mobilenet_v2", "resnet18") for head in ("v1 LargeFOV", "v3", "v3+")),
    ("vgg16", "v1 MSc"),
    ("resnet18 cascade", "v3 light"),
    ("mobilenet_v3_small_seg", "v3+"),
]


@pytest.mark.parametrize(("backbone", "head"), EXPORTED)
def test_exports_with_dynamic_sizes(backbone: str, head: str) -> None:
    model = build(backbone, head).eval()
    dynamic = torch.export.Dim.DYNAMIC
    images = torch.rand(2, 3, 81, 97) * 255
    program = torch.export.export(model, (images,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
    for size in ((1, 3, 64, 90), (3, 3, 97, 65)):
        images = torch.rand(size) * 255
        with torch.no_grad():
            torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-4)


# all others, at one size: sizes that change are the same code, and take ten times as long
EXPORTED_STILL = [pair for pair in PAIRS if pair not in EXPORTED]


@pytest.mark.parametrize(("backbone", "head"), EXPORTED_STILL)
def test_exports_at_one_size(backbone: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda weight, *, std, a, b: nn.init.normal_(weight, std=std)
    )
    model = build(backbone, head).eval()
    images = torch.rand(1, 3, 65, 50) * 255
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-4)

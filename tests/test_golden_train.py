"""The judge of whole training steps notices mistakes; `test_golden.py` runs it on every vector."""

from __future__ import annotations

import pytest
import torch
from families.train import run_training_steps
from support.shared_folder import shared

from deeplab.layers.norm import BatchNorm2d


def test_another_momentum_of_the_statistics_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: PyTorch's default momentum instead of the reference's decay must fail."""
    path = shared("golden/n_train_d_r18beta_bn.npz")
    forward = BatchNorm2d.forward

    def wrong(self: BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        self.momentum = 0.1
        return forward(self, x)

    monkeypatch.setattr(BatchNorm2d, "forward", wrong)
    row = run_training_steps(path)
    assert row.verdict == "fail" and "moving_mean" in row.detail

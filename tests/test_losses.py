"""Losses: golden values and gradients of the reference, and cases that can be worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab.errors import UserError
from deeplab.train.losses import (
    matting_cross_entropy,
    mining_share,
    multi_scale_cross_entropy,
    segmentation_cross_entropy,
)

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"golden vectors are not at {GOLDEN}")


def channels_first(array):
    return torch.tensor(array).permute(0, 3, 1, 2).contiguous().requires_grad_()


def assert_gradient(tensor, expected):
    np.testing.assert_allclose(tensor.grad.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6)


@needs_golden
@pytest.mark.parametrize("name, count", [("i_losses_a", 17), ("i_losses_all_ignored", 2)])
def test_golden_losses_and_gradients(name, count):
    arrays = np.load(GOLDEN / f"{name}.npz")
    cases = json.loads(str(arrays["cases"]))
    assert len(cases) == count
    for case in cases:
        names = ("logits", "logits_b") if case["two_scales"] else ("logits",)
        logits = {scale: channels_first(arrays[scale]) for scale in names}
        losses = multi_scale_cross_entropy(
            logits,
            torch.tensor(arrays["labels"]),
            ignore_label=int(arrays["ignore_label"]),
            class_weights=case["loss_weight"],
            top_k=case.get("top_k_percent_pixels", 1.0),
            mining_steps=case.get("hard_example_mining_step", 0),
            step=case["global_step"],
            upsample=case.get("upsample_logits", True),
        )
        assert [loss.item() for loss in losses.values()] == pytest.approx(case["losses"], rel=1e-5), case
        sum(losses.values()).backward()
        for tensor, key in zip(logits.values(), case["grad_keys"], strict=True):
            assert_gradient(tensor, arrays[key])


@needs_golden
def test_golden_matting():
    arrays = np.load(GOLDEN / "i_losses_matting_a.npz")
    for number, case in enumerate(json.loads(str(arrays["cases"]))):
        logits = channels_first(arrays["logits"])
        loss = matting_cross_entropy(
            logits,
            torch.tensor(arrays["labels"])[..., 0],
            top_k=case.get("top_k_percent_pixels", 1.0),
            upsample=case["upsample_logits"],
        )
        assert loss.item() == pytest.approx(case["losses"][0], rel=1e-5)
        loss.backward()
        assert_gradient(logits, arrays[f"grad{number}_0"])


def test_uniform_logits_give_log_of_the_number_of_classes():
    labels = torch.tensor([[[0, 1], [6, 255]]], dtype=torch.uint8)
    loss = segmentation_cross_entropy(torch.zeros(1, 7, 1, 1), labels)
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)


def test_divisor_counts_pixels_not_weights():
    # Two valid pixels of classes 0 and 1, each with loss log 2: (3 + 1) * log 2 / 2 pixels.
    labels = torch.tensor([[[0, 1, 255]]])
    loss = segmentation_cross_entropy(torch.zeros(1, 2, 1, 3), labels, class_weights=[3.0, 1.0])
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("top_k", [1.0, 0.5])
@pytest.mark.parametrize("upsample", [True, False])
def test_all_ignored_is_zero_without_nan(top_k, upsample):
    logits = torch.randn(2, 3, 4, 4, generator=torch.manual_seed(0), requires_grad=True)
    labels = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    loss = segmentation_cross_entropy(logits, labels, top_k=top_k, upsample=upsample)
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


def test_ignore_label_inside_the_class_range():
    # ADE20K ignores 0 while having an output for it.
    logits = torch.tensor([[[[0.0, 0.0]], [[0.0, 0.0]]]])
    loss = segmentation_cross_entropy(logits, torch.tensor([[[0, 1]]]), ignore_label=0)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_half_precision_is_widened():
    logits = torch.randn(1, 3, 3, 3, generator=torch.manual_seed(0)).bfloat16()
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    loss = segmentation_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == segmentation_cross_entropy(logits.float(), labels).item()


def test_resize_rule_is_used():
    # Logits 0 and 4 of class 1, resized from 2 to 4 pixels, all labelled 1.
    logits = torch.tensor([[[[0.0, 0.0]], [[0.0, 4.0]]]])
    labels = torch.ones(1, 1, 4, dtype=torch.uint8)
    for rule, values in (("align_corners", (0, 4 / 3, 8 / 3, 4)), ("half_pixel", (0, 1, 3, 4))):
        expected = sum(math.log1p(math.exp(-value)) for value in values) / 4
        loss = segmentation_cross_entropy(logits, labels, resize_rule=rule)
        assert loss.item() == pytest.approx(expected, rel=1e-5), rule


def test_hard_pixels_are_a_share_of_all_pixels():
    # Losses log(1 + e^-z) of four pixels; a half of four are the two hardest, z = -2 and z = 0.
    scores = torch.tensor([2.0, 0.0, -2.0, 1.0])
    logits = torch.stack([torch.zeros(4), scores]).reshape(1, 2, 1, 4)
    loss = segmentation_cross_entropy(logits, torch.ones(1, 1, 4, dtype=torch.long), top_k=0.5)
    assert loss.item() == pytest.approx((math.log1p(math.exp(2)) + math.log(2)) / 2, rel=1e-6)


def test_hard_pixel_count_is_taken_in_float32():
    # 0.29 * 100 is 28.999999999999996 in float64 and 29 in float32.
    losses = torch.linspace(1, 2, 100)
    logits = torch.stack([torch.zeros(100), -losses]).reshape(1, 2, 1, 100)
    logits.requires_grad_()
    segmentation_cross_entropy(logits, torch.ones(1, 1, 100, dtype=torch.long), top_k=0.29).backward()
    assert int((logits.grad[0, 0, 0] != 0).sum()) == 29


def test_mining_share_falls_linearly():
    shares = [mining_share(0.25, mining_steps=10, step=step) for step in (0, 4, 10, 25)]
    assert shares == pytest.approx([1.0, 0.7, 0.25, 0.25], rel=1e-6)
    assert mining_share(0.25, mining_steps=0, step=0) == 0.25


def test_errors_name_the_value():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(UserError, match="2 values for 3 classes"):
        segmentation_cross_entropy(logits, labels, class_weights=[1.0, 2.0])
    with pytest.raises(UserError, match=r"label 3 is no class; allowed: 0\.\.2, and 255"):
        segmentation_cross_entropy(logits, labels + 3)
    with pytest.raises(UserError, match="label -1"):
        segmentation_cross_entropy(logits, labels - 1)
    for share in (0.0, 1.5):
        with pytest.raises(UserError, match=f"top_k is {share}"):
            segmentation_cross_entropy(logits, labels, top_k=share)
    with pytest.raises(UserError, match="matting needs 2 classes"):
        matting_cross_entropy(logits, labels.float())

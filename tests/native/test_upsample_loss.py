"""The compiled loss: equal to the plain one and to float64, gradients by finite differences, mistakes and mining."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.losses import run_losses
from support.shared_folder import shared

from deeplab.errors import UserError
from deeplab.native import build, upsample_loss
from deeplab.train.losses import cross_entropy
from deeplab.train.losses.cross_entropy import segmentation_cross_entropy

needs_compiler = pytest.mark.skipif(bool(upsample_loss.KERNEL.why_not), reason=upsample_loss.KERNEL.why_not)
# (batch, classes, source height and width, target height and width): up, down, one pixel, many classes, odd factors
SHAPES = [
    (2, 21, 17, 17, 65, 65),
    (1, 3, 5, 37, 33, 50),
    (1, 150, 9, 3, 33, 17),
    (1, 4, 30, 30, 13, 17),
    (2, 5, 1, 1, 9, 9),
    (1, 2, 8, 40, 8, 40),
]


@pytest.fixture
def always_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches too, and the plain version must not be asked."""
    monkeypatch.setattr(upsample_loss, "LEAST_PIXELS", 0)
    monkeypatch.setattr(cross_entropy, "_plain_cross_entropy", None)


def batch(shape: tuple[int, ...], *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    images, classes, height, width, *size = shape
    generator = torch.manual_seed(seed)
    logits = 4 * torch.randn(images, classes, height, width, generator=generator)
    labels = torch.randint(0, classes, (images, *size), dtype=torch.uint8, generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return logits, labels


def solved(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.detach().clone().requires_grad_()
    loss = segmentation_cross_entropy(logits, labels, **options)
    (3 * loss).backward()
    return loss.detach(), logits.grad


def in_float64(
    logits: torch.Tensor, labels: torch.Tensor, *, weights: torch.Tensor, aligned: bool, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss from its definition, in float64, and three times its gradient."""
    logits = logits.double().requires_grad_()
    grown = torch.nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=aligned)
    valid = labels != 255
    right = labels.long().where(valid, torch.zeros(1, dtype=torch.long))
    pixels = -grown.log_softmax(1).gather(1, right[:, None])[:, 0] * weights.double()[right] * valid
    if share < 1:
        pixels = pixels.flatten().sort(descending=True).values[: int(share * labels.numel())]
        loss = pixels.sum() / (pixels > 0).sum()
    else:
        loss = pixels.sum() / valid.sum()
    (3 * loss).backward()
    return loss.detach(), logits.grad


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_equal_to_float64(shape: tuple[int, ...], rule: str, share: float) -> None:
    logits, labels = batch(shape)
    weights = torch.linspace(0.2, 2, shape[1])
    expected, slope = in_float64(
        logits, labels, weights=weights, aligned=rule == "align_corners", share=share
    )
    options = {"class_weights": weights, "resize_rule": rule, "top_k": share}
    for layout in (torch.contiguous_format, torch.channels_last):
        for labelled in (labels, labels.long(), labels.int()):
            loss, gradient = solved(logits.contiguous(memory_format=layout), labelled, **options)
            assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
            torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=3e-5 * slope.abs().max().item())


@needs_compiler
@pytest.mark.parametrize("upsample", [True, False])
@pytest.mark.parametrize("rule", ["align_corners", "half_pixel", "legacy"])
def test_both_versions_agree(monkeypatch: pytest.MonkeyPatch, rule: Any, upsample: bool) -> None:
    logits, labels = batch((2, 6, 9, 21, 40, 80))
    ramp = {"top_k": 0.1, "mining_steps": 10, "step": 4}
    for options in ({}, {"class_weights": 2.0}, {"ignore_label": 0}, ramp):
        options = {"resize_rule": rule, "upsample": upsample, "ignore_label": 255, **options}
        labelled = (
            labels if options["ignore_label"] else labels.where(labels != 255, torch.zeros_like(labels))
        )
        found = []
        for least in (0, 1 << 60):
            monkeypatch.setattr(upsample_loss, "LEAST_PIXELS", least)
            found.append(solved(logits, labelled, **options))
        assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-6)
        largest = found[1][1].abs().max().item()
        torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=3e-5 * largest)


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
def test_golden_losses() -> None:
    for name in ("i_losses_a", "i_losses_all_ignored"):
        row = run_losses(shared(f"golden/{name}.npz"))
        assert row.verdict == "pass", row


@needs_compiler
@pytest.mark.parametrize("hard_pixels", [None, 40])
@pytest.mark.parametrize("rule", ["align_corners", "half_pixel", "legacy"])
def test_gradients_by_finite_differences(hard_pixels: int | None, rule: Any) -> None:
    logits, labels = batch((1, 3, 4, 5, 11, 12))
    weights = torch.tensor([1.0, 0.0, 2.5], dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return upsample_loss.upsampled_cross_entropy(
            x, labels, ignore_label=255, class_weights=weights, hard_pixels=hard_pixels, rule=rule
        )

    for layout in (torch.contiguous_format, torch.channels_last):
        point = logits.double().contiguous(memory_format=layout).requires_grad_()
        assert torch.autograd.gradcheck(loss, (point,))


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
def test_nothing_counts() -> None:
    logits, labels = batch((2, 3, 4, 4, 8, 8))
    for options in ({}, {"top_k": 0.5}, {"top_k": 1e-6}):
        everything_ignored = torch.full_like(labels, 255)
        loss, gradient = solved(logits, everything_ignored if "top_k" not in options else labels, **options)
        if options != {"top_k": 0.5}:
            assert loss.item() == 0 and (gradient == 0).all()
    loss, gradient = solved(logits, torch.full_like(labels, 255), top_k=0.5)
    assert loss.item() == 0 and (gradient == 0).all()


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
def test_ties_count_as_often_as_they_fit() -> None:
    # 100 equal losses of log 2; 29 of them give a gradient of 1/2 each over 29
    logits = torch.zeros(1, 2, 10, 10)
    loss, gradient = solved(logits, torch.ones(1, 10, 10, dtype=torch.uint8), top_k=0.29)
    assert loss.item() == pytest.approx(0.6931471806, rel=1e-6)
    assert int((gradient[0, 0] != 0).sum()) == 29
    assert gradient[0, 0].sum().item() == pytest.approx(1.5, rel=1e-6)


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_that_are_no_class(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 3, 9, 9)
    labels = torch.zeros(2, 33, 33, dtype=dtype)
    labels[1, 20, 5], labels[1, 7, 30] = 9, 3
    with pytest.raises(UserError, match=r"label 3 is no class; allowed: 0\.\.2, and 255"):
        segmentation_cross_entropy(logits, labels)
    with pytest.raises(UserError, match=r"label 3 is no class"):
        segmentation_cross_entropy(logits, labels, top_k=0.5)
    if dtype == torch.int64:
        labels[0, 0, 0] = -1
        with pytest.raises(UserError, match=r"label -1 is no class"):
            segmentation_cross_entropy(logits, labels)


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
def test_large_logits_and_numbers_that_are_none() -> None:
    logits, labels = batch((1, 4, 5, 5, 9, 9))
    weights = torch.ones(4)
    expected, _ = in_float64(300 * logits, labels, weights=weights, aligned=True, share=1.0)
    assert solved(300 * logits, labels)[0].item() == pytest.approx(expected.item(), rel=1e-6)
    for wrong in (float("nan"), float("inf")):
        logits[0, 2, 2, 2] = wrong
        assert solved(logits, labels)[0].isnan()


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_number_of_threads_changes_nothing(share: float) -> None:
    logits, labels = batch((2, 7, 33, 20, 70, 70))
    found, threads = [], torch.get_num_threads()
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        found.append(solved(logits, labels, top_k=share))
    torch.set_num_threads(threads)
    for loss, gradient in found[1:]:
        assert torch.equal(loss, found[0][0]) and torch.equal(gradient, found[0][1])


@needs_compiler
@pytest.mark.usefixtures("always_compiled")
def test_backward_twice_half_precision_and_no_gradient() -> None:
    logits, labels = batch((1, 3, 5, 5, 9, 9))
    half = logits.bfloat16().requires_grad_()
    loss = segmentation_cross_entropy(half, labels)
    first = torch.autograd.grad(loss, half, retain_graph=True)[0]
    assert first.dtype == torch.bfloat16 and torch.equal(first, torch.autograd.grad(loss, half)[0])
    with torch.no_grad():
        alone = segmentation_cross_entropy(half, labels)
    assert not alone.requires_grad and alone.item() == loss.item() and alone.dtype == torch.float32


@pytest.mark.parametrize("why", ["tiny", "negative weights"])
def test_what_is_left_to_the_plain_version(why: str) -> None:
    logits, labels = batch((1, 2, 5, 5, 70, 70))
    weights = torch.ones(2)
    if why == "tiny":
        labels = labels[:, :8, :8]
    else:
        weights[0] = -1
    assert not upsample_loss.can_run(logits, labels, weights)
    assert segmentation_cross_entropy(logits, labels, class_weights=weights).isfinite()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    monkeypatch.setattr(build, "_told", ["nothing new"])
    monkeypatch.setattr(upsample_loss, "KERNEL", replace(upsample_loss.KERNEL))


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler() -> None:
    logits, labels = batch((1, 3, 17, 17, 65, 65))
    expected, slope = in_float64(logits, labels, weights=torch.ones(3), aligned=True, share=1.0)
    loss, gradient = solved(logits, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and not upsample_loss.KERNEL.ready()
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=3e-5 * slope.abs().max().item())

"""Labels from low-resolution logits: the kernel, its plain version, and torch's interpolation as an oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from deeplab.native import upsample_argmax as module
from deeplab.native.upsample_argmax import axis, compiled, plain, upsample_argmax

RULES = ("align_corners", "half_pixel", "legacy")
# images, classes, low-resolution sides, full sides: larger, smaller, equal along one axis, single values
SHAPES = [
    (2, 21, (9, 13), (65, 97)),
    (1, 19, (17, 7), (33, 100)),
    (1, 40, (8, 8), (5, 3)),
    (3, 3, (4, 6), (4, 40)),
    (1, 8, (1, 5), (9, 37)),
    (1, 150, (5, 4), (40, 33)),
    (1, 2, (1, 1), (3, 4)),
    (2, 1, (3, 3), (7, 7)),
]


@pytest.fixture
def kernel() -> Callable[..., torch.Tensor]:
    if module.KERNEL.why_not:
        pytest.skip("the kernel cannot be compiled here")
    return compiled


def noisy(images: int, classes: int, sides: tuple[int, int]) -> torch.Tensor:
    return torch.randn(images, classes, *sides, generator=torch.Generator().manual_seed(classes))


def smooth(images: int, classes: int, sides: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(4 * noisy(images, classes, (2, 2)), sides, mode="bicubic")


def with_ties(images: int, classes: int, sides: tuple[int, int]) -> torch.Tensor:
    return (2 * noisy(images, classes, sides)).round()


def with_odd_values(images: int, classes: int, sides: tuple[int, int]) -> torch.Tensor:
    values = noisy(images, classes, sides)
    flat = values.flatten()
    for index, value in enumerate((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-40)):
        flat[(7 * index + 1) % len(flat)] = value
    return values


@pytest.mark.parametrize("make", [noisy, smooth, with_ties, with_odd_values])
@pytest.mark.parametrize("rule", RULES)
def test_kernel_is_the_plain_version_to_the_bit(kernel, rule, make) -> None:
    for images, classes, sides, size in SHAPES:
        axes = [axis(source, target, rule) for source, target in zip(sides, size, strict=True)]
        logits = make(images, classes, sides)
        expected = plain(logits, *axes)
        for layout in (torch.contiguous_format, torch.channels_last):
            found = kernel(logits.contiguous(memory_format=layout), *axes)
            assert found.dtype == torch.uint8
            assert torch.equal(found, expected), (images, classes, sides, size)


@pytest.mark.parametrize("make", [noisy, smooth])
@pytest.mark.parametrize("rule", RULES[:2])
def test_labels_are_those_of_torch_but_for_rounding(rule, make) -> None:
    for images, classes, sides, size in SHAPES:
        logits = make(images, classes, sides)
        full = F.interpolate(logits.double(), size, mode="bilinear", align_corners=rule == "align_corners")
        labels = upsample_argmax(logits, size, rule).long()
        short = full.amax(1) - full.gather(1, labels[:, None])[:, 0]
        # positions are rounded to float32, as torch rounds them: 2^-24 of up to 17 cells
        assert (short <= 1e-5 * logits.abs().max()).all()


def test_hand_computed_labels() -> None:
    # class 0 falls from 4 to 0, class 1 rises from 0 to 3: they meet at 4 / 7 of the way, between 4 / 8 and 5 / 8
    logits = torch.tensor([[4.0, 0.0], [0.0, 3.0]])[None, :, None]
    labels = upsample_argmax(logits, (1, 9), "align_corners")
    assert labels.tolist() == [[[0, 0, 0, 0, 0, 1, 1, 1, 1]]]
    # half-pixel centres of 4 outputs lie at -0.25, 0.25, 0.75 and 1.25 of 2 inputs
    assert upsample_argmax(logits, (1, 4), "half_pixel").tolist() == [[[0, 0, 1, 1]]]
    # the third class leads at no corner, but in the middle, where the others are at 0
    middle = torch.tensor([[4.0, -4.0], [-4.0, 4.0], [1.0, 1.0]])[None, :, None]
    assert upsample_argmax(middle, (1, 5), "align_corners").tolist() == [[[0, 0, 2, 1, 1]]]


def test_ties_go_to_the_first_class_and_a_nan_wins() -> None:
    equal = torch.zeros(1, 12, 3, 3)
    equal[:, 7:] = 1.0
    assert (upsample_argmax(equal, (20, 20), "align_corners") == 7).all()
    equal[0, 9, 1, 1] = float("nan")
    labels = upsample_argmax(equal, (5, 5), "align_corners")
    assert labels[0, 2, 2] == 9
    assert labels[0, 4, 4] == 7


def test_many_classes_take_16_bits(kernel) -> None:
    logits = noisy(1, 300, (3, 4))
    logits[:, 290] += 9
    axes = [axis(3, 9, "align_corners"), axis(4, 11, "align_corners")]
    found = kernel(logits, *axes)
    assert found.dtype == torch.uint16
    assert (found.numpy() == 290).all()
    assert (found.numpy() == plain(logits, *axes).numpy()).all()
    with pytest.raises(ValueError, match="65537 classes"):
        upsample_argmax(torch.zeros(1, 65537, 1, 1), (1, 1), "align_corners")


def test_sixteen_bit_logits_are_widened_first() -> None:
    logits = noisy(1, 5, (4, 4)).bfloat16()
    found = upsample_argmax(logits, (29, 29), "align_corners")
    assert torch.equal(found, upsample_argmax(logits.float(), (29, 29), "align_corners"))


def test_plain_version_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, axes = noisy(2, 6, (5, 7)), [axis(5, 31, "half_pixel"), axis(7, 20, "half_pixel")]
    whole = plain(logits, *axes)
    monkeypatch.setattr(module, "STRIP_BYTES", 3 * 2 * 6 * 20 * 4)
    assert torch.equal(plain(logits, *axes), whole)


def test_without_a_compiler_the_plain_version_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = noisy(1, 6, (5, 7))
    expected = upsample_argmax(logits, (40, 50), "align_corners")
    monkeypatch.setenv("DEEPLAB_KERNELS", "plain")
    monkeypatch.setattr(module, "KERNEL", replace(module.KERNEL))
    monkeypatch.setattr(module, "compiled", lambda *_: pytest.fail("the kernel ran"))
    assert torch.equal(upsample_argmax(logits, (40, 50), "align_corners"), expected)


def test_threads_do_not_change_labels(kernel) -> None:
    logits, axes = noisy(2, 9, (6, 5)), [axis(6, 50, "align_corners"), axis(5, 41, "align_corners")]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(kernel(logits, *axes))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)

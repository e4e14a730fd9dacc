"""Losses: cases that can be worked out by hand, independent oracles, gradients by finite differences."""

import math

import numpy as np
import pytest
import torch

from deeplab.data.class_weights import median_frequency_weights
from deeplab.errors import UserError
from deeplab.train.losses.cross_entropy import matting_cross_entropy, mining_share, segmentation_cross_entropy
from deeplab.train.losses.dice import dice_loss
from deeplab.train.losses.focal import focal_loss
from deeplab.train.losses.lovasz import lovasz_softmax
from deeplab.train.recipe.loss import LossRecipe, recipe_loss, supervised_loss


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


SMALL = torch.tensor([[[0, 2, 255], [1, 0, 0]], [[2, 2, 0], [255, 0, 2]]])
REGION_LOSSES = {"focal": focal_loss, "dice": dice_loss, "lovasz": lovasz_softmax}


def small_logits(classes=3):
    return torch.randn(2, classes, 2, 3, generator=torch.manual_seed(1), dtype=torch.float64)


def valid_in_numpy(logits, labels):
    scores = logits.numpy().transpose(0, 2, 3, 1).reshape(-1, logits.shape[1])
    flat = labels.numpy().ravel()
    scores, flat = scores[flat != 255], flat[flat != 255]
    exponents = np.exp(scores)
    return exponents / exponents.sum(1, keepdims=True), flat


def test_focal_in_numpy():
    probabilities, right = valid_in_numpy(small_logits(), SMALL)
    p = probabilities[np.arange(len(right)), right]
    alpha = np.array([1.0, 4.0, 0.5])[right]
    for gamma in (1.0, 2.0, 3.5):
        expected = (alpha * -((1 - p) ** gamma) * np.log(p)).sum() / 10
        loss = focal_loss(small_logits(), SMALL, gamma=gamma, class_weights=(1.0, 4.0, 0.5))
        assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_dice_by_hand():
    # Two pixels, both of class 0, with probabilities 0.5: 1 - 2 * 1 / (0.5 + 2). Class 1 is not shown.
    loss = dice_loss(torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 2, dtype=torch.long))
    assert loss.item() == pytest.approx(1 - 2 / 2.5)


def test_dice_in_numpy():
    probabilities, right = valid_in_numpy(small_logits(4), SMALL)
    overlaps = []
    for c in (0, 1, 2):
        g = (right == c).astype(float)
        overlaps.append(2 * (probabilities[:, c] * g).sum() / ((probabilities[:, c] ** 2).sum() + g.sum()))
    assert dice_loss(small_logits(4), SMALL).item() == pytest.approx(1 - np.mean(overlaps), rel=1e-6)


def test_lovasz_is_the_extension_of_the_jaccard_set_function():
    """The definition itself: sets of mistakes grow by the next largest error; their Jaccard loss is counted."""
    probabilities, right = valid_in_numpy(small_logits(), SMALL)

    def jaccard_loss(mistakes, truth):
        return len(mistakes) / len(truth | mistakes)

    expected = []
    for c in (0, 1, 2):
        truth = set(np.flatnonzero(right == c))
        errors = {i: 1 - p if i in truth else p for i, p in enumerate(probabilities[:, c])}
        total, mistakes = 0.0, set()
        for pixel in sorted(errors, key=errors.get, reverse=True):
            before = jaccard_loss(mistakes, truth)
            mistakes = mistakes | {pixel}
            total += errors[pixel] * (jaccard_loss(mistakes, truth) - before)
        expected.append(total)
    assert lovasz_softmax(small_logits(), SMALL).item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_lovasz_of_certain_predictions_is_one_minus_iou():
    labels = torch.tensor([[[0, 0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 1, 1, 1]]])
    logits = 200.0 * torch.nn.functional.one_hot(predicted, 2).movedim(-1, 1).float()
    assert lovasz_softmax(logits, labels).item() == pytest.approx(1 - (2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_gradients_by_finite_differences(name):
    logits = small_logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: REGION_LOSSES[name](x, SMALL), (logits,))


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_ignored_pixels_do_not_matter(name):
    logits = small_logits().requires_grad_()
    REGION_LOSSES[name](logits, SMALL).backward()
    ignored = (SMALL == 255)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all() and (logits.grad[~ignored] != 0).any()
    nothing = REGION_LOSSES[name](logits, torch.full_like(SMALL, 255))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == 0 and (gradient == 0).all()


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_certain_and_right_is_zero_with_finite_gradients(name):
    labels = torch.tensor([[[0, 1, 255]]])
    right = torch.nn.functional.one_hot(labels.clamp(max=1), 2).movedim(-1, 1).float()
    logits = (200 * right).requires_grad_()
    loss = REGION_LOSSES[name](logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and logits.grad.isfinite().all()


def test_median_frequency_by_hand():
    assert median_frequency_weights([10, 20, 40]) == (2.0, 1.0, 0.5)
    assert median_frequency_weights([0.1, 0, 0.3]) == pytest.approx((2.0, 1.0, 2 / 3))
    for wrong in ([0, 0], [1, -1], []):
        with pytest.raises(UserError, match="class frequencies are"):
            median_frequency_weights(wrong)


def test_recipe_is_the_weighted_sum_of_its_terms():
    logits = small_logits().float()
    weights = (2.0, 1.0, 0.5)
    recipe = LossRecipe(
        cross_entropy=0.5, focal=2, focal_gamma=3, dice=3, lovasz=4, class_frequencies=(5, 10, 20)
    )
    expected = (
        0.5 * segmentation_cross_entropy(logits, SMALL, class_weights=weights)
        + 2 * focal_loss(logits, SMALL, gamma=3, class_weights=weights)
        + 3 * dice_loss(logits, SMALL)
        + 4 * lovasz_softmax(logits, SMALL)
    )
    assert recipe_loss(logits, SMALL, recipe).item() == pytest.approx(expected.item(), rel=1e-6)
    only_dice = LossRecipe(cross_entropy=0, dice=1)
    assert recipe_loss(logits, SMALL, only_dice).item() == pytest.approx(dice_loss(logits, SMALL).item())


def test_recipe_resizes_once_for_all_terms():
    logits, labels = torch.randn(1, 3, 2, 2, generator=torch.manual_seed(0)), torch.zeros(1, 5, 5).long()
    labels[0, :2] = 2
    grown = torch.nn.functional.interpolate(logits, (5, 5), mode="bilinear", align_corners=True)
    up = recipe_loss(logits, labels, LossRecipe(cross_entropy=0, dice=1))
    assert up.item() == pytest.approx(dice_loss(grown, labels).item(), rel=1e-6)
    down = recipe_loss(logits, labels, LossRecipe(cross_entropy=0, dice=1, upsample=False))
    assert down.item() == pytest.approx(dice_loss(logits, labels[:, ::4, ::4]).item(), rel=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"cross_entropy": 0}, "every term has weight 0"),
        ({"class_weights": (1, 2), "class_frequencies": (1, 2)}, "leave one out"),
        ({"class_frequencies": (0, 0)}, "all 0"),
        ({"outputs": {"semantic": 1}}, "always learns"),
        ({"focal_gamma": 0.5}, "greater than or equal to 1"),
    ],
)
def test_recipe_refuses_what_makes_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        LossRecipe(**settings)


def test_every_scale_their_merger_and_every_output_learns():
    first, second, aside = (small_logits().float() * factor for factor in (1.0, -0.5, 2.0))
    scales = [{"semantic": first, "edges": aside}, {"semantic": second, "edges": first}]
    recipe = LossRecipe(outputs={"edges": 0.25})
    options = {"merge": "max"}
    loss = supervised_loss(scales, SMALL, recipe, **options)

    def entropy(*logits):
        return sum(segmentation_cross_entropy(each, SMALL).item() for each in logits)

    main = entropy(first, second, torch.maximum(first, second))
    edges = entropy(aside, first, torch.maximum(aside, first))
    assert loss.item() == pytest.approx(main + 0.25 * edges, rel=1e-6)
    mean = supervised_loss(scales, SMALL, LossRecipe(), merge="mean")
    assert mean.item() == pytest.approx(entropy(first, second, (first + second) / 2), rel=1e-6)
    assert supervised_loss(scales[:1], SMALL, LossRecipe()).item() == pytest.approx(entropy(first), rel=1e-6)
    own = {"semantic": SMALL, "edges": torch.full_like(SMALL, 255)}
    assert supervised_loss(scales, own, recipe).item() == pytest.approx(main, rel=1e-6)


def test_a_missing_output_is_named():
    scales, recipe = [{"semantic": small_logits()}], LossRecipe(outputs={"edges": 1})
    with pytest.raises(UserError, match=r"'edges'; the model has semantic"):
        supervised_loss(scales, SMALL, recipe)
    scales[0]["edges"] = small_logits()
    with pytest.raises(UserError, match=r"'edges'; the data set has semantic"):
        supervised_loss(scales, {"semantic": SMALL}, recipe)

"""What a recipe may ask of the trainer: each option against arithmetic written out by hand."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.distributed_runs import gradients_of_batch, tiny_model
from support.training_runs import make_squares, squares_recipe
from torch import nn
from torch.nn import functional as F

from deeplab import DeepLab
from deeplab.backbones import build_backbone
from deeplab.config import ResizeRule, backbone_config
from deeplab.errors import UserError
from deeplab.layers.conv import AtrousConv2d
from deeplab.layers.norm import BatchNorm2d
from deeplab.model.checkpoint import load
from deeplab.system.processes import World
from deeplab.train import learner, run
from deeplab.train.ema import AveragedWeights
from deeplab.train.failures import explained
from deeplab.train.fake_quantising import fake_quantise, rounded_input, rounded_weight
from deeplab.train.keeper import SILENT
from deeplab.train.learner import announce_progress, make_learner, make_objective
from deeplab.train.loop import Objective, StepReport, batch_loss, train_steps, update
from deeplab.train.norms import measure_statistics, training_mode
from deeplab.train.optimiser import parameter_groups, set_learning_rate
from deeplab.train.recipe import Recipe, read_recipe
from deeplab.train.recipe.loss import LossRecipe
from deeplab.train.recipe.optimise import OptimiseRecipe
from deeplab.train.recompute import PARTS, recompute_activations
from deeplab.train.run import train

ALONE = World()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Five photos, the parts of which have different numbers of valid pixels."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (5, 3, 33, 33), dtype=torch.uint8)
    labels = torch.randint(0, 3, (5, 33, 33), dtype=torch.uint8)
    labels[0, :25] = 255
    labels[3] = 255
    return images, labels


@pytest.mark.parametrize("accumulate", [2, 5])
def test_accumulated_parts_are_the_big_batch(
    batch: tuple[torch.Tensor, torch.Tensor], accumulate: int
) -> None:
    """Batch norm is frozen: it sees a part only. One of five parts has no valid pixel."""
    frozen = {"freeze_norm": "statistics"}
    whole = gradients_of_batch(*batch, 1, **frozen)
    parts = gradients_of_batch(*batch, accumulate, **frozen)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    for name, value in whole["gradients"].items():
        torch.testing.assert_close(parts["gradients"][name], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rule", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("pyramid", [(1.0,), (0.5, 0.75), (1.25,), (0.75, 1.5)])
def test_parts_count_by_the_labels_that_the_loss_counts(
    batch: tuple[torch.Tensor, torch.Tensor], pyramid: tuple[float, ...], rule: ResizeRule
) -> None:
    """With shrunk labels (v1, v2) the shares are those of shrunk labels, at the size of the pyramid's finest."""
    images, labels = batch
    settled = tiny_model()
    config = settled.config.model_copy(update={"image_pyramid": pyramid, "resize": rule})
    model = DeepLab(config, settled.labels).double()
    objective = Objective(model, loss=LossRecipe(upsample=False))
    logits = objective.model.low_resolution_logits(images)["semantic"]
    assert objective.counted_labels(labels).shape[-2:] == logits.shape[-2:]


def test_frozen_statistics_and_frozen_norms(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    for freeze, learns in (("statistics", True), ("all", False)):
        model = tiny_model().float()
        norms = [module for module in model.modules() if isinstance(module, BatchNorm2d)]
        for norm in norms:
            norm.running_mean.uniform_(-1, 1)
        settings = OptimiseRecipe(steps=1, freeze_norm=freeze)
        learner = make_learner(model, settings, ALONE)
        objective = make_objective(learner, settings, LossRecipe(), ALONE)
        before = copy.deepcopy(model.state_dict())
        train_steps(objective, [batch], optimiser=learner.optimiser, schedule=lambda step: 0.1)
        after = model.state_dict()
        scales = {f"{name}.weight" for name, module in model.named_modules() if module in norms}
        statistics = {name for name in after if "running" in name}
        assert all(torch.equal(before[name], after[name]) for name in statistics)
        assert any(not torch.equal(before[name], after[name]) for name in scales) == learns
        # a validation puts the model into eval and train mode; freezing must outlive that
        model.train()
        training_mode(model, freeze)
        assert not any(norm.training for norm in norms) and model.training


def test_statistics_of_whole_photos_are_those_of_all_their_pixels() -> None:
    """The first norm by hand, over photos of two sizes."""
    model = tiny_model().float()
    rng = np.random.default_rng(0)
    sizes = ((33, 47), (20, 65), (33, 47))
    photos = [rng.integers(40 * i, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)]
    first = next(module for module in model.modules() if isinstance(module, BatchNorm2d))
    seen: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(
        lambda norm, inputs: seen.append(inputs[0].transpose(0, 1).flatten(1))
    )
    measure_statistics(model, photos)
    hook.remove()
    pixels = torch.cat(seen, 1)
    assert [part.shape[1] for part in seen] == [2 * 17 * 24, 10 * 33]
    torch.testing.assert_close(first.running_mean, pixels.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.running_var, pixels.var(1, correction=0), rtol=1e-4, atol=1e-4)


def test_measured_statistics_are_right_at_every_depth() -> None:
    """With those of a batch the model in eval mode computes what it computed in train mode, however wrong they were."""
    model = tiny_model().float()
    norms = [module for module in model.modules() if isinstance(module, BatchNorm2d)]
    for norm in norms:
        norm.running_var.mul_(3)
    photos = np.random.default_rng(0).integers(0, 256, (4, 65, 49, 3), dtype=np.uint8)
    images = torch.from_numpy(photos).permute(0, 3, 1, 2)
    measure_statistics(model, photos)
    assert not model.training and {norm.momentum for norm in norms} == {
        tiny_model().config.head_norm.momentum
    }
    with torch.no_grad():
        found = model(images)
        for norm in norms:
            norm.train()
        torch.testing.assert_close(found, model(images), rtol=1e-3, atol=1e-3)


def test_calibrated_norms_are_saved_and_frozen_ones_are_not_touched(squares: Path, tmp_path: Path) -> None:
    results = []
    for photos in (0, 3):
        folder = tmp_path / str(photos)
        train(squares_recipe(squares, steps=2, calibrate_norms=photos), folder, device="cpu")
        results.append(load(folder).state_dict())
    changed = {name for name, value in results[0].items() if not torch.equal(value, results[1][name])}
    changed = {name for name in changed if not name.endswith("num_batches_tracked")}
    assert changed == {name for name in results[0] if "running" in name}
    with pytest.raises(ValueError, match=r"calibrate_norms changes what freeze_norm: all keeps"):
        squares_recipe(squares, calibrate_norms=3, freeze_norm="all")


def test_average_follows_by_its_decay() -> None:
    """Four updates by hand: a = d a + (1 - d) w, d rising from 1 / 10 to the decay; counters are copied."""
    model = nn.BatchNorm2d(2)
    average = AveragedWeights(model, decay=0.25)
    expected = model.weight.detach().clone()
    for step, (decay, value) in enumerate(((1 / 10, 3.0), (2 / 11, -1.0), (3 / 12, 2.0), (0.25, 5.0))):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_var.fill_(value)
            model.num_batches_tracked.fill_(7)
        average.update(step)
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.model.weight, expected)
    torch.testing.assert_close(average.model.running_var, expected)
    assert average.model.num_batches_tracked == 7
    assert not average.model.training and not average.model.weight.requires_grad


def test_adamw_steps_by_hand() -> None:
    """The first update is the rate times the gradient's sign, with the decay beside it; biases learn twice as fast."""
    model = tiny_model().float()
    settings = OptimiseRecipe(steps=1, algorithm="adamw", weight_decay=0.1)
    optimiser = make_learner(model, settings, ALONE).optimiser
    set_learning_rate(optimiser, 0.01)
    conv = model.classifiers["semantic"].convs[0]
    before = {name: value.detach().clone() for name, value in conv.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -3.0)
    update(optimiser)
    torch.testing.assert_close(conv.weight.detach(), before["weight"] * (1 - 0.01 * 0.1) + 0.01)
    torch.testing.assert_close(conv.bias.detach(), before["bias"] + 0.02)


def test_adamw_goes_on_where_it_stopped(squares: Path, tmp_path: Path) -> None:
    recipe = squares_recipe(squares, steps=4, save_every=2, algorithm="adamw", learning_rate=1e-3)
    train(recipe, tmp_path / "unbroken", device="cpu")

    def stop(report: StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", device="cpu", watcher=SILENT._replace(on_step=stop))
    train(recipe, tmp_path / "broken", device="cpu", resume=True)
    ours, theirs = (load(tmp_path / name).state_dict() for name in ("broken", "unbroken"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_rounded_weights_and_inputs_are_those_of_int8() -> None:
    weight = torch.tensor([[[[-6.3, 3.14, 0.0, 0.06]]], [[[63.0, -0.4, 0.6, 1.0]]]], requires_grad=True)
    rounded = rounded_weight(weight)
    torch.testing.assert_close(
        rounded.detach().flatten(), torch.tensor([-6.3, 3.1, 0.0, 0.1, 63.0, 0.0, 1.0, 1.0])
    )
    rounded.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight)), "gradients pass"
    torch.testing.assert_close(rounded_weight(10 * weight).detach(), 10 * rounded.detach())
    x = torch.linspace(-1, 4, 1001)
    values = rounded_input(x)
    assert len(values.unique()) == 256 and 0.0 in values
    assert (values - x).abs().max() <= 5 / 255 / 2 + 1e-6
    # what never leaves one side has 0 at its end; nothing at all stays nothing
    assert rounded_input(x + 2).min() >= 1 - 5 / 255 and torch.equal(rounded_input(0 * x), 0 * x)


def test_fake_quantised_convolutions_round_in_training_alone() -> None:
    conv = AtrousConv2d(3, 4, kernel=3, bias=True)
    x, parameter = 6 * torch.rand(1, 3, 9, 9), conv.weight
    plain, names = conv(x).detach(), [name for name, _ in conv.named_parameters()]
    fake_quantise(conv)
    found = conv(x)
    expected = F.conv2d(rounded_input(x), rounded_weight(parameter), conv.bias, padding=1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain, atol=1e-4)
    found.sum().backward()
    assert conv.weight is parameter and parameter.grad.abs().min() > 0
    assert [name for name, _ in conv.named_parameters()] == names
    torch.testing.assert_close(conv.eval()(x).detach(), plain)
    with pytest.raises(RuntimeError):
        conv.train()(x[:, :2])
    assert conv.weight is parameter, "also where the convolution fails"


def test_a_fake_quantised_run_goes_on_where_it_stopped(squares: Path, tmp_path: Path) -> None:
    recipe = squares_recipe(squares, steps=4, save_every=2, fake_quantise_after=1)
    train(recipe, tmp_path / "unbroken", device="cpu")
    train(squares_recipe(squares, steps=4), tmp_path / "float", device="cpu")

    def stop(report: StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", device="cpu", watcher=SILENT._replace(on_step=stop))
    train(recipe, tmp_path / "broken", device="cpu", resume=True)
    ours, theirs, plain = (load(tmp_path / name).state_dict() for name in ("broken", "unbroken", "float"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not all(torch.equal(value, plain[name]) for name, value in ours.items())
    with pytest.raises(ValueError, match="which recompute cannot follow; leave one out"):
        squares_recipe(squares, steps=1, fake_quantise_after=0, recompute=True)


def test_an_auxiliary_head_learns_from_the_middle_and_is_gone(squares: Path, tmp_path: Path) -> None:
    """Its gradient reaches the backbone up to its end point and no further; what is saved does not know of it."""
    model = tiny_model().float()
    settings = OptimiseRecipe(steps=1)
    learner = make_learner(model, settings, ALONE, auxiliary=True)
    only = LossRecipe(cross_entropy=1e-30, auxiliary=0.4)
    objective = make_objective(learner, settings, only, ALONE)
    images = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
    labels = torch.randint(0, 3, (2, 65, 65), dtype=torch.uint8)
    loss = objective(images, labels, 0)
    # of random logits
    assert loss.item() == pytest.approx(0.4 * np.log(3), rel=0.25)
    loss.backward()
    largest = {
        name: float(parameter.grad.abs().max()) if parameter.grad is not None else 0.0
        for name, parameter in objective.named_parameters()
    }
    assert max(value for name, value in largest.items() if name.startswith("model.context")) < 1e-20
    backbone = [value for name, value in largest.items() if name.startswith("model.backbone")]
    assert backbone[0] > 1e-8 > backbone[-1]
    assert largest["auxiliary.layers.2.weight"] > 0

    values = squares_recipe(squares, steps=4, save_every=2).model_dump(mode="json")
    recipe = Recipe.model_validate(values | {"loss": {"auxiliary": 0.4}})
    train(recipe, tmp_path / "unbroken", device="cpu")

    def stop(report: StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", device="cpu", watcher=SILENT._replace(on_step=stop))
    train(recipe, tmp_path / "broken", device="cpu", resume=True)
    ours, theirs = (load(tmp_path / name).state_dict() for name in ("broken", "unbroken"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    with pytest.raises(ValueError, match=r"loss.auxiliary looks into the network"):
        Recipe.model_validate(recipe.model_dump() | {"optimise": {"steps": 1, "compile": True}})


def test_clipping_shortens_to_the_given_length() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    update(torch.optim.SGD([parameter], lr=1.0), clip_norm=1.0)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.6, -0.8]), rtol=1e-5, atol=1e-6)


BACKBONES = {
    "mobilenet_v2": {"width": 0.25},
    "mobilenet_v3_small": {},
    "resnet18": {},
    "xception41": {},
    "xception": {},
    "vgg16": {},
    "pnasnet": {"filters": 4},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_kind_of_backbone_has_parts_to_recompute(name: str) -> None:
    """Every backbone's blocks are known, so none silently keeps its activations."""
    backbone = build_backbone(backbone_config(name, **BACKBONES[name]))
    kinds = tuple(PARTS)
    found = [module for module in backbone.modules() if isinstance(module, kinds)]
    assert found or all(type(stage) is nn.Sequential for stage in backbone.stages)


def test_recomputing_changes_neither_gradients_nor_statistics(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    results = []
    for recompute in (False, True):
        model = tiny_model().train()
        forwards = []
        model.backbone.blocks[3].expand.register_forward_hook(lambda *_, seen=forwards: seen.append(1))
        if recompute:
            recompute_activations(model)
        batch_loss(model, *batch).backward()
        results.append((model, len(forwards)))
    (plain, once), (checkpointed, twice) = results
    assert (once, twice) == (1, 2)
    for (name, value), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, value.grad, msg=name)
    for name, value in plain.state_dict().items():
        assert torch.equal(checkpointed.state_dict()[name], value), name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_moves_weights_about_as_float32(
    batch: tuple[torch.Tensor, torch.Tensor], precision: str
) -> None:
    moved = {}
    for each in ("float32", precision):
        model = tiny_model().float()
        settings = OptimiseRecipe(steps=1, precision=each, freeze_norm="statistics", weight_decay=0)
        learner = make_learner(model, settings, ALONE)
        before = model.classifiers["semantic"].convs[0].weight.detach().clone()
        train_steps(
            make_objective(learner, settings, LossRecipe(), ALONE),
            [batch],
            optimiser=learner.optimiser,
            schedule=lambda step: 0.1,
            scaler=learner.scaler,
        )
        after = model.classifiers["semantic"].convs[0].weight.detach()
        assert after.dtype == torch.float32
        moved[each] = (after - before).flatten()
    assert moved[precision].norm() > 0
    assert torch.cosine_similarity(moved["float32"], moved[precision], dim=0) > 0.99
    assert moved[precision].norm() == pytest.approx(moved["float32"].norm().item(), rel=0.05)


def test_drop_path_is_told_the_share_of_training_done() -> None:
    config = tiny_model().config.model_copy(
        update={"backbone": backbone_config("pnasnet", filters=4, drop_path_keep=0.5)}
    )
    model = DeepLab(config.model_copy(update={"decoder": None, "output_stride": 8}))
    announce_progress(model, 25, 100)
    assert {module.progress for module in model.modules() if hasattr(module, "progress")} == {0.25}


def test_a_batch_that_breaks_training_is_named_by_its_files(tmp_path: Path) -> None:
    data = make_squares(tmp_path / "data", side=40, photos=6)
    recipe = squares_recipe(data, steps=40, batch_size=2, learning_rate=1e30)
    with pytest.raises(
        UserError, match=r"loss became (nan|inf) at step \d+.*the batch: .*JPEGImages/photo\d"
    ) as caught:
        train(recipe, tmp_path / "run", device="cpu")
    (saved,) = (tmp_path / "run").glob("batch-*.safetensors")
    assert str(saved) in str(caught.value)
    batch = load_file(saved)
    assert batch["images.0"].shape == (2, 3, 49, 49) and batch["labels.0"].dtype == torch.uint8


def test_what_no_memory_holds_is_refused_before_anything_starts(tmp_path: Path) -> None:
    data = make_squares(tmp_path / "data", side=40, photos=6)
    recipe = squares_recipe(data, batch_size=65_000)
    recipe = recipe.model_copy(
        update={"augment": recipe.augment.model_copy(update={"crop": (20_000, 20_000)})}
    )
    with pytest.raises(
        UserError, match=r"65000 photos of 20000 x 20000.*fix: a smaller model, optimise.batch_size"
    ):
        train(recipe, tmp_path / "run", device="cpu")
    wide = squares_recipe(data).model_dump(mode="json")
    wide["model"]["context"]["channels"] = 60_000
    with pytest.raises(UserError, match=r"GiB of memory, .*: [\d,]{13,} weights"):
        train(Recipe.model_validate(wide), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "optimise.batch_size=1000000000",
        "workers=100000",
        "augment.crop=[1000000,1000000]",
        "optimise.learning_rate=.inf",
        "optimise.learning_rate=.nan",
        "model.context.channels=10000000",
        "optimise.steps=1e99",
    ],
)
def test_settings_beyond_reason_are_refused_by_key(setting: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(setting.partition("=")[0])):
        read_recipe("animals", ["data.root=.", setting])


def test_data_without_a_label_end_in_a_sentence(tmp_path: Path) -> None:
    data = make_squares(tmp_path / "data", side=40, photos=6)
    for mask in (data / "SegmentationClass").iterdir():
        Image.fromarray(np.full((40, 40), 255, np.uint8)).save(mask)
    with pytest.raises(
        UserError,
        match=r"train: every mask holds the ignore label 255 alone: no pixel is labelled \(4 of 4, first: .*photo0",
    ):
        train(squares_recipe(data, steps=1, batch_size=2), tmp_path / "run", device="cpu")


def test_a_broken_photo_met_by_a_worker_is_told_without_a_traceback(tmp_path: Path) -> None:
    data = make_squares(tmp_path / "data", side=40, photos=6)
    # those of train: val is read before the first step
    for index in range(4):
        (data / f"JPEGImages/photo{index}.png").write_bytes(b"no photo")
    with pytest.raises(UserError) as caught:
        train(squares_recipe(data, steps=2, workers=1), tmp_path / "run", device="cpu")
    assert "JPEGImages/photo" in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("instructions", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_the_run_s_recipe_says_which_precision_auto_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instructions: bool, precision: str
) -> None:
    monkeypatch.setattr(learner, "has_bfloat16", lambda device: instructions)
    data = make_squares(tmp_path / "data", side=24, photos=4)
    train(squares_recipe(data, steps=1, batch_size=2, precision="auto"), tmp_path / "run", device="cpu")
    assert read_recipe(tmp_path / "run" / "recipe.yaml").optimise.precision == precision


def test_an_imitated_precision_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "has_bfloat16", lambda device: False)
    data, news = make_squares(tmp_path / "data", side=24, photos=4), []
    recipe = squares_recipe(data, steps=1, batch_size=2, precision="bfloat16")
    train(recipe, tmp_path / "run", device="cpu", watcher=SILENT._replace(on_news=news.append))
    assert [line for line in news if "imitates it" in line and "optimise.precision=auto" in line]


def test_no_batch_at_all_is_an_error() -> None:
    model = tiny_model()
    optimiser = torch.optim.SGD(parameter_groups(model, weight_decay=0, head_multiplier=1), lr=0.1)
    with pytest.raises(UserError, match="no batch to train on"):
        train_steps(Objective(model), [], optimiser=optimiser, schedule=lambda step: 0.1)


def test_memory_that_runs_out_is_answered_with_what_helps(tmp_path: Path) -> None:
    recipe = squares_recipe(tmp_path, accumulate=2)
    with pytest.raises(UserError, match=r"accumulate: 4.*recompute: true.*bfloat16"), explained(recipe):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="something else"), explained(recipe):
        raise RuntimeError("something else")


def test_short_forms_of_the_schedule() -> None:
    short = OptimiseRecipe(steps=10, power=2.0, warmup_steps=3)
    assert short == OptimiseRecipe(steps=10, schedule={"power": 2.0, "slow_start_steps": 3})
    with pytest.raises(ValueError, match=r"schedule.power is given twice"):
        OptimiseRecipe(steps=10, power=2.0, schedule={"power": 1.0})


def test_a_typo_names_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\ndata: {root: .}\nmodel: {backbone: {name: resnet18}}\n"
        "optimise: {steps: 1, freeze_norms: all, schedule: {polcy: step}}\n"
    )
    with pytest.raises(UserError) as caught:
        read_recipe(path)
    assert "freeze_norms = 'all': unknown key; did you mean 'freeze_norm'?" in str(caught.value)
    assert "polcy = 'step': unknown key; did you mean 'policy'?" in str(caught.value)


def test_compiled_network_is_the_network(
    batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which network is called, not the compiler: a compilation takes minutes on a small machine."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    model = tiny_model().eval()
    objective = Objective(model, compiled=True)
    assert compiled == [model.pyramid_logits]
    torch.testing.assert_close(objective(*batch, 0), batch_loss(model, *batch))
    assert np.isfinite(objective(*batch, 0).item())

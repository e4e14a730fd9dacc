"""Run golden vectors of the reference through this package: `python tests/golden.py DIR`.

One row per case: the largest |difference| of logits and intermediates in units of the golden logits'
(intermediate's) standard deviation, labels equal where the top-2 gap is above 1e-4, and pass / fail / not
built yet. Exits 1 if a case that is built fails. Everything about a case comes from its file; weights are
recomputed from the variables' names.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from deeplab.importers.tensorflow_names import tensorflow_variables, to_torch_layout
from deeplab.inference import predict
from deeplab.model import DeepLab
from deeplab.reference import NotBuilt, config_from_options

TOLERANCE = 2e-4  # of the standard deviation: about 5 times the measured noise of the vectors themselves
TIGHT_TOLERANCE = 5e-5  # the MobileNetV3 cases, whose 1/6 against 0.16667 would pass the other
PROBABILITY_TOLERANCE = 1e-4
GAP = 1e-4


class Row(NamedTuple):
    """One case's result; `difference` in standard deviations, `labels` the share equal."""

    case: str
    difference: float
    labels: float
    verdict: str
    detail: str = ""


def recipe_value(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """The vectors' weights, recomputed from a variable's name and shape (their README, section 1)."""
    random = np.random.RandomState(zlib.crc32(name.encode("utf-8")))
    leaf = name.rsplit("/", 1)[-1]
    if leaf in ("weights", "pointwise_weights"):
        fan_in = int(np.prod(shape[:-1]))
        return random.standard_normal(shape).astype(np.float32) * np.float32(gain * np.sqrt(2.0 / fan_in))
    if leaf == "depthwise_weights":
        factor = np.float32(gain * np.sqrt(2.0 / (shape[0] * shape[1])))
        return random.standard_normal(shape).astype(np.float32) * factor
    if leaf in ("gamma", "moving_variance"):
        return random.uniform(0.8, 1.2, shape).astype(np.float32)
    return (0.1 * random.standard_normal(shape)).astype(np.float32)


def build(options: dict, variables: list) -> DeepLab:
    """The model of a case with the recipe's weights; its variables must be exactly the reference's."""
    model = DeepLab(config_from_options(options)).eval()
    ours = tensorflow_variables(model)
    expected = {name: tuple(shape) for name, shape in variables}
    found = {variable.name: variable.shape for variable in ours.values()}
    if expected != found:
        difference = sorted(set(expected.items()) ^ set(found.items()))[:6]
        raise AssertionError(f"variables differ from the reference's: {difference}")
    state = {
        key: to_torch_layout(recipe_value(name, shape, options["gain"]), name)
        for key, (name, shape) in ours.items()
    }
    counters = {key: value for key, value in model.state_dict().items() if key not in state}
    model.load_state_dict(state | counters)
    return model


def record_intermediates(model: DeepLab) -> dict[str, torch.Tensor]:
    """Fill a dict with backbone, low-level, context and decoder outputs of the model's *first* pass."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        seen.setdefault(name, value.detach())

    def after_backbone(module, arguments, result):
        keep("ep_backbone", result[0])
        for stride, value in result[1].items():
            keep(f"ep_low_level_os{stride}", value)

    model.backbone.register_forward_hook(after_backbone)
    model.context.register_forward_hook(lambda m, a, r: keep("ep_aspp", r))
    pooling = getattr(model.context, "image_pooling", None)
    if pooling is not None:
        # of a gate by relu6(x + 3) * 0.16667 the vectors hold the part before the factor
        factor = 1 / 0.16667 if model.config.context.gate == "qsigmoid" else 1.0
        pooling.project.register_forward_hook(lambda m, a, r: keep("ep_image_pooling", r * factor))
    if model.decoder:
        model.decoder.register_forward_hook(lambda m, a, r: keep("ep_decoder", r))
    return seen


def logits_by_key(model: DeepLab, image: torch.Tensor, options: dict) -> dict[str, torch.Tensor]:
    """Merged logits under the vectors' keys: logits, logits_NAME, logits_0.75, logits_call_0."""
    found: dict[str, torch.Tensor] = {}
    scales = options.get("eval_scales")
    if scales:
        found |= _evaluation_calls(model, image, scales, flip=options["add_flipped_images"])
        found["logits"] = found["logits_call_0"]
        return found
    pyramid = options.get("image_pyramid") or ()
    for scale, logits in zip(pyramid, model.pyramid_logits(image) if len(pyramid) > 1 else (), strict=True):
        found[f"logits_{scale:.2f}"] = logits["semantic"]
    for name, value in model.low_resolution_logits(image).items():
        found["logits" if name == "semantic" else f"logits_{name}"] = value
    return found


def _evaluation_calls(
    model: DeepLab, image: torch.Tensor, scales: list, *, flip: bool
) -> dict[str, torch.Tensor]:
    calls: dict[str, torch.Tensor] = {}
    for scale in scales:
        single = model.config.model_copy(update={"image_pyramid": (scale,)})
        for mirrored in (False, True) if flip else (False,):
            original, model.config = model.config, single
            logits = model.low_resolution_logits(image.flip(-1) if mirrored else image)["semantic"]
            model.config = original
            calls[f"logits_call_{len(calls)}"] = logits
    return calls


def sampled(value: torch.Tensor, key: str, meta: dict) -> np.ndarray:
    """[1, C, H, W] -> the vectors' [H, W, C], sliced as the file says it was."""
    array = value[0].permute(1, 2, 0).numpy()
    slices = meta.get("sampled", {}).get(key, {}).get("slice")
    return eval(f"array{slices}", {"array": array}) if slices else array


def run_case(path: Path) -> Row:
    """One model case `path`."""
    data = np.load(path)
    options, meta = json.loads(str(data["options"])), json.loads(str(data["meta"]))
    try:
        model = build(options, json.loads(str(data["variables"])))
    except NotBuilt as missing:
        return Row(path.stem, float("nan"), float("nan"), "not built yet", str(missing))
    image = torch.from_numpy(data["input"]).permute(2, 0, 1)[None].float()
    seen = record_intermediates(model)
    with torch.inference_mode():
        seen |= logits_by_key(model, image, options)
    predictions = predict(
        model,
        image,
        scales=tuple(options.get("eval_scales") or (1.0,)),
        flip=options["add_flipped_images"],
        upsample_logits=options["prediction_with_upsampled_logits"],
        reference=True,
    )
    return _judge(path.stem, data, seen, predictions, meta)


def _judge(case: str, data, seen: dict[str, torch.Tensor], predictions: dict, meta: dict) -> Row:
    tolerance = TIGHT_TOLERANCE if case.startswith("b_mnv3") else TOLERANCE
    worst, detail, equal, failed = 0.0, "", [], []
    for key in (key for key in data.files if key.startswith(("logits", "ep_"))):
        if key not in seen:
            failed.append(f"{key} was not produced")
            continue
        ours, golden = sampled(seen[key], key, meta), data[key]
        if ours.shape != golden.shape:
            failed.append(f"{key} has shape {ours.shape}, not {golden.shape}")
            continue
        difference = float(np.abs(ours - golden).max() / golden.std())
        if difference > worst or np.isnan(difference):
            worst, detail = difference, key
    for name, prediction in predictions.items():
        suffix = "" if name == "semantic" else f"_{name}"
        top = prediction.probabilities[0].topk(min(2, prediction.probabilities.shape[1]), dim=0).values
        sure = (top[0] - top[-1] > GAP).numpy()
        same = prediction.labels[0].numpy() == data[f"labels{suffix}"]
        equal.append(float(same.mean()))
        if not same[sure].all():
            failed.append(f"labels{suffix} differ on {int((~same[sure]).sum())} sure pixels")
        key = f"prob{suffix}"
        probability = float(np.abs(sampled(prediction.probabilities, key, meta) - data[key]).max())
        if not probability <= PROBABILITY_TOLERANCE:
            failed.append(f"{key} differs by {probability:.1e}")
    if not worst <= tolerance:
        failed.append(f"{detail} differs by {worst:.1e} standard deviations")
    return Row(case, worst, min(equal), "fail" if failed else "pass", "; ".join(failed) or detail)


def run_folder(folder: Path) -> Iterator[Row]:
    """Every model case in `folder`, one by one: files that hold options, variables and logits."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as data:
            is_model = {"options", "variables", "logits", "labels"} <= set(data.files)
        if is_model:
            yield run_case(path)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python tests/golden.py DIR   (a folder of golden vectors)", file=sys.stderr)
        return 2
    print(f"{'case':44} {'max |d| / std':>13} {'labels equal':>12}  verdict")
    rows = []
    for row in run_folder(Path(arguments[0])):
        print(
            f"{row.case:44} {row.difference:13.1e} {row.labels:12.6f}  {row.verdict}: {row.detail}",
            flush=True,
        )
        rows.append(row)
    counts = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in ("pass", "fail", "not built yet")
    }
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["fail"] or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

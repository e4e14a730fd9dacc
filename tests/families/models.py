"""Golden families a to g: whole models, with intermediates, pyramids, several scales and outputs.

Differences are in standard deviations of the golden array.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deeplab.model.network import DeepLab
from deeplab.prediction.reference import predict_as_reference
from families.row import Judge, Row, said_as_json
from families.weights import build

TOLERANCE = 2e-4  # of the standard deviation: about 5 times the measured noise of the vectors themselves
TIGHT_TOLERANCE = 5e-5  # the MobileNetV3 cases, whose 1/6 against 0.16667 would pass the other
PROBABILITY_TOLERANCE = 1e-4
GAP = 1e-4


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
    if len(pyramid) > 1:
        for scale, logits in zip(pyramid, model.pyramid_logits(image), strict=True):
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


def run_model(path: Path) -> Row:
    """Logits, intermediates, probabilities and labels of one model."""
    data = np.load(path)
    options, meta = said_as_json(data, "options"), said_as_json(data, "meta")
    model = build(options, said_as_json(data, "variables"))
    image = torch.from_numpy(data["input"]).permute(2, 0, 1)[None].float()
    seen = record_intermediates(model)
    with torch.inference_mode():
        seen |= logits_by_key(model, image, options)
    predictions = predict_as_reference(
        model,
        image,
        scales=tuple(options.get("eval_scales") or (1.0,)),
        flip=options["add_flipped_images"],
        upsample_logits=options["prediction_with_upsampled_logits"],
        averaged=bool(options.get("eval_scales")),
    )
    judge = Judge(path.stem)
    _judge_arrays(judge, data, seen, meta)
    _judge_predictions(judge, data, predictions, meta)
    return judge.row()


def _judge_arrays(judge: Judge, data, seen: dict[str, torch.Tensor], meta: dict) -> None:
    tolerance = TIGHT_TOLERANCE if judge.case.startswith("b_mnv3") else TOLERANCE
    for key in (key for key in data.files if key.startswith(("logits", "ep_"))):
        if key not in seen:
            judge.failed.append(f"{key} was not produced")
            continue
        deviation = data[key].std()
        judge.close(key, sampled(seen[key], key, meta) / deviation, data[key] / deviation, absolute=tolerance)


def _judge_predictions(judge: Judge, data, predictions: dict, meta: dict) -> None:
    for name, prediction in predictions.items():
        suffix = "" if name == "semantic" else f"_{name}"
        top = prediction.probabilities[0].topk(min(2, prediction.probabilities.shape[1]), dim=0).values
        judge.sure_labels(
            f"labels{suffix}",
            prediction.labels[0].numpy(),
            data[f"labels{suffix}"],
            sure=(top[0] - top[-1] > GAP).numpy(),
        )
        key = f"prob{suffix}"
        judge.bounded(
            key, sampled(prediction.probabilities, key, meta), data[key], allowed=PROBABILITY_TOLERANCE
        )

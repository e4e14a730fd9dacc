"""The part of a training recipe that says how weights are moved, how often, and at what cost."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deeplab.config import Fraction, NonNegative, Positive, Share, Strict, Width
from deeplab.train.norms import FreezeNorm
from deeplab.train.recipe.schedule import ScheduleRecipe

SHORT_FORMS = {"power": "power", "warmup_steps": "slow_start_steps"}
Count = Annotated[int, Field(ge=0, le=1 << 30)]


class OptimiseRecipe(Strict):
    """SGD with momentum (v2 section 4.1, v3 section 4.1), or AdamW.

    algorithm: "sgd"; or "adamw" (arXiv 1711.05101), whose first beta is `momentum`, and which wants a rate of about
        1e-3 or less and a decay of about 1e-2.
    batch_size: photos an update, over all processes and parts.
    accumulate: parts in which each process computes its share of an update, one after the other.
    head_multiplier: factor on the learning rate of the last layers: all but the backbone, or with
        `last_layers_contain_logits_only` the classifiers. bias_multiplier: that of convolution biases, on top.
    schedule: how the learning rate goes from there; `power: P` and `warmup_steps: N` beside it are short for
        schedule.power and schedule.slow_start_steps.
    clip_norm: gradients are shortened to this length.
    precision: of the forward and backward pass; weights and updates are float32. "auto" is bfloat16 where the
        device has instructions for it, else float32; the run's recipe.yaml says which.
    freeze_norm: batch norms' running statistics are used and kept ("statistics"), and their scale and
        shift too ("all").
    calibrate_norms: at the end the running statistics are taken anew, of this many whole training photos, see
        `deeplab.train.norms`; 0 keeps those of the crops.
    sync_norm: batch norms see the batches of all processes.
    average: decay of a moving average of the weights, such as 0.998, reached by a ramp (`deeplab.train.ema`); then
        that is what is validated and saved.
    recompute: forget activations inside the backbone's blocks and compute them again: less memory.
    compile: run the network through torch.compile.
    channels_last: memory layout of images and weights.
    fake_quantise_after: steps until convolutions compute with what int8 leaves of them
        (`deeplab.train.fake_quantising`), for models that are then exported in int8; 0 is from the start, None never.
    validate_every, save_every, samples_every: steps between validations, checkpoints, and pictures of
        predictions; 0 is never (the end is always validated and saved).
    """

    algorithm: Literal["sgd", "adamw"] = "sgd"
    steps: Positive
    batch_size: Width = 16
    accumulate: Width = 1
    learning_rate: NonNegative = 0.007
    head_multiplier: NonNegative = 1.0
    last_layers_contain_logits_only: bool = False
    bias_multiplier: NonNegative = 2.0
    schedule: ScheduleRecipe = ScheduleRecipe()
    momentum: Share = 0.9
    weight_decay: NonNegative = 4e-5
    clip_norm: Fraction | None = None
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    freeze_norm: FreezeNorm = "none"
    calibrate_norms: Count = 0
    sync_norm: bool = True
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    recompute: bool = False
    compile: bool = False
    channels_last: bool = True
    fake_quantise_after: Count | None = None
    validate_every: Count = 0
    save_every: Count = 200
    samples_every: Count = 0

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not SHORT_FORMS.keys() & values.keys():
            return values
        kept = {key: value for key, value in values.items() if key not in SHORT_FORMS}
        schedule = kept.get("schedule", {})
        if not isinstance(schedule, dict):
            return values
        given = {SHORT_FORMS[key]: values[key] for key in values.keys() & SHORT_FORMS.keys()}
        twice = sorted(given.keys() & schedule.keys())
        if twice:
            raise ValueError(f"schedule.{twice[0]} is given twice, once by its short form; leave one out")
        return {**kept, "schedule": {**schedule, **given}}

    @model_validator(mode="after")
    def _convolutions_can_be_rounded(self) -> Self:
        if self.fake_quantise_after is not None and (self.compile or self.recompute):
            other = "compile" if self.compile else "recompute"
            raise ValueError(
                f"fake_quantise_after changes convolutions between steps, which {other} cannot follow; "
                "leave one out"
            )
        return self

    @model_validator(mode="after")
    def _norms_are_free(self) -> Self:
        if self.calibrate_norms and self.freeze_norm != "none":
            raise ValueError(
                f"calibrate_norms changes what freeze_norm: {self.freeze_norm} keeps; leave one out"
            )
        return self

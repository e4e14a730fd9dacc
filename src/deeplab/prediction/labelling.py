"""How a photo is labelled, said once; what does not go together is refused here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deeplab.crf import CRFConfig
from deeplab.errors import UserError, refuse_outside
from deeplab.imaging.photos import PhotoLike
from deeplab.prediction.runtimes import ENGINES
from deeplab.prediction.windows import Seams, Window

Precision = Literal["float32", "bfloat16", "int8"]
# each is a pass over the photo, of which 8 makes 64 times the pixels
MOST_SCALES, LARGEST_SCALE = 16, 8
AUTO, TORCH, INT8 = "auto", "torch", "int8"


@dataclass(frozen=True)
class Labelling:
    """From a photo to labels: passes, windows, the CRF, and what computes the network.

    Attributes:
        scales: the photo is run at each of these sizes and probabilities averaged; a model with an image pyramid takes
            the photo at each size through all of that.
        flip: also run each size mirrored left to right.
        window: label the photo in windows of this size, see `deeplab.prediction.sliding`; None takes it whole.
        seams: of windows. "blend": each is labelled as a photo of its own, and probabilities are averaged where they
            overlap; "shared": means over the whole photo are gathered first and given to every window, of which half
            the overlap does not count; "exact": the same at the distance that the network sees, with the labels of
            the whole photo.
        crf: snap labels to the photo's edges by the fully connected CRF with these parameters, on the CPU.
        output_stride: 4, 8, 16 or 32; None is the model's own.
        engine: "torch", "openvino" or "onnxruntime" compute the network (extras `openvino`, `onnx`), or "auto", the
            fastest that is installed; see `deeplab.prediction.runtimes`.
        precision: "float32", "bfloat16": up to twice as fast where the processor has instructions for it, labels
            change at some edges; "int8": faster again, on processors (with engine "openvino" by extra `int8`).
        device: "auto" takes a CUDA GPU if there is one, and "cpu" for what runs on processors alone: int8, and engines
            other than "torch"; else as torch names them.
        calibration: for int8, some dozens of photos like those that the model will see.
        threshold: of models of two classes: a pixel is of the second where its probability (of a model with a sigmoid,
            that) is above this; None is the model's own, which is 0.5 unless its config says otherwise. Several passes
            and the CRF see logits that are shifted so.

    Raises:
        UserError: a scale that is not positive, or beyond reason, a threshold that is not between 0 and 1, no such
            precision, a CRF together with windows, seams that several passes or another engine cannot have, another
            device for what runs on processors alone, or int8 without photos to calibrate with, or such photos without
            int8.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: Window | None = None
    seams: Seams = "blend"
    crf: CRFConfig | None = None
    output_stride: int | None = None
    engine: str = TORCH
    precision: Precision = "float32"
    device: str = AUTO
    calibration: tuple[PhotoLike, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "calibration", tuple(self.calibration))
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales {self.scales}: give positive factors, like 0.75 1 1.25")
        refuse_outside(1, MOST_SCALES, number_of_scales=len(self.scales))
        for scale in self.scales:
            refuse_outside(1 / LARGEST_SCALE, LARGEST_SCALE, a_scale=scale)
        if self.precision not in get_args(Precision):
            raise UserError(f"precision {self.precision!r}; allowed are {', '.join(get_args(Precision))}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(f"threshold {self.threshold:g}", allowed="numbers between 0 and 1")
        if self.crf is not None and self.window is not None:
            raise UserError(
                "a CRF and windows exclude each other: the CRF needs the probabilities of the whole "
                "photo, and windows are there not to hold them",
                fix="leave out the window, or the CRF",
            )
        if self.seams != "blend" and not self.one_pass:
            raise UserError(
                f"seams {self.seams} are those of one pass over the photo at its own size",
                fix="leave out scales and flip, or --seams blend",
            )
        if self.seams != "blend" and self.engine not in (AUTO, TORCH):
            raise UserError(
                f"engine {self.engine} cannot show a network what lies beyond a window",
                fix=f"engine {TORCH}, or --seams blend",
            )
        self._refuse_unless_on_processors()
        if self.calibration and self.precision != INT8:
            raise UserError(
                f"precision {self.precision} takes no calibration photos",
                fix=f"precision {INT8}, or leave them out",
            )
        if self.precision == INT8 and not self.calibration:
            raise UserError(
                "int8 takes the ranges of values from photos, and there are none",
                fix=(
                    "--calibration FOLDER (in Python: calibration=...), some thirty photos like those that "
                    "the model will see"
                ),
            )

    def _refuse_unless_on_processors(self) -> None:
        """Here, before a model is opened, and where it will be opened on another machine."""
        if self.precision == INT8:
            asked, fix = f"precision {INT8}", "device cpu, or another precision"
        elif self.engine in ENGINES:
            asked, fix = f"engine {self.engine}", f"device cpu, or engine {TORCH}"
        else:
            return
        if self.device == AUTO:
            object.__setattr__(self, "device", "cpu")
        elif self.device.partition(":")[0] != "cpu":
            raise UserError(f"{asked} runs on processors, and the device is {self.device}", fix=fix)

    @property
    def one_pass(self) -> bool:
        """Whether the network is given the photo at its own size only, and not mirrored."""
        return self.scales == (1.0,) and not self.flip


AS_IT_IS = Labelling()

"""What is compared at inference: a peer's network, its classes, and the photo's size; and the variants of each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from deeplab.system.processor import has_bfloat16
from harness.process import Variant

VARIANTS = "harness.inference_variants"
PLAIN = "peer, eager"
INT8_PROGRAM = "labels-int8.xml"
# loss and gradients of a training step in float64
JUDGE = "float64.npy"
CURVE_NETWORK = "smp-v3plus-mobilenet_v2"
TITLES = {
    "smp-v3plus-mobilenet_v2": "v3+ MobileNetV2 (segmentation_models.pytorch)",
    "smp-v3plus-resnet50": "v3+ ResNet-50 (segmentation_models.pytorch)",
    "torchvision-v3-resnet50": "v3 ResNet-50 (torchvision)",
    "torchvision-v3-mobilenet_v3_large": "v3 MobileNetV3 (torchvision)",
    "transformers-mobilenet_v2": "v3 MobileNetV2 (transformers)",
}


class Case(NamedTuple):
    """A network of a peer at one size of photos."""

    network: str
    height: int
    width: int
    classes: int = 21
    batch: int = 1
    threads: int | None = None

    @property
    def name(self) -> str:
        """Short and unique."""
        extra = f"-{self.classes}classes" * (self.classes != 21) + f"-batch{self.batch}" * (self.batch != 1)
        extra += f"-threads{self.threads}" * (self.threads is not None)
        return f"{self.network}-{self.height}x{self.width}{extra}"

    @property
    def title(self) -> str:
        """For tables."""
        extra = f", {self.classes} classes" * (self.classes != 21) + f", batch {self.batch}" * (
            self.batch != 1
        )
        return f"{TITLES[self.network]}, {self.height}x{self.width}{extra}"


INT8 = (
    Case("smp-v3plus-mobilenet_v2", 512, 512),
    Case("smp-v3plus-resnet50", 512, 512),
)
# long ones, without the runtime that came second on them
LARGE = (
    Case("smp-v3plus-mobilenet_v2", 1024, 2048),
    Case("smp-v3plus-resnet50", 1024, 2048),
)
CASES = (
    *INT8,
    *LARGE,
    Case("torchvision-v3-resnet50", 513, 513),
    Case("torchvision-v3-mobilenet_v3_large", 513, 513),
    Case("transformers-mobilenet_v2", 513, 513),
)

# image side 256 to 4096 (the peer takes no other than multiples of 16), classes 2 to 150, batch 1 to 16, threads 1 to 2
CURVES = (
    *(Case(CURVE_NETWORK, side, side) for side in (256, 768, 1024, 2048, 4096)),
    *(Case(CURVE_NETWORK, 512, 512, classes=classes) for classes in (2, 7, 60, 150)),
    *(Case(CURVE_NETWORK, 512, 512, batch=batch) for batch in (2, 4, 8, 16)),
    *(Case(CURVE_NETWORK, 512, 512, threads=threads) for threads in (1, 2)),
)


def variants(case: Case, folder: Path, *, peer_python: str, python: str) -> list[Variant]:
    """All that compute the same labels; the first is the reference. bfloat16 only where the processor has it.

    Args:
        folder: as prepared for the case, see `preparation`.
        peer_python, python: interpreters of the peers' environment and of ours.
    """
    common = {"folder": str(folder), "case": case._asdict()}

    def peer(name: str, function: str, **arguments: str) -> Variant:
        return Variant(name, VARIANTS, function, common | arguments, peer_python)

    def ours(name: str, **arguments: str) -> Variant:
        return Variant(name, VARIANTS, "ours", common | arguments, python)

    chosen = [
        peer(PLAIN, "peer", precision="float32"),
        peer("OpenVINO", "openvino", precision="f32"),
        ours("ours, torch", engine="torch", precision="float32"),
        ours("ours, OpenVINO", engine="openvino", precision="float32"),
    ]
    if case in CURVES:
        return chosen
    if case not in LARGE:
        chosen += [
            peer("ONNX Runtime", "onnxruntime"),
            ours("ours, ONNX Runtime", engine="onnxruntime", precision="float32"),
        ]
    if case in INT8:
        chosen += [
            peer("OpenVINO, int8", "openvino", precision="f32", program=INT8_PROGRAM),
            ours("ours, torch, int8", engine="torch", precision="int8"),
            ours("ours, OpenVINO, int8", engine="openvino", precision="int8"),
        ]
    if has_bfloat16("cpu"):
        chosen += [
            peer("OpenVINO, bf16", "openvino", precision="bf16"),
            ours("ours, torch, bf16", engine="torch", precision="bfloat16"),
            ours("ours, OpenVINO, bf16", engine="openvino", precision="bfloat16"),
        ]
    return chosen

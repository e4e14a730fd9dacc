"""What is exported: one module from a photo's bytes to the output asked for, normalising inside."""

from __future__ import annotations

import torch
from torch import nn

from deeplab.model.network import DeepLab
from deeplab.native.upsample_argmax import label_dtype
from deeplab.prediction.artefacts.description import Output

# of two photos, with sides that no rule mistakes for fixed ones, and that the gate does not use
EXAMPLE = (2, 97, 129)
MAIN = "semantic"


class PhotoProgram(nn.Module):
    """uint8 [N, H, W, channels] to a tuple of one tensor for each of the model's outputs, see `Result`.

    Args:
        model: in eval mode and in float arithmetic; kept.
        output: what comes out.
        label_type: of labels; int32 also where uint8 cannot hold them.
    """

    def __init__(self, model: DeepLab, output: Output, *, label_type: torch.dtype = torch.uint8) -> None:
        super().__init__()
        self.model, self.output = model, output
        fits = all(label_dtype(classes) == torch.uint8 for classes in model.config.outputs.values())
        self.label_type = label_type if fits else torch.int32

    @property
    def names(self) -> tuple[str, ...]:
        """Of what comes out, the main output first."""
        kind = self.output.replace("-", "_")
        return tuple(kind if name == MAIN else f"{name}_{kind}" for name in self.model.config.outputs)

    def forward(self, photo: torch.Tensor) -> tuple[torch.Tensor, ...]:
        size = (photo.shape[1], photo.shape[2])
        # TensorRT takes bytes only where nothing but a cast comes first
        pixels = photo.to(torch.float32).permute(0, 3, 1, 2)
        logits = self.model.low_resolution_logits(pixels)
        return tuple(self._result(logits[name], size) for name in self.model.config.outputs)

    def _result(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if self.output == "small-logits":
            return logits
        logits = self.model.resize_logits(logits, size)
        if self.output == "logits":
            return logits
        if self.output == "probabilities":
            return logits.softmax(1)
        return logits.argmax(1).to(self.label_type)


def traced(program: PhotoProgram, size: tuple[int, int] | None = None) -> torch.export.ExportedProgram:
    """The program for any number and size of photos, or for one photo of a size; it names no file of this machine."""
    example = torch.zeros(
        (*(EXAMPLE if size is None else (1, *size)), program.model.config.backbone.in_channels),
        dtype=torch.uint8,
    )
    dynamic = torch.export.Dim.DYNAMIC
    shapes = None if size is not None else ({0: dynamic, 1: dynamic, 2: dynamic},)
    with torch.no_grad():
        exported = torch.export.export(program.eval(), (example,), dynamic_shapes=shapes)
    for node in exported.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)
    return exported

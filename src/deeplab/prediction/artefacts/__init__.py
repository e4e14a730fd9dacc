"""Exported models are models: read by their file or folder, run by their own runtime, asked as any other.

What one cannot do follows from what it gives: labels are no probabilities, and several passes, windows and the CRF
average logits or probabilities. `deeplab.export` writes these files and proves them through these readers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.model.checkpoint import EMBEDDED, HUB, load, version_of
from deeplab.model.network import DeepLab, Logits
from deeplab.prediction.artefacts.description import Artefact, Description
from deeplab.prediction.artefacts.executorch import open_executorch
from deeplab.prediction.artefacts.litert import open_litert
from deeplab.prediction.artefacts.onnx import open_onnx
from deeplab.prediction.artefacts.openvino import open_openvino
from deeplab.prediction.artefacts.torch_export import open_torch_export
from deeplab.prediction.labelling import AS_IT_IS, AUTO, TORCH, Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.runtimes.program import RuntimeNetwork, as_photos
from deeplab.prediction.strips import Labelled
from deeplab.system.memory import ran_out_of_memory
from deeplab.system.reading import foreign, parse_json, read_text, sha256_of, shown

# beside the file, with the same description and the file's name
REPORT_NAME = "export.json"
READERS: dict[str, Callable[[Path], Artefact]] = {
    ".onnx": open_onnx,
    ".xml": open_openvino,
    ".pt2": open_torch_export,
    ".tflite": open_litert,
    ".pte": open_executorch,
}
# Core ML's, which only Apple's systems run
UNREAD = ".mlpackage"
# probabilities below round to no other label, and have a logarithm
LEAST = 1e-30


def open_predictor(
    model: str | os.PathLike[str], how: Labelling = AS_IT_IS, *, device: str | None = None
) -> Predictor:
    """What labels photos by a model's name, folder or file, exported ones included.

    Args:
        model: in the user's words.
        how: as a user asks for it.
        device: where PyTorch computes, in place of the device that `how` names, which is still looked at.

    Raises:
        UserError: no such model, or what it cannot do; see `deeplab.model.checkpoint.load`, `Predictor.of`.
    """
    path = artefact_path(model)
    if path is not None:
        return predictor_of(open_artefact(path), path, how)
    return Predictor.of(load(model), how if device is None else replace(how, device=device))


def artefact_path(model: str | os.PathLike[str]) -> Path | None:
    """The file of an exported model that `model` names, itself or by its folder; None where it names another."""
    if isinstance(model, str) and (model in EMBEDDED or model.startswith(HUB)):
        return None
    path = Path(model)
    if (path.suffix in READERS and path.is_file()) or (path.suffix == UNREAD and path.is_dir()):
        return path
    report = path / REPORT_NAME
    if not report.is_file():
        return None
    with foreign(report, "names no file of an exported model", fix="give the file itself"):
        name = parse_json(read_text(report))["file"]
        if Path(name).name != name:
            raise UserError(f"names {shown(name)}, which is not beside it", fix="give the file itself")
        return path / name


def model_version(model: str | os.PathLike[str]) -> str:
    """See `deeplab.model.checkpoint.version_of`, also of exported models; raises as `open_predictor`."""
    path = artefact_path(model)
    return version_of(load(model)) if path is None else version_of_file(path)


def version_of_file(path: Path) -> str:
    """Hexadecimal digits that change with the bytes of an exported model."""
    digest = hashlib.blake2b(digest_size=6)
    # OpenVINO's weights lie beside its graph
    for part in (path, path.with_suffix(".bin")):
        if part.is_file():
            digest.update(sha256_of(part).encode())
    return digest.hexdigest()


def open_artefact(path: Path) -> Artefact:
    """An exported model in its own runtime, on as many threads as torch has.

    The runtime has a process of its own, within limits of time and memory, and answers one thread at a time.

    Raises:
        UserError: the runtime is not installed (the extra is named), the file is not readable or not one of ours, or
            the report beside it is of other bytes.
    """
    if path.suffix == UNREAD:
        raise UserError(
            "Core ML's packages run on Apple's systems alone, as example.py beside it does",
            fix="give the model that it was exported from, or export it to another target",
            file=path,
        )
    if path.suffix not in READERS:
        raise UserError(f"no runtime here reads {path.suffix}", allowed=", ".join(READERS), file=path)
    if not path.is_file():
        raise UserError("no such file", fix="export the model again", file=path)
    _refuse_other_bytes(path)
    return READERS[path.suffix](path)


def _refuse_other_bytes(path: Path) -> None:
    """See that a file is the one that the report beside it, if there is one, was written for."""
    report = path.parent / REPORT_NAME
    if not report.is_file():
        return
    with foreign(report, "says nothing of an exported model", fix="move it away, or export again"):
        said = parse_json(read_text(report))
        # another model's, which lay there before
        digests = said["sha256"].items() if said["file"] == path.name else ()
        parts = [(path.with_name(Path(name).name), digest) for name, digest in digests]
    for part, digest in parts:
        with foreign(part, fix="export the model again"):
            if sha256_of(part) != digest:
                raise UserError(f"is not the file that {REPORT_NAME} beside it was written for")


def predictor_of(artefact: Artefact, path: Path, how: Labelling) -> Predictor:
    """What labels photos by an exported model.

    Raises:
        UserError: `how` asks for what is fixed in the file, or for more than its output holds.
    """
    about = artefact.description
    kind = about.output.kind
    _refuse_what_is_fixed(how, path)
    if kind == "labels" and (not how.one_pass or how.window is not None or how.crf is not None):
        raise UserError(
            "this exported model gives labels, and several scales, mirroring, windows and the CRF need logits",
            fix="leave them away, or export with --output small-logits",
            file=path,
        )
    if not how.one_pass and kind != "small-logits":
        raise UserError(
            f"this exported model gives {kind} at the photo's size, and several scales and mirroring need them on the "
            "network's own grid",
            fix="leave them away, or export with --output small-logits",
            file=path,
        )

    def checked(images: torch.Tensor) -> dict[str, torch.Tensor]:
        _, _, height, width = images.shape
        if not about.input.takes((height, width)):
            raise UserError(
                f"the photo is {height} x {width}, and this exported model takes {about.input.said()}",
                fix="resize the photo, or export for its size",
                file=path,
            )
        outputs = about.architecture.outputs
        try:
            results = artefact.run(as_photos(images).numpy())
            found = dict(zip(outputs, map(torch.from_numpy, results), strict=True))
        except UserError:
            raise
        # runtimes have exceptions of their own
        except Exception as error:
            # windows need less
            if kind != "labels" and ran_out_of_memory(error):
                raise
            raise UserError(
                f"its runtime fails ({shown(error)})", fix="export it again", file=path
            ) from error
        for name, value in found.items():
            grid = value.shape[-2:] if kind == "small-logits" else (height, width)
            depth = () if kind == "labels" else (outputs[name],)
            dtype = str(value.dtype).removeprefix("torch.")
            if value.shape != (len(images), *depth, *grid) or dtype != about.output.dtype:
                raise UserError(
                    f"gives {name} of {dtype} {tuple(value.shape)} for a photo of {height} x {width}",
                    allowed=f"{about.output.dtype}, and as its description says",
                    fix="export it again",
                    file=path,
                )
        return found

    def logits(images: torch.Tensor) -> Logits:
        if kind == "labels":
            raise UserError(
                "this exported model gives labels, no probabilities",
                fix="export with --output probabilities, logits or small-logits",
                file=path,
            )
        found = checked(images)
        if kind == "probabilities":
            return {name: value.clamp_(min=LEAST).log_() for name, value in found.items()}
        return found

    # for what follows from the architecture; it holds no weights
    with foreign(path, "describes no model", fix="export it again"), torch.device("meta"):
        model = DeepLab(about.architecture, about.labels)
    options: dict[str, Any] = {
        "device": torch.device("cpu"),
        "how": how,
        "engine": about.target,
        "output_stride": about.output_stride,
    }
    network = RuntimeNetwork(logits, model, version=version_of_file(path), one_pass=how.one_pass)
    if kind == "labels":
        return LabelsPredictor(checked, path, network, about.labels, **options)
    return Predictor(network, about.labels, **options)


class LabelsPredictor(Predictor):
    """Takes labels as they come out of the network; whatever else is asked, it or the network refuses."""

    def __init__(
        self, run: Callable[[torch.Tensor], Logits], path: Path, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._run, self._path = run, path

    def labels_of(self, photo: np.ndarray) -> torch.Tensor:
        """See `Predictor.labels_of`."""
        found = self._run(self.images(photo))["semantic"][0]
        if not 0 <= int(found.min()) <= int(found.max()) < len(self.labels.classes):
            raise UserError(
                f"this exported model gives labels {int(found.min())} to {int(found.max())}",
                allowed=f"0 to {len(self.labels.classes) - 1}",
                fix="export it again",
                file=self._path,
            )
        return found.to(torch.uint16) if found.dtype == torch.int32 else found

    def label(self, photo: np.ndarray, *, confidence: bool = False) -> Labelled:
        """See `Predictor.label`.

        Raises:
            UserError: confidence, which labels do not tell.
        """
        if confidence:
            return super().label(photo, confidence=True)
        return Labelled(self.labels_of(photo).long(), None)

    def sliding(self, size: tuple[int, int]) -> NoReturn:
        """See `Predictor.sliding`.

        Raises:
            UserError: always.
        """
        raise UserError(
            "this exported model gives labels, and a scene is labelled in windows, whose probabilities are averaged",
            fix="export with --output small-logits",
        )


def _refuse_what_is_fixed(how: Labelling, path: Path) -> None:
    asked = {
        f"--engine {how.engine}": how.engine not in (AUTO, TORCH),
        f"--precision {how.precision}": how.precision != "float32",
        f"--output-stride {how.output_stride}": how.output_stride is not None,
        f"--device {how.device}": how.device not in (AUTO, "cpu"),
        f"--threshold {how.threshold}": how.threshold is not None,
    }
    given = [option for option, wrong in asked.items() if wrong]
    if given:
        raise UserError(
            f"an exported model has its own runtime, precision, stride and threshold, and runs on the processor; "
            f"{given[0]} goes with a model of this package",
            fix=f"leave {given[0]} away",
            file=path,
        )


__all__ = [
    "Artefact",
    "Description",
    "artefact_path",
    "model_version",
    "open_artefact",
    "open_predictor",
    "predictor_of",
    "version_of_file",
]

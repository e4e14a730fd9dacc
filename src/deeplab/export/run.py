"""One export, from the model to a folder that is there only if the gate was passed."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from deeplab import __version__
from deeplab.errors import UserError, require
from deeplab.export.coreml import COREML
from deeplab.export.executorch import EXECUTORCH
from deeplab.export.gate import SIZES, GateError, compare, drawn_photo, gate_photos, verdict
from deeplab.export.layouts import write_hf, write_triton
from deeplab.export.litert import LITERT
from deeplab.export.onnx import ONNX
from deeplab.export.openvino import OPENVINO
from deeplab.export.program import PhotoProgram
from deeplab.export.target import Job, Target, quiet
from deeplab.export.torch_export import TORCH_EXPORT
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import REPORT_NAME, open_artefact
from deeplab.prediction.artefacts.description import (
    MOST_SIZES,
    Description,
    Output,
    PhotoInput,
    Precision,
    Result,
    Side,
)
from deeplab.prediction.artefacts.openvino import open_openvino
from deeplab.prediction.fold import folded
from deeplab.system.reading import sha256_of
from deeplab.system.writing import whole_folder

TARGETS: dict[str, Target] = {
    each.name: each for each in (ONNX, OPENVINO, TORCH_EXPORT, LITERT, EXECUTORCH, COREML)
}
LABELS_NAME, SCRIPT_NAME = "labels.txt", "example.py"
# every fourth photo is kept from calibration for the comparison, and one of each must be there
HELD_OUT = 4
FULL_SIZE = (
    "logits of the photo's size are made: 4 x classes x height x width bytes, {gigabytes:.1f} GB at 1025 x 2049; "
    "small-logits spare them"
)
FLOAT_ONLY = (
    "this model computes in 8 bits in PyTorch and in float here: its labels are those of eight_bit = False"
)


class Exported(NamedTuple):
    """What was written: the file, its description with parity, its bytes and the seconds that it took."""

    path: Path
    description: Description
    megabytes: float
    seconds: float


def export_model(
    model: DeepLab,
    to: str,
    folder: Path,
    *,
    name: str,
    output: Output = "labels",
    precision: Precision = "float32",
    sizes: Sequence[Side] = (),
    largest: Side | None = None,
    calibration: Sequence[np.ndarray] = (),
    photos: Sequence[np.ndarray] = (),
    opset: int = 20,
    allow: bool = False,
    layout: Literal["plain", "triton", "hf"] = "plain",
) -> Exported:
    """Write `folder` with NAME.ending, export.json, labels.txt and example.py.

    Args:
        model: left as it is.
        to: one of `TARGETS`.
        folder: must not exist, or be empty.
        name: of the file, without its ending.
        output: see `Result`.
        precision: float32, float16 (of weights), int8.
        sizes: heights and widths, for targets of named sizes.
        largest: for targets that are asked for one.
        calibration: for int8, photos, uint8 [H, W, channels]; every fourth is compared on instead.
        photos: to compare on; where there are none, held-out or drawn ones.
        opset: of ONNX.
        allow: keep a file of float16 or int8 that fails the gate; its description says so.
        layout: triton, hf, of ONNX only, also write a folder for others; see `deeplab.export.layouts`.

    Raises:
        UserError: what does not go together, an extra that is not installed, or the folder cannot be written.
        GateError: the file is wrong.
    """
    if model.config.pixels.bands:
        raise UserError(
            f"this model reads the bands {', '.join(model.config.pixels.bands)}, and exported ones take 8-bit RGB",
            fix="use it as it is, with predict, eval or Segmenter",
        )
    target = checked(to, precision=precision, sizes=sizes, largest=largest, calibration=calibration)
    if layout != "plain" and to != ONNX.name:
        raise UserError(f"--layout {layout} goes with --to onnx, not {to}", fix="leave --layout away")
    if layout == "hf" and (output != "logits" or len(model.config.outputs) > 1):
        raise UserError(
            f"--layout hf is of a model's logits alone, and {output} of {', '.join(model.config.outputs)} is asked for",
            fix="--output logits, of a model without extra outputs",
        )
    started = time.perf_counter()
    source = folded(model).eval()
    source.eight_bit = False
    program = PhotoProgram(source, output, label_type=target.label_type)
    held = calibration[::HELD_OUT] if precision == "int8" and not photos else ()
    used = [each for index, each in enumerate(calibration) if not len(held) or index % HELD_OUT]
    description = _description(
        model, target, program, precision, sizes=sizes, largest=largest, calibration=used
    )
    job = Job(program, description, calibration=used, opset=opset)
    _refuse_what_is_there(folder)
    plain = copy.deepcopy(model).eval()
    plain.eight_bit = False
    with whole_folder(folder) as beside:
        path = beside / f"{name}{target.ending}"
        description = target.write(job, path)
        if target.runs_here:
            description = _proved(target, description, path, plain, [*(photos or held)], allow=allow)
        # a Core ML package is a folder, OpenVINO's files are two
        parts = (each for part in beside.glob(f"{name}.*") for each in (part, *part.glob("**/*")))
        written = [each for each in parts if each.is_file()]
        digests = {each.relative_to(beside).as_posix(): sha256_of(each) for each in sorted(written)}
        report = {"file": path.name, "sha256": digests, **description.model_dump(mode="json")}
        _write_text(beside / REPORT_NAME, json.dumps(report, indent=1))
        _write_text(beside / LABELS_NAME, "\n".join(description.labels.classes))
        _write_text(beside / SCRIPT_NAME, _script(target, description, path.name).rstrip())
        if layout == "triton":
            write_triton(beside, name, description)
        if layout == "hf":
            photo = drawn_photo(SIZES[1], description.input.channels, seed=0)
            write_hf(beside, name, open_artefact(path), photo)
        megabytes = sum(each.stat().st_size for each in written) / 1e6
    return Exported(folder / path.name, description, megabytes, time.perf_counter() - started)


def checked(
    to: str,
    *,
    precision: str,
    sizes: Sequence[Side],
    largest: Side | None,
    calibration: Sequence[Any],
) -> Target:
    """The target, once all that is asked of it is in order.

    Raises:
        UserError: see `export_model`.
    """
    if to not in TARGETS:
        raise UserError(
            f"no target {to!r}",
            allowed=", ".join(TARGETS),
            fix="--to onnx is what TensorRT, Triton and Transformers.js read",
        )
    target = TARGETS[to]
    if precision not in target.precisions:
        raise UserError(f"target {to} has no precision {precision!r}", allowed=", ".join(target.precisions))
    if precision == "int8" and len(calibration) < 2:
        raise UserError(
            f"int8 takes the ranges of values from photos and is judged on others, and {len(calibration)} are given",
            fix="--calibration FOLDER, some thirty photos like those that the model will see",
        )
    if calibration and precision != "int8":
        raise UserError(
            "--calibration goes with --precision int8", fix="leave it away, or add --precision int8"
        )
    if target.sizing == "named" and not sizes:
        raise UserError(
            f"target {to} has no sizes that follow the photo: each is fixed when it is written",
            fix="--size HEIGHT WIDTH, such as --size 513 513",
        )
    if target.sizing != "named" and sizes:
        raise UserError(f"target {to} takes photos of any size", fix="leave --size away")
    if len(sizes) > 1 and not target.several_sizes:
        raise UserError(f"target {to} takes one size, {len(sizes)} are given", fix="one folder for each size")
    if len(sizes) > MOST_SIZES:
        raise UserError(f"{len(sizes)} sizes are given", allowed=f"{MOST_SIZES} at most")
    if target.sizing == "up to" and largest is None:
        raise UserError(
            f"target {to} plans its memory for the largest photo",
            fix="--max-size HEIGHT WIDTH, such as 1024 1024",
        )
    if target.sizing != "up to" and largest is not None:
        raise UserError(f"target {to} has no largest photo", fix="leave --max-size away")
    for size in (*sizes, *([largest] if largest else [])):
        if min(size) < 1:
            raise UserError(f"size {size[0]} x {size[1]} cannot be", allowed="sides of 1 or more")
    with quiet():
        for module in target.modules:
            require(module, extra=target.extra)
    return target


def _description(
    model: DeepLab,
    target: Target,
    program: PhotoProgram,
    precision: Precision,
    *,
    sizes: Sequence[Side],
    largest: Side | None,
    calibration: Sequence[np.ndarray],
) -> Description:
    gigabytes = 4 * model.config.num_classes * 1025 * 2049 / 1e9
    notes = [FULL_SIZE.format(gigabytes=gigabytes)] * (program.output != "small-logits")
    notes += [FLOAT_ONLY] * model.eight_bit + [target.note] * bool(target.note)
    labels: Literal["uint8", "int32"] = "int32" if program.label_type == torch.int32 else "uint8"
    return Description(
        target=target.name,
        architecture=program.model.config,
        labels=model.labels,
        output_stride=model.output_stride,
        input=PhotoInput(
            channels=model.config.backbone.in_channels,
            sizes=tuple(sizes),
            largest=largest,
            batch=target.batch,
        ),
        output=Result(
            kind=program.output,
            names=program.names,
            dtype=labels if program.output == "labels" else "float32",
            resize=model.config.resize,
        ),
        precision=precision,
        calibration=_digest(calibration) if calibration else None,
        versions={"deeplab": __version__, "torch": torch.__version__, **_versions(target.runtimes)},
        notes=tuple(notes),
    )


def _proved(
    target: Target,
    description: Description,
    path: Path,
    model: DeepLab,
    photos: Sequence[np.ndarray],
    *,
    allow: bool,
) -> Description:
    """The description with parity, which stands in the file as well.

    Raises:
        GateError: see `export_model`.
        UserError: the file lost its description, or became another by being given one.
    """
    artefact = open_artefact(path)
    taken = gate_photos(description, photos)
    compared, agreement_of = compare(model, artefact, taken)
    parity = verdict(description.precision, compared)
    if not parity["passed"] and not (allow and description.precision != "float32"):
        raise GateError(f"not so: {parity['criterion']}", parity)
    if target.name == OPENVINO.name:
        parity["agreement in the runtime's default precision"] = agreement_of(
            open_openvino(path, accurate=False)
        )
    parity["photos from"] = "the user" if len(photos) else "a drawing"
    proved = description.model_copy(update={"parity": parity})
    if artefact.description != description:
        raise UserError("its description did not come back from the file", file=path)
    if target.stamp is None:
        return proved
    before = artefact.run(taken[-1][None])
    target.stamp(path, proved)
    again = open_artefact(path)
    if again.description != proved or not all(
        np.array_equal(old, new) for old, new in zip(before, again.run(taken[-1][None]), strict=True)
    ):
        raise UserError("the file changed when its figures were written into it", file=path)
    return proved


def _script(target: Target, description: Description, file: str) -> str:
    kind = description.output.kind
    labels = {
        "labels": "labels = result[0]",
        "small-logits": "labels = result[0].argmax(0)  # on the network's grid: resize the logits to the photo first",
    }.get(kind, "labels = result[0].argmax(0)")
    shown = (
        f"{labels}\n"
        'Image.fromarray(labels.astype(np.uint8)).save("labels.png")\n'
        'names = Path(__file__).with_name("labels.txt").read_text().splitlines()\n'
        'print(*(names[index] for index in np.unique(labels)), sep=", ")'
    )
    taken = description.input
    height, width = taken.sizes[0] if taken.sizes else taken.largest or (0, 0)
    return target.example.format(
        file=file, name=description.output.names[0], index=0, labels=shown, height=height, width=width
    )


def _digest(photos: Sequence[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for photo in photos:
        digest.update(str(photo.shape).encode())
        digest.update(np.ascontiguousarray(photo).data)
    return digest.hexdigest()


def _versions(distributions: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _refuse_what_is_there(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists():
        raise UserError(
            "is there already", fix="name another folder with -o, or move this one away", file=folder
        )


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")

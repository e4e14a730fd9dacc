"""`deeplab export`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from deeplab.cli.labelling import CALIBRATION_PHOTOS, idle, refuse_idle, spread
from deeplab.cli.stored_data import StoredData
from deeplab.errors import UserError, refuse_outside

if TYPE_CHECKING:
    from deeplab.export.run import Exported
    from deeplab.model.network import DeepLab

Many = Parameter(consume_multiple=True, negative="")


@Parameter(name="*")
@dataclass(frozen=True)
class Form:
    """What the file takes, gives and is.

    Parameters
    ----------
    output:
        labels, at the photo's size; logits or probabilities, likewise; small-logits, on the network's own grid, which
        several scales, mirroring and windows need.
    precision:
        float32; float16, of weights (openvino, coreml); int8, with --calibration (not torch-export, coreml).
    size:
        HEIGHT WIDTH, for targets whose sizes are fixed; several where the target holds several.
    max_size:
        HEIGHT WIDTH of the largest photo, for targets that plan memory for it.
    output_stride:
        4, 8, 16 or 32. Default: the model's own.
    opset:
        Of ONNX, 18 to 23.
    layout:
        With --to onnx: triton, also a model repository for the Triton server; hf, also a folder for Transformers.js
        and optimum.
    """

    output: Literal["labels", "logits", "probabilities", "small-logits"] = "labels"
    precision: Literal["float32", "float16", "int8"] = "float32"
    size: Annotated[tuple[int, ...], Many] = ()
    max_size: tuple[int, int] | None = None
    output_stride: int | None = None
    opset: int = 20
    layout: Literal["plain", "triton", "hf"] = "plain"


@Parameter(name="*")
@dataclass(frozen=True)
class Proof:
    """What the file is compared on.

    Parameters
    ----------
    calibration:
        For int8: photos, folders or glob patterns of photos like those to label; every fourth is compared on.
    photos:
        Photos to compare on instead of drawn or held-out ones.
    allow:
        Keep a float16 or int8 file that fails the comparison.
    evaluate:
        A data set's folder, if it is recognised by itself: also mean IoU of the model before and of the file after.
        For others, give the folder written to deeplab eval.
    split:
        Of that data set.
    classes:
        Names of its masks' classes, by index, if it does not say.
    """

    calibration: Annotated[tuple[str, ...], Many] = ()
    photos: Annotated[tuple[str, ...], Many] = ()
    allow: Annotated[bool, Parameter(negative="")] = False
    evaluate: Annotated[Path | None, Parameter(name="--eval")] = None
    split: str = "val"
    classes: Annotated[tuple[str, ...], Many] = ()


PLAIN, DRAWN = Form(), Proof()


def export(
    model: str,
    *,
    to: str,
    folder: Annotated[Path, Parameter(name=["--folder", "-o"])],
    form: Form = PLAIN,
    proof: Proof = DRAWN,
) -> int:
    """Write a model for another runtime, and prove that the file computes what the model does.

    The folder gets the file, export.json (everything about it, and the figures), labels.txt and example.py, which
    labels a photo with the runtime alone. Photos go in as they are, uint8 RGB of shape [N, H, W, 3]: normalising is
    inside. The file is run in its own runtime and compared with float64 PyTorch at sizes that it was not made at;
    where they differ by more than rounding nothing is written, and the exit code is 1. The folder or file is a model
    for predict and eval.

    Parameters
    ----------
    model:
        An embedded model's name, a folder made by train or import, a .safetensors file, or hf:owner/name.
    to:
        onnx, openvino, torch-export, litert, executorch, coreml.
    folder:
        Folder to write; it must not be there yet.
    """
    from deeplab.export.gate import GateError
    from deeplab.export.layouts import trtexec
    from deeplab.export.run import checked, export_model
    from deeplab.imaging.photos import find_photos, read_photo
    from deeplab.model.checkpoint import load

    for option, sides in {"__size": form.size, "__max_size": form.max_size or ()}.items():
        for side in sides:
            refuse_outside(1, 1 << 16, **{option: side})
    sizes = _pairs(form.size)
    found = spread(find_photos(proof.calibration), CALIBRATION_PHOTOS) if proof.calibration else []
    # before the model is loaded: what cannot be is said at once
    target = checked(to, precision=form.precision, sizes=sizes, largest=form.max_size, calibration=found)
    if to != "onnx":
        refuse_idle(form, "opset", needs="--to onnx")
    if form.precision == "float32":
        refuse_idle(proof, "allow", needs="--precision float16 or int8")
    if not target.runs_here:
        refuse_idle(proof, "photos", needs="a target that runs here")
        if proof.evaluate is not None:
            raise idle("--eval", needs="a target that runs here")
    if proof.evaluate is None:
        refuse_idle(proof, "split", "classes", needs="--eval")
    source = load(model)
    if form.output_stride is not None:
        try:
            source.output_stride = form.output_stride
        except ValueError as error:
            raise UserError(str(error)) from None
    try:
        made = export_model(
            source,
            to,
            folder,
            name=file_name(model),
            output=form.output,
            precision=form.precision,
            sizes=sizes,
            largest=form.max_size,
            calibration=[read_photo(path) for path in found],
            photos=[read_photo(path) for path in find_photos(proof.photos)] if proof.photos else [],
            opset=form.opset,
            allow=proof.allow,
            layout=form.layout,
        )
    except GateError as error:
        if error.parity is not None:
            _show(error.parity)
        print(f"deeplab: {model} to {to}: {error}; nothing was written", file=sys.stderr)
        return 1
    about = made.description
    print(f"{made.path}: {made.megabytes:.1f} MB in {made.seconds:.0f} s; takes {about.input.said()}")
    _show(about.parity)
    for note in about.notes:
        print(f"note: {note}")
    if to == "onnx":
        print(f"for TensorRT, not run here: {trtexec(about, made.path.name)}")
    if proof.evaluate is not None:
        _show_scores(source, made, proof.evaluate, proof.split, StoredData(classes=proof.classes))
    return 0


def file_name(model: str) -> str:
    """What the file is called: as the model, its folder or its file."""
    path = Path(model.split(":")[-1])
    named = path.parent if path.name == "model.safetensors" else path
    return (named.stem if named.suffix == ".safetensors" else named.name) or "model"


def _pairs(sides: tuple[int, ...]) -> list[tuple[int, int]]:
    if len(sides) % 2:
        raise UserError(f"--size {' '.join(map(str, sides))}: give HEIGHT WIDTH, of each size both")
    return list(zip(sides[::2], sides[1::2], strict=True))


def _show(parity: dict[str, Any] | None) -> None:
    from rich.table import Table

    from deeplab.cli.tables import print_table

    if parity is None:
        print("comparison: not run, as only Apple's systems run the file; its form was read back")
        return
    table = Table("photo", "equal labels", "difference", "margin where labels differ")
    for each in parity["photos"]:
        error = "-" if each["error"] is None else f"{each['error']:.1e}"
        size = f"{each['size'][0]} x {each['size'][1]}"
        table.add_row(size, f"{each['agreement']:.6f}", error, f"{each['margin']:.1e}")
    print_table(table)
    said = "passed" if parity["passed"] else "FAILED"
    print(
        f"comparison with float64 PyTorch {said}: {parity['criterion']}; that is {parity['limit']:.1e} here"
    )
    for name, value in parity.items():
        if name.startswith("agreement in"):
            print(f"{name}: {value:.4f}")


def _show_scores(model: DeepLab, made: Exported, root: Path, split: str, stored: StoredData) -> None:
    """Mean IoU before and after; both on photos of a size that the file takes."""
    from rich.table import Table

    from deeplab.cli.evaluate import open_labelled
    from deeplab.cli.tables import photo_progress, print_table
    from deeplab.evaluation.photo_by_photo import evaluate
    from deeplab.export.gate import fitted
    from deeplab.prediction.artefacts import open_predictor
    from deeplab.prediction.predictor import Predictor

    dataset = open_labelled(root, split, stored, model.labels)
    taken = made.description.input
    sizes = f" at {taken.said()}" if taken.sizes else ""
    table = Table("mean IoU", f"{split}, {len(dataset)} photos{sizes}")
    for name, predictor in {"before": Predictor.of(model), "after": open_predictor(made.path)}.items():
        samples = (fitted(*dataset.load(index), taken) for index in range(len(dataset)))
        with photo_progress(len(dataset), name) as progress:
            confusion = evaluate(predictor, samples, on_photo=progress.advance)
        table.add_row(name, f"{confusion.mean_iou():.4f}")
    print_table(table)

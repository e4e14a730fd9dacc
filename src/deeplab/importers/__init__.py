"""Published weights into our models: the one place where a source is recognised and given to its importer.

A source is recognised by its content, never by its name. To bring in another format: write a recogniser
and an importer, and add them to `FORMATS`. Archives and folders are looked into.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deeplab.errors import UserError
from deeplab.importers.archive import is_archive, unpacked
from deeplab.importers.caffe.deeplab import import_caffe
from deeplab.importers.caffe.file import is_caffemodel
from deeplab.importers.hints import Hints, flag
from deeplab.importers.keras.backbones import import_keras
from deeplab.importers.keras.file import is_keras
from deeplab.importers.report import Imported
from deeplab.importers.tensorflow.bundle import index_of, is_index
from deeplab.importers.tensorflow.deeplab import (
    holds_tensorflow,
    import_checkpoint,
    import_folder,
    import_graph,
)
from deeplab.importers.tensorflow.graph import is_graph
from deeplab.importers.tflite.deeplab import import_tflite
from deeplab.importers.tflite.file import is_tflite
from deeplab.importers.torch.deeplab import import_torch
from deeplab.importers.torch.file import is_torch
from deeplab.system.files.content import recognise
from deeplab.system.reading import foreign, plain_file, sha256_of

HEAD_BYTES = 4096
RGB = 3
SHOWN = 4


class Format(NamedTuple):
    """A kind of source: `recognise` sees the first 4 KiB, `read` the file, and hints if it `takes_hints`."""

    name: str
    recognise: Callable[[bytes], bool]
    read: Callable[..., Imported]
    takes_hints: bool = False


FORMATS: tuple[Format, ...] = (
    Format("a TensorFlow checkpoint (.index)", is_index, import_checkpoint, takes_hints=True),
    Format("a frozen TensorFlow graph (.pb)", is_graph, import_graph, takes_hints=True),
    Format("a TensorFlow Lite model (.tflite)", is_tflite, import_tflite, takes_hints=True),
    Format("PyTorch weights (.pth, .pt, .safetensors)", is_torch, import_torch, takes_hints=True),
    Format("a Caffe model (.caffemodel)", is_caffemodel, import_caffe, takes_hints=True),
    Format("Keras weights (.h5, .keras)", is_keras, import_keras),
)


def import_weights(source: Path, hints: Hints = Hints()) -> Imported:  # noqa: B008 - immutable
    """The model whose published weights are in `source`.

    Args:
        source: a file, a folder, an archive, or a TensorFlow checkpoint's prefix.
        hints: what the user says of what such files do not hold.

    Raises:
        UserError: no such file, not a source known here (says what it seems to be), a damaged file, weights
            that do not fit, or hints that are needed or do not fit.
    """
    if source.is_dir():
        return _from_folder(source, hints)
    source = index_of(source) or source
    head = _read_head(source)
    if is_archive(head):
        return _from_archive(source, hints)
    for known in FORMATS:
        if known.recognise(head):
            return _read(known, source, hints)
    names = ", ".join(known.name for known in FORMATS)
    seen = recognise(head)
    raise UserError(f"this seems to be {seen.name}", fix=f"{seen.fix}; known sources: {names}", file=source)


def _read(known: Format, source: Path, hints: Hints) -> Imported:
    if hints.given() and not known.takes_hints:
        flags = ", ".join(map(flag, hints.given()))
        raise UserError(f"{known.name} says these things itself: leave {flags} away", file=source)
    with foreign(source):
        imported = known.read(source, hints) if known.takes_hints else known.read(source)
    if imported.model.config.num_classes == 1:
        raise UserError("has one class, which every pixel would get", fix="train it with two", file=source)
    return _with_channels_noted(imported)


def _with_channels_noted(imported: Imported) -> Imported:
    model, report = imported
    pixels = model.config.pixels
    if not pixels.bands:
        return imported
    note = (
        f"its first convolution reads {len(pixels.bands)} channels, and the file does not say which: photos must have "
        f"as many bands of 8 bits, in the order of its training; they are called {', '.join(pixels.bands)}, and each "
        f"beyond {RGB} gets the average of the first ones' mean and deviation"
    )
    report = dataclasses.replace(report, notes=(*report.notes, note))
    model.provenance = {"import": report.to_json()}
    return Imported(model, report)


def _from_folder(folder: Path, hints: Hints) -> Imported:
    if holds_tensorflow(folder):
        with foreign(folder):
            return import_folder(folder, hints)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    heads = {path: _read_head(path) for path in files}
    fitting = [path for path in files if any(known.recognise(heads[path]) for known in FORMATS)]
    if len(fitting) == 1:
        return import_weights(fitting[0], hints)
    names = ", ".join(path.name for path in (fitting or files)[:SHOWN]) or "nothing"
    if fitting:
        raise UserError(
            f"holds {len(fitting)} files with weights ({names}); give the file you mean", file=folder
        )
    raise UserError(f"holds no files with weights ({names}); give a folder or a file that does", file=folder)


def _from_archive(archive: Path, hints: Hints) -> Imported:
    with unpacked(archive) as folder:
        try:
            model, report = _from_folder(folder, hints)
        except UserError as error:
            named = Path(error.file or folder)
            inside = named.relative_to(folder) if named.is_relative_to(folder) else named
            place = f"{archive}: {inside}" if inside.parts else archive
            raise UserError(error.what, allowed=error.allowed, fix=error.fix, file=place) from None
    report = dataclasses.replace(
        report,
        source=archive.name,
        sha256=sha256_of(archive),
        format=f"{report.format}; {report.source} in the archive",
    )
    model.provenance = {"import": report.to_json()}
    return Imported(model, report)


def _read_head(source: Path) -> bytes:
    try:
        with plain_file(source) as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror}); give the path of a file with weights", file=source
        ) from error

"""LiteRT and ExecuTorch in a process of their own: over a damaged file they end the process that they run in.

That process runs this file, by its path and not as a part of its package, since importing that takes longer than
opening a model.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from deeplab.errors import UserError, require

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
# seconds of the clock that a photo or the opening of a file may take: the largest, on a busy machine
PATIENCE = 600.0
# a method of a .pte that returns the description
METHOD = "deeplab_json"


class Apart:
    """An exported file, open in its runtime in a process of its own, which ends with this object.

    Attributes:
        text: the description, where the runtime finds it in the file.
    """

    def __init__(self, runtime: str, path: Path, *, extra: str, threads: int) -> None:
        """Start the process and open the file.

        Args:
            runtime: of `RUNTIMES`.
            path: of the file.
            extra: that brings the runtime.
            threads: that the runtime computes on, where it can be told.

        Raises:
            UserError: the runtime is not installed, or cannot read the file.
        """
        self._runtime, self._one_at_a_time = runtime, threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, runtime, os.fspath(path), extra, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        weakref.finalize(self, _end, self._process)
        try:
            said, _ = self._answer()
        except RuntimeError as error:
            raise UserError(str(error), fix="export it again", file=path) from error
        if "error" in said:
            raise UserError(said["error"], fix=said["fix"], file=path if said["of the file"] else None)
        self.text: str | None = said["text"]

    def run(self, photos: np.ndarray) -> list[np.ndarray]:
        """What the file computes of uint8 [N, H, W, channels]: an array for each output; from any thread.

        Raises:
            RuntimeError: the runtime fails, or ended its process.
        """
        with self._one_at_a_time:
            said, results = self._answer(photos)
        if "error" in said:
            raise RuntimeError(said["error"])
        return results

    def _answer(self, *asked: np.ndarray) -> tuple[dict[str, Any], list[np.ndarray]]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        impatient = threading.Timer(PATIENCE, process.kill)
        impatient.start()
        try:
            if asked:
                _send(process.stdin, {}, asked)
            return _receive(process.stdout)
        except (OSError, EOFError) as error:
            raise RuntimeError(f"{self._runtime} ended its process, with {process.wait()}") from error
        finally:
            impatient.cancel()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # closes the pipes, and waits
    process.communicate()


def _send(file: IO[bytes], said: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    header = json.dumps([said, [(each.dtype.name, each.shape) for each in arrays]]).encode()
    file.write(len(header).to_bytes(8, "little") + header)
    for each in arrays:
        file.write(np.ascontiguousarray(each).tobytes())
    file.flush()


def _receive(file: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    said, shapes = json.loads(_exactly(file, int.from_bytes(_exactly(file, 8), "little")))
    arrays = []
    for name, shape in shapes:
        array = np.empty(shape, name)
        array.data.cast("B")[:] = _exactly(file, array.nbytes)
        arrays.append(array)
    return said, arrays


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return content


class Opened(NamedTuple):
    """What the process apart has."""

    text: str | None
    run: Run


def _litert(path: str, extra: str, threads: int) -> Opened:
    runtime = require("ai_edge_litert.interpreter", extra=extra)
    interpreter = runtime.Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    # outputs keep their order under other names
    (photo,) = interpreter.get_input_details()
    results = [each["index"] for each in interpreter.get_output_details()]

    def run(photos: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(photo["index"], photos)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in results]

    return Opened(None, run)


def _executorch(path: str, extra: str, threads: int) -> Opened:
    runtime = require("executorch.runtime", extra=extra)
    torch = importlib.import_module("torch")
    program = runtime.Runtime.get().load_program(Path(path))
    text = program.load_method(METHOD).execute([])[0] if METHOD in program.method_names else None
    network = program.load_method("forward")
    return Opened(
        text, lambda photos: [result.numpy() for result in network.execute([torch.from_numpy(photos)])]
    )


RUNTIMES = {"LiteRT": _litert, "ExecuTorch": _executorch}


def serve(runtime: str, path: str, extra: str, threads: str) -> None:
    """Open a file and run it on what the standard input gives, until that ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # what the runtime itself prints
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        opened = RUNTIMES[runtime](path, extra, int(threads))
    except UserError as error:
        return _send(answers, {"error": error.what, "fix": error.fix, "of the file": False}, [])
    except Exception as error:
        told = f"{runtime} cannot run it ({_told(error)})"
        return _send(answers, {"error": told, "fix": "export it again", "of the file": True}, [])
    _send(answers, {"text": opened.text}, [])
    while True:
        try:
            _, (photos,) = _receive(sys.stdin.buffer)
        except EOFError:
            return None
        try:
            results = opened.run(photos)
        except Exception as error:
            _send(answers, {"error": _told(error)}, [])
        else:
            _send(answers, {}, results)


def _told(error: Exception) -> str:
    (last,) = str(error).strip().splitlines()[-1:] or [""]
    return f"{type(error).__name__}: {last[:200]}"


if __name__ == "__main__":
    serve(*sys.argv[1:])

"""Runtimes in a process of their own: over a damaged file they end the process that they run in, or never end.

The process has a limit of time and memory to open the file, and one that grows with the photo to label it. It runs
this file, by its path and not as a part of its package, since importing that takes longer than opening a model.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from deeplab.errors import UserError, require

Run = Callable[[np.ndarray], list[np.ndarray]]
# seconds of the clock for a runtime to be imported, whatever the file
STARTING = 600.0
# seconds of one core to open a file or to label a photo, and more for each byte or pixel
SECONDS, SECONDS_A_BYTE, SECONDS_A_PIXEL = 10.0, 1e-7, 1e-3
# of the clock, which goes on where others have the cores, or where the runtime waits for what never comes
CLOCK = 6.0
# bytes of memory beside what the runtime has before, and more for each byte of the file and each pixel of a photo
MEMORY, MEMORY_A_BYTE, MEMORY_A_PIXEL, MEMORY_A_THREAD = 2 << 30, 16, 4096, 16 << 20
# bytes of results beside as many a pixel, as a network's own grid may be finer than a small photo
RESULTS = 16 << 20
# where the description is in a file's metadata, and a method of a .pte that returns it
KEY, METHOD = "deeplab", "deeplab_json"
# in the place of a path: what is opened comes by the standard input
SENT = "-"


class Apart:
    """An exported file, open in its runtime in a process of its own, which ends with this object.

    Attributes:
        text: the description, where the runtime finds it in the file.
    """

    def __init__(
        self, runtime: str, path: Path, *, extra: str, threads: int, content: bytes | None = None
    ) -> None:
        """Start the process and open the file.

        Args:
            runtime: of `RUNTIMES`.
            path: of the file.
            extra: that brings the runtime.
            threads: that the runtime computes on, where it can be told.
            content: what is opened in the place of the file's own, by a runtime that takes bytes.

        Raises:
            UserError: the runtime is not installed, or cannot read the file.
        """
        self._runtime, self._path, self._one_at_a_time = runtime, path, threading.Lock()
        self._sent = [] if content is None else [np.frombuffer(content, np.uint8)]
        # OpenVINO's weights lie beside the file
        parts = {path, path.with_suffix(".bin")}
        self._size = sum(part.stat().st_size for part in parts if part.is_file())
        place = SENT if self._sent else os.fspath(path)
        self._command = [sys.executable, "-P", __file__, runtime, place, extra, str(threads), str(self._size)]
        self.text = self._open()

    def _open(self) -> str | None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._end = weakref.finalize(self, _end, self._process)
        try:
            said, _ = self._answer(STARTING)
            if "error" not in said:
                said, _ = self._answer(CLOCK * _seconds_to_open(self._size), self._sent)
        except RuntimeError as error:
            raise UserError(str(error), fix="export it again", file=self._path) from error
        if "error" in said:
            self._end()
            raise UserError(said["error"], fix=said["fix"], file=self._path if said["of the file"] else None)
        text: str | None = said["text"]
        return text

    def run(self, photos: np.ndarray) -> list[np.ndarray]:
        """What the file computes of uint8 [N, H, W, channels]: an array for each output; from any thread.

        Raises:
            RuntimeError: the runtime fails, or ended its process; the next photo is given to a new one.
            UserError: that cannot read the file, or reads another.
        """
        with self._one_at_a_time:
            if self._process.poll() is not None:
                self._end()
                if self._open() != self.text:
                    self._end()
                    raise UserError(
                        "became another file while it was open", fix="open it again", file=self._path
                    )
            most = RESULTS + MEMORY_A_PIXEL * photos[..., 0].size
            said, results = self._answer(CLOCK * _seconds(photos), [photos], most)
        if "error" in said:
            raise RuntimeError(said["error"])
        return results

    def _answer(
        self, seconds: float, asked: Sequence[np.ndarray] = (), most: int = 0
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        impatient = threading.Timer(seconds, process.kill)
        impatient.start()
        try:
            if asked:
                _send(process.stdin, {}, asked)
            return _receive(process.stdout, most)
        except (OSError, EOFError) as error:
            ended = process.wait()
            slow = ended == -getattr(signal, "SIGXCPU", 0) or not impatient.is_alive()
            why = "took too long and was ended" if slow else f"ended its process, with {ended}"
            raise RuntimeError(f"{self._runtime} {why}") from error
        except BaseException as error:
            # what follows in the pipe is no answer to the next photo, after Ctrl-C neither
            process.kill()
            process.wait()
            if isinstance(error, ValueError | TypeError):
                raise RuntimeError(f"{self._runtime} gives no arrays ({error})") from error
            raise
        finally:
            impatient.cancel()


def _seconds_to_open(size: int) -> float:
    return SECONDS + SECONDS_A_BYTE * size


def _seconds(photos: np.ndarray) -> float:
    return SECONDS + SECONDS_A_PIXEL * photos[..., 0].size


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # closes the pipes, and waits
    process.communicate()


def _send(file: IO[bytes], said: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    header = json.dumps([said, [(each.dtype.name, each.shape) for each in arrays]]).encode()
    file.write(len(header).to_bytes(8, "little") + header)
    for each in arrays:
        file.write(np.ascontiguousarray(each).data)
    file.flush()


def _receive(file: IO[bytes], most: float = math.inf) -> tuple[dict[str, Any], list[np.ndarray]]:
    said, shapes = json.loads(_exactly(file, int.from_bytes(_exactly(file, 8), "little")))
    arrays = []
    for name, shape in shapes:
        dtype = np.dtype(name)
        # objects would be addresses
        if dtype.kind not in "biuf":
            raise ValueError(f"{name} is no number")
        size = math.prod(shape) * dtype.itemsize
        most -= size
        # a program may repeat one number without end, which takes no memory there
        if most < 0:
            raise ValueError(f"{name} {shape} is too large")
        array = np.empty(shape, dtype)
        # which IO has not
        if cast(BufferedReader, file).readinto(array.reshape(-1).view(np.uint8).data) < size:
            raise EOFError
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


def _onnx(runtime: Any, path: str, threads: int) -> Opened:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (photo,) = (each.name for each in session.get_inputs())
    return Opened(
        session.get_modelmeta().custom_metadata_map.get(KEY),
        lambda photos: session.run(None, {photo: photos}),
    )


def _openvino(runtime: Any, path: str, threads: int, *, accurate: bool) -> Opened:
    core = runtime.Core()
    network = core.read_model(path)
    text = network.get_rt_info([KEY]).astype(str) if network.has_rt_info([KEY]) else None
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    settings |= {"EXECUTION_MODE_HINT": "ACCURACY"} if accurate else {}
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()

    def run(photos: np.ndarray) -> list[np.ndarray]:
        results = request.infer([photos], share_inputs=True, share_outputs=True)
        return [results[result] for result in compiled.outputs]

    return Opened(text, run)


def _litert(runtime: Any, path: str, threads: int) -> Opened:
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


def _executorch(runtime: Any, path: str, threads: int) -> Opened:
    torch = importlib.import_module("torch")
    program = runtime.Runtime.get().load_program(Path(path))
    text = program.load_method(METHOD).execute([])[0] if METHOD in program.method_names else None
    network = program.load_method("forward")
    return Opened(
        text, lambda photos: [result.numpy() for result in network.execute([torch.from_numpy(photos)])]
    )


def _torch(_: Any, content: io.BytesIO, threads: int) -> Opened:
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    # its guards also hold what strides in memory were alike in the example, and refuse photos at random; what is right
    # at which sizes, the gate says
    network = torch.export.load(content).module(check_guards=False)

    def run(photos: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [result.numpy() for result in network(torch.from_numpy(photos))]

    return Opened(None, run)


# a module, and what opens a file, or what was sent, with it on so many threads
RUNTIMES: dict[str, tuple[str, Callable[[Any, Any, int], Opened]]] = {
    "LiteRT": ("ai_edge_litert.interpreter", _litert),
    "ExecuTorch": ("executorch.runtime", _executorch),
    "ONNX Runtime": ("onnxruntime", _onnx),
    "OpenVINO": ("openvino", functools.partial(_openvino, accurate=True)),
    # bfloat16 where the processor has it
    "OpenVINO as it likes": ("openvino", functools.partial(_openvino, accurate=False)),
    # which imports what `load` does, most of its time
    "PyTorch": ("torch.export.pt2_archive", _torch),
}


def serve(runtime: str, path: str, extra: str, threads: int, size: int) -> None:
    """Open a file and run it on what the standard input gives, until that ends."""
    # said to all processes of a terminal or a service, of which the one that asks ends this one when it is ready
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # what the runtime itself prints
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    module, opener = RUNTIMES[runtime]
    try:
        imported = require(module, extra=extra)
    except UserError as error:
        return _send(answers, {"error": error.what, "fix": error.fix, "of the file": False}, [])
    _send(answers, {}, [])
    source = path if path != SENT else io.BytesIO(_receive(sys.stdin.buffer)[1][0].data)
    claims = size * MEMORY_A_BYTE + threads * MEMORY_A_THREAD
    try:
        _limit(_seconds_to_open(size) * threads, claims)
        opened = opener(imported, source, threads)
    except Exception as error:
        told = f"{runtime} cannot read it ({_told(error)})"
        return _send(answers, {"error": told, "fix": "export it again", "of the file": True}, [])
    _send(answers, {"text": opened.text}, [])
    while True:
        try:
            _, (photos,) = _receive(sys.stdin.buffer)
        except EOFError:
            return None
        try:
            _limit(_seconds(photos) * threads, claims + MEMORY_A_PIXEL * photos[..., 0].size)
            # in one piece before any of it is sent
            results = [np.ascontiguousarray(each) for each in opened.run(photos)]
        except Exception as error:
            _send(answers, {"error": _told(error)}, [])
        else:
            _send(answers, {}, results)


def _limit(seconds: float, claims: int) -> None:
    """End this process where it computes for longer from now on, and let it have no more memory; Linux counts both."""
    if not sys.platform.startswith("linux"):
        return
    resource = importlib.import_module("resource")
    spent, (_, most) = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)
    until = int(spent.ru_utime + spent.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until if most < 0 else min(until, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    size = MEMORY + claims + _held()
    resource.setrlimit(resource.RLIMIT_DATA, (size if most < 0 else min(size, most), most))


@functools.cache
def _held() -> int:
    """Bytes that the runtime has before it opens anything, as `RLIMIT_DATA` counts them."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmData"].split()[0])


def _told(error: Exception) -> str:
    (last,) = str(error).strip().splitlines()[-1:] or [""]
    return f"{type(error).__name__}: {last[:200]}"


if __name__ == "__main__":
    runtime, path, extra, threads, size = sys.argv[1:]
    serve(runtime, path, extra, int(threads), int(size))

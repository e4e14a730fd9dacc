"""Mean field in compiled code: `mean_field.cpp`, built at first use with the system's C++ compiler.

Nothing is compiled when the package is installed. The library lies in the cache folder under a name that changes
with the source, the compiler and the processor, so it is built once and never loaded where it does not belong.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from deeplab.crf.lattice import key_multipliers
from deeplab.crf.terms import Term, by_tiles
from deeplab.download import cache_folder

SOURCES = ("mean_field.cpp", "lattice.hpp", "team.hpp")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-pthread")
# the second is for compilers that do not know this processor
VARIANTS = (("-march=native",), ())
COMPILERS = ("c++", "g++", "clang++")


class CannotCompileError(RuntimeError):
    """No library could be made; the message says why."""


@cache
def library_path() -> Path:
    """The compiled library, built if it is not there yet.

    Raises:
        CannotCompileError: no compiler, or it fails, or its result cannot be loaded or stored.
    """
    compiler = _compiler()
    try:
        source = {name: resources.files("deeplab.crf").joinpath(name).read_bytes() for name in SOURCES}
        path = cache_folder() / "crf" / f"mean_field-{_key(source, compiler)}.so"
        if not path.exists():
            _build(source, compiler, path)
    except OSError as error:
        raise CannotCompileError(f"the library cannot be built: {error}") from error
    return path


def mean_field(energies: np.ndarray, terms: list[Term], *, iterations: int) -> np.ndarray:
    """float32 energies [classes, H, W] -> float32 marginals of the same shape, on torch's number of threads.

    Raises:
        CannotCompileError: see `library_path`.
        MemoryError: the lattices do not fit.
    """
    energies = np.ascontiguousarray(energies)
    classes, height, width = energies.shape
    order = by_tiles(height, width)
    features = [term.features[order] for term in terms]
    dimensions = [each.shape[1] for each in features]
    multipliers = key_multipliers(max(dimensions, default=0))
    marginals = np.empty_like(energies)
    failed = load()(
        height * width,
        classes,
        energies.ctypes.data,
        order.ctypes.data,
        len(terms),
        (ctypes.c_int * len(terms))(*dimensions),
        (ctypes.c_void_p * len(terms))(*(each.ctypes.data for each in features)),
        (ctypes.c_float * len(terms))(*(term.weight for term in terms)),
        multipliers.data_ptr(),
        iterations,
        torch.get_num_threads(),
        marginals.ctypes.data,
    )
    if failed:
        raise MemoryError(f"the CRF of {height}x{width} pixels and {classes} classes does not fit in memory")
    return marginals


@cache
def load() -> Callable[..., int]:
    """The compiled function.

    Raises:
        CannotCompileError: see `library_path`.
    """
    path = library_path()
    try:
        function = ctypes.CDLL(str(path)).deeplab_crf_mean_field
    except OSError as error:
        raise CannotCompileError(f"{path} cannot be loaded: {error}") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    sizes, arrays = [ctypes.c_int64] * 2, [pointer] * 4
    function.argtypes = [*sizes, pointer, pointer, number, *arrays, number, number, pointer]
    function.restype = number
    return function


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise CannotCompileError(f"no C++ compiler found (looked for {wanted or ', '.join(COMPILERS)})")


def _key(source: dict[str, bytes], compiler: str) -> str:
    """Changes whenever the library would: source, flags, compiler, processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    about = repr((FLAGS, VARIANTS, compiler, platform.system(), _processor())).encode()
    return hashlib.sha256(b"\0".join((*source.values(), version, about))).hexdigest()[:20]


def _processor() -> str:
    """What -march=native looks at, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = sorted(
        {line for line in lines if line.startswith(("flags", "model name", "Features", "CPU part"))}
    )
    return "\n".join(told) or f"{platform.machine()} {platform.processor()}"


def _build(source: dict[str, bytes], compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, content in source.items():
            (Path(folder) / name).write_bytes(content)
        target = Path(folder) / path.name
        for variant in VARIANTS:
            command = [compiler, *FLAGS, *variant, SOURCES[0], "-o", path.name]
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if ran.returncode == 0 and target.exists():
                os.replace(target, path)
                return
    raise CannotCompileError(f"{compiler} failed: {ran.stderr.strip()[-300:]}")

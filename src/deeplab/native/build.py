"""Shared libraries from this package's C++ sources, built at first use with the system's compiler.

Nothing is compiled when the package is installed. A library lies in the cache folder under a name that changes
with the sources, the compiler and the processor, so it is built once and never loaded where it does not belong.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

import torch  # noqa: F401  brings the OpenMP runtime that the libraries share

from deeplab.cache import cache_folder

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-pthread")
# OpenMP's runtime is torch's own, found when the library is loaded: a second one would spin against it. The others
# are for systems whose torch has another runtime, and for compilers that do not know this processor.
VARIANTS = (("-march=native", "-fopenmp"), ("-march=native",), ())
SWITCH = "DEEPLAB_KERNELS"
COMPILERS = ("c++", "g++", "clang++")


class CannotCompileError(RuntimeError):
    """No library could be made; the message says why."""


@cache
def load_library(package: str, sources: tuple[str, ...]) -> ctypes.CDLL:
    """The library of `sources`, files of `package`; the first is compiled, the others are its headers.

    Raises:
        CannotCompileError: no compiler, or it fails, or its result cannot be stored or loaded.
    """
    compiler = _compiler()
    name = Path(sources[0]).stem
    try:
        contents = {each: resources.files(package).joinpath(each).read_bytes() for each in sources}
        folder, key = cache_folder() / "native", _key(contents, compiler)
        failures = []
        for index, variant in enumerate(VARIANTS):
            path = folder / f"{name}-{key}-{index}.so"
            failures.append("" if path.exists() else _build(contents, compiler, variant, path))
            if not failures[-1]:
                try:
                    return ctypes.CDLL(str(path))
                except OSError as error:
                    failures[-1] = f"{path} cannot be loaded: {error}"
    except OSError as error:
        raise CannotCompileError(f"the library cannot be built: {error}") from error
    raise CannotCompileError(failures[-1])


def optional_library(package: str, sources: tuple[str, ...]) -> ctypes.CDLL | None:
    """As `load_library`; None where it cannot be built, or the environment says DEEPLAB_KERNELS=plain."""
    if os.environ.get(SWITCH) == "plain":
        return None
    try:
        return load_library(package, sources)
    except CannotCompileError:
        return None


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise CannotCompileError(f"no C++ compiler found (looked for {wanted or ', '.join(COMPILERS)})")


def _key(contents: dict[str, bytes], compiler: str) -> str:
    """Changes whenever the library would: sources, flags, compiler, processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    about = repr((FLAGS, VARIANTS, compiler, platform.system(), _processor())).encode()
    return hashlib.sha256(b"\0".join((*contents.values(), version, about))).hexdigest()[:20]


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


def _build(contents: dict[str, bytes], compiler: str, variant: tuple[str, ...], path: Path) -> str:
    """Compile to `path`; what the compiler said if it failed, else nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, content in contents.items():
            (Path(folder) / name).write_bytes(content)
        # two steps, as linking with -fopenmp would name a runtime
        compiling = [compiler, *FLAGS, *variant, "-c", next(iter(contents)), "-o", "library.o"]
        linking = [compiler, "-shared", "-pthread", "library.o", "-o", path.name]
        for command in (compiling, linking):
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if ran.returncode:
                return f"{compiler} failed: {ran.stderr.strip()[-300:]}"
        os.replace(Path(folder) / path.name, path)
    return ""

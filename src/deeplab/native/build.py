"""Shared libraries from this package's C++ sources: those that a wheel brings, else built at first use.

Wheels for Linux on x86-64 bring each kernel compiled for several levels of instructions, and the processor decides
which is loaded. Elsewhere nothing is compiled when the package is installed, but at first use with the system's
compiler. Such a library lies in the cache folder under a name that changes with the sources, the compiler and the
processor, so it is built once and never loaded where it does not belong.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch  # noqa: F401  brings the OpenMP runtime that the libraries share

from deeplab.errors import UserError
from deeplab.native.sources import FLAGS, KERNELS, LEVELS, OPENMP, SHIPPED, commands, levels
from deeplab.system.cache import cache_folder
from deeplab.system.reading import sha256_of

# OpenMP's runtime is torch's own, found when the library is loaded: a second one would spin against it. The others
# are for systems whose torch has another runtime, and for compilers that do not know this processor.
VARIANTS = (("-march=native", OPENMP), ("-march=native",), ())
SWITCH, PLAIN, COMPILE = "DEEPLAB_KERNELS", "plain", "compile"
SHIPPED_FOLDER = Path(__file__).parents[1] / SHIPPED
COMPILERS = ("c++", "g++", "clang++")
# the slowest kernel takes some ten seconds of a busy core
MOST_SECONDS = 180.0
POINTER, LONG, INT, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float


class CannotCompileError(RuntimeError):
    """No library could be made; the message says why."""


class _CompilerHangsError(CannotCompileError):
    """Another try would take as long."""


@dataclass(frozen=True)
class Kernel:
    """A library of compiled functions, found or built, and loaded, when it is first asked for.

    Attributes:
        module: the dotted name of the module that calls it, by which `KERNELS` names its sources.
        functions: by name, the ctypes type of the result (None: there is none) and those of the arguments.
    """

    module: str
    functions: Mapping[str, tuple[Any, ...]]

    @property
    def name(self) -> str:
        """That of the compiled source, without its ending."""
        return Path(KERNELS[self.module][0]).stem

    @property
    def library(self) -> ctypes.CDLL:
        """The library, its functions typed.

        Raises:
            CannotCompileError: no compiler, or it fails or does not end, or its result cannot be kept or loaded;
                or the environment says DEEPLAB_KERNELS=plain, or asks for a level that is not there.
            UserError: the environment says anything else there.
        """
        if isinstance(self._found, str):
            raise CannotCompileError(self._found)
        return self._found[0]

    @property
    def why_not(self) -> str:
        """Empty if the library is ready (it is built for the answer), else the reason."""
        return self._found if isinstance(self._found, str) else ""

    @property
    def state(self) -> str:
        """Where the library comes from, such as 'shipped, for x86-64-v3' or 'compiled', or why there is none."""
        return self._found if isinstance(self._found, str) else self._found[1]

    def ready(self) -> bool:
        """Whether the library is there; the first kernel of a process that has none warns.

        Who asked for plain code is not told that it runs.
        """
        if not isinstance(self._found, str):
            return True
        if _wanted() != PLAIN:
            _warn_once(self._found)
        return False

    @cached_property
    def _found(self) -> tuple[ctypes.CDLL, str] | str:
        """The library and where it comes from, or why there is none."""
        wanted = _wanted()
        if wanted == PLAIN:
            return f"{SWITCH} is {PLAIN!r}"
        try:
            shipped = None if wanted == COMPILE else self._shipped(wanted)
            return shipped or (self._compiled(), "compiled")
        except CannotCompileError as error:
            return str(error)
        except (OSError, UserError) as error:
            return f"the library cannot be built: {error}"

    def _shipped(self, wanted: str) -> tuple[ctypes.CDLL, str] | None:
        """That of the wheel for the best level that this processor has, if it brought one that loads."""
        for level in levels(_instructions()):
            path = SHIPPED_FOLDER / level / f"{self.name}.so"
            if wanted in ("", level) and path.exists():
                try:
                    return self._load(path), f"shipped, for {level}"
                except CannotCompileError:
                    # a torch with another OpenMP runtime, say: a compiler will do
                    break
        if wanted:
            raise CannotCompileError(
                f"{SWITCH} is {wanted!r}, which was not shipped or is not for this processor"
            )
        return None

    def _compiled(self) -> ctypes.CDLL:
        package = resources.files(self.module.rpartition(".")[0])
        contents = {each: package.joinpath(each).read_bytes() for each in KERNELS[self.module]}
        compiler = _compiler()
        folder, key = _own_folder(cache_folder() / "native"), _key(contents, compiler)
        for index, variant in enumerate(VARIANTS):
            try:
                stem = f"{self.name}-{key}-{index}"
                return self._load(_kept(folder, stem) or _build(contents, compiler, variant, folder, stem))
            except _CompilerHangsError:
                raise
            except CannotCompileError as error:
                reason = error
        raise reason

    def _load(self, path: Path) -> ctypes.CDLL:
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, *arguments) in self.functions.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise CannotCompileError(f"{path} cannot be loaded: {error}") from error
        return library


def _wanted() -> str:
    """What the environment asks for, empty for the best there is."""
    wanted, allowed = os.environ.get(SWITCH, ""), (PLAIN, COMPILE, *LEVELS)
    if wanted not in ("", *allowed):
        raise UserError(
            f"{SWITCH} is {wanted!r}; allowed is one of {', '.join(allowed)}", fix="set it so, or unset it"
        )
    return wanted


def _warn_once(reason: str) -> None:
    """Said once a process, whatever the kernel: all of them fail alike."""
    if _told:
        return
    _told.append(reason)
    warnings.warn(
        f"kernels are not compiled, and plain PyTorch code runs instead: the same results, several times slower; "
        f"reason: {reason}; fix: mend this (`deeplab env` shows the state), or set {SWITCH}={PLAIN} to hear no "
        f"more of it",
        RuntimeWarning,
        stacklevel=3,
    )


_told: list[str] = []


def _own_folder(folder: Path) -> Path:
    """`folder`, made if need be, after a look whether others could have put libraries there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise CannotCompileError(
            f"other users can write to {folder}, so that no library of it can be trusted; "
            f"fix: delete it, or set DEEPLAB_CACHE to a folder of your own"
        )
    folder.chmod(0o700)
    return folder


def _compiler() -> str:
    if os.name != "posix":
        raise CannotCompileError(f"kernels are for Linux and macOS, and this is {platform.system()}")
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise CannotCompileError(f"no C++ compiler found (looked for {wanted or ', '.join(COMPILERS)})")


def _key(contents: dict[str, bytes], compiler: str) -> str:
    """Changes whenever the library would: sources, flags, compiler, processor."""
    about = repr((FLAGS, VARIANTS, compiler, _version(compiler), platform.system(), _processor())).encode()
    return hashlib.sha256(b"\0".join((*contents.values(), about))).hexdigest()[:20]


@cache
def _version(compiler: str) -> str:
    return _output([compiler, "--version"])[1]


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


def _instructions() -> set[str]:
    """What every processor of this machine can do, as Linux calls it; empty where the system does not say."""
    flags = [set(line.split()) for line in _processor().splitlines() if line.startswith("flags")]
    return set.intersection(*flags) if flags else set()


def _kept(folder: Path, stem: str) -> Path | None:
    """The library built before, whose name ends in its bytes' SHA-256; what a crash has cut off is deleted."""
    for path in folder.glob(f"{stem}-*.so"):
        if path.name == f"{stem}-{sha256_of(path)}.so":
            return path
        path.unlink(missing_ok=True)
    return None


def _build(
    contents: dict[str, bytes], compiler: str, variant: tuple[str, ...], folder: Path, stem: str
) -> Path:
    """Compile into `folder`, under a name that `_kept` finds."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name, content in contents.items():
            (Path(place) / name).write_bytes(content)
        for command in commands(compiler, next(iter(contents)), variant):
            status, said = _output(command, folder=place)
            if status:
                raise CannotCompileError(f"{compiler} failed: {' '.join(said.split())[-300:]}")
        built = Path(place) / "library.so"
        with built.open("rb+") as file:
            os.fsync(file.fileno())
        path = folder / f"{stem}-{sha256_of(built)}.so"
        os.replace(built, path)
    return path


def _output(command: list[str], *, folder: str | None = None) -> tuple[int, str]:
    """Exit status and what was printed, whatever its bytes."""
    compiler = command[0]
    if compiler in _hanging:
        raise _CompilerHangsError(_hanging[compiler])
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=MOST_SECONDS)
        except BaseException as error:
            # its children too, which hold the pipe open
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            _hanging[compiler] = f"{compiler} has not ended after {MOST_SECONDS:g} s"
            raise _CompilerHangsError(_hanging[compiler]) from error
    return process.returncode, printed.decode(errors="replace")


# compilers that were waited for in vain: no other kernel shall wait again
_hanging: dict[str, str] = {}

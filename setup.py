"""Wheels that bring the kernels compiled, which pyproject.toml cannot say.

    DEEPLAB_SHIP_KERNELS=1 pip wheel --no-deps .

compiles every kernel for every level of instructions; a wheel for Linux on x86-64 comes out, for any Python. Without
the variable, and in editable installs, nothing is compiled: the kernels then are at first use, on any system.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "src"))

from deeplab.native.sources import KERNELS, MACHINES, OPENMP, SHIPPED, commands  # noqa: E402

SHIPS = os.environ.get("DEEPLAB_SHIP_KERNELS", "") == "1"
if SHIPS and (sys.platform, platform.machine()) != ("linux", "x86_64"):
    sys.exit("DEEPLAB_SHIP_KERNELS is set, and kernels are shipped for Linux on x86-64 only; fix: unset it")


class BuildWithKernels(build_py):
    """The package's files, and the libraries beside them."""

    def run(self) -> None:
        super().run()
        shipped = Path(self.build_lib) / "deeplab" / SHIPPED
        # of an earlier build
        shutil.rmtree(shipped, ignore_errors=True)
        if not SHIPS or self.editable_mode:
            return
        for level in MACHINES:
            (shipped / level).mkdir(parents=True)
            for module, (source, *_) in KERNELS.items():
                folder = ROOT.joinpath("src", *module.split(".")[:-1])
                compile_library(folder / source, level, (shipped / level / source).with_suffix(".so"))


def compile_library(source: Path, level: str, library: Path) -> None:
    """Headers are found beside the source.

    Raises:
        CalledProcessError: the compiler, $CXX or c++, failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # no path of this machine is in what it makes
        flags = (*MACHINES[level], OPENMP, f"-ffile-prefix-map={source.parent}=.")
        for command in commands(os.environ.get("CXX", "c++"), str(source.resolve()), flags):
            subprocess.run(command, cwd=folder, check=True)
        subprocess.run(["strip", "--strip-unneeded", "library.so"], cwd=folder, check=True)
        shutil.copyfile(Path(folder) / "library.so", library)


class WheelForAnyPython(bdist_wheel):
    """The libraries do not know Python."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        return ("py3", "none", system) if SHIPS else (python, abi, system)


class DistributionWithLibraries(Distribution):
    """What decides whether a wheel is for one platform."""

    def has_ext_modules(self) -> bool:
        return SHIPS


setup(
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelForAnyPython},
    distclass=DistributionWithLibraries,
)

"""Compiled kernels: built once, kept whole, trusted only if ours; and one warning where there is none."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module, resources
from pathlib import Path

import numpy as np
import pytest

from deeplab.errors import UserError
from deeplab.native import build
from deeplab.native.build import INT, CannotCompileError, Kernel
from deeplab.native.confusion import KERNEL as CONFUSION
from deeplab.native.sources import KERNELS, LEVELS, commands, levels


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own, and a process that has told and waited for nothing yet."""
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DEEPLAB_KERNELS", raising=False)
    monkeypatch.setattr(build, "SHIPPED_FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(build, "_told", [])
    monkeypatch.setattr(build, "_hanging", {})


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Of a package with one function, which a compiler has ready soon."""
    if CONFUSION.why_not.startswith("no C++"):
        pytest.skip(CONFUSION.why_not)
    package = tmp_path / "sources" / "one_kernel"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "answer.cpp").write_text('extern "C" int answer(int n) { return 2 * n; }\n')
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setitem(KERNELS, "one_kernel.calls", ("answer.cpp",))
    yield Kernel("one_kernel.calls", {"answer": (INT, INT)})
    sys.modules.pop("one_kernel", None)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that makes a shell script the compiler."""

    def pretend(script: str) -> Path:
        path = tmp_path / "c++"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    return pretend


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "native").iterdir())


@pytest.mark.parametrize("module", KERNELS)
def test_every_kernel_is_built_where_there_is_a_compiler(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPLAB_CACHE")
    kernel = import_module(module).KERNEL
    if kernel.why_not.startswith("no C++"):
        pytest.skip(kernel.why_not)
    assert not kernel.why_not and kernel.module == module
    assert all(getattr(kernel.library, name).argtypes is not None for name in kernel.functions)


def test_built_once_in_a_folder_of_ones_own(
    kernel: Kernel, compiler: Callable[[str], Path], tmp_path: Path
) -> None:
    compiler(f'echo x >> {tmp_path}/calls; exec c++ "$@"')
    assert kernel.ready() and kernel.library.answer(21) == 42
    (library,) = kept(tmp_path)
    assert (tmp_path / "cache" / "native").stat().st_mode & 0o777 == 0o700
    calls = (tmp_path / "calls").read_text()
    assert replace(kernel).ready() and (tmp_path / "calls").read_text() == calls
    assert kept(tmp_path) == [library]


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "another"])
def test_a_damaged_library_is_built_again(kernel: Kernel, tmp_path: Path, damage: str) -> None:
    assert kernel.ready()
    (library,) = kept(tmp_path)
    whole = library.read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "zeros": bytes(len(whole)),
        "empty": b"",
        "another": b"x" + whole,
    }
    # a new file: the old one is mapped into this process
    library.unlink()
    library.write_bytes(damaged[damage])
    # in a process of its own, which a bad library would end
    program = (
        "from deeplab.native.build import *\n"
        "KERNELS['one_kernel.calls'] = ('answer.cpp',)\n"
        "print(Kernel('one_kernel.calls', {'answer': (INT, INT)}).library.answer(4))"
    )
    path = os.pathsep.join(sys.path)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert (ran.returncode, ran.stdout) == (0, "8\n"), ran.stderr
    (again,) = kept(tmp_path)
    assert again.stat().st_size == len(whole)


def test_a_folder_that_others_can_write_to_is_not_trusted(kernel: Kernel, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert f"other users can write to {folder}" in kernel.why_not
    folder.chmod(0o755)
    assert replace(kernel).ready() and folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_not_trusted(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel.ready()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    other = replace(kernel)
    with pytest.warns(RuntimeWarning, match="other users can write"):
        assert not other.ready()


def test_a_link_to_a_folder_is_not_trusted(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "native").symlink_to(tmp_path / "elsewhere")
    assert "other users" in kernel.why_not and not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo no such luck >&2; exit 1", "no such luck"),
        (r"printf 'b\303\303\377d luck' >&2; exit 1", "luck"),
        # says that it is done, and made nothing
        ("exit 0", "the library cannot be built"),
        ('test "$1" = --version || echo no library | tee library.o > library.so', "cannot be loaded"),
    ],
)
def test_one_warning_whatever_fails(
    kernel: Kernel, compiler: Callable[[str], Path], tmp_path: Path, script: str, reason: str
) -> None:
    compiler(script)
    with pytest.warns(RuntimeWarning, match=reason) as told:
        assert not kernel.ready() and not kernel.ready() and not replace(CONFUSION).ready()
    assert len(told) == 1 and "the same results, several times slower" in str(told[0].message)
    with pytest.raises(CannotCompileError, match=reason):
        _ = kernel.library
    assert not [path for path in kept(tmp_path) if path.is_dir()]


def test_a_compiler_that_hangs_is_waited_for_once(
    kernel: Kernel, compiler: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MOST_SECONDS", 0.3)
    # what it started holds its output open, and goes with it
    compiler(f"echo x >> {tmp_path}/calls; sleep 321 & echo $! > {tmp_path}/pid; wait")
    assert "has not ended after 0.3 s" in kernel.why_not
    assert "has not ended" in replace(CONFUSION).why_not
    assert (tmp_path / "calls").read_text() == "x\n"
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/cmdline")
    deadline = time.monotonic() + 20
    while child.exists() and b"321" in child.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.exists() or b"321" not in child.read_bytes()


def test_without_a_compiler(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    with pytest.warns(RuntimeWarning, match="no C.. compiler found .*absent"):
        assert not kernel.ready()


def test_plain_is_silent_and_other_words_are_refused(
    kernel: Kernel, compiler: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(f"touch {tmp_path}/called; exit 1")
    monkeypatch.setenv("DEEPLAB_KERNELS", "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernel.ready()
    assert not (tmp_path / "called").exists()
    monkeypatch.setenv("DEEPLAB_KERNELS", "none")
    with pytest.raises(
        UserError, match="DEEPLAB_KERNELS is 'none'; allowed is one of plain, compile, x86-64-v4"
    ):
        replace(kernel).ready()


def test_every_source_in_the_package_is_a_kernels() -> None:
    root = Path(build.__file__).parents[1]
    found = {path for ending in ("cpp", "hpp") for path in root.rglob(f"*.{ending}")}
    assert found == {
        root.parent.joinpath(*module.split(".")).parent / file
        for module, files in KERNELS.items()
        for file in files
    }


@pytest.mark.parametrize("module", KERNELS)
def test_the_list_has_every_header_and_no_other(module: str) -> None:
    first, *headers = (
        Path(str(resources.files(module.rpartition(".")[0]))) / each for each in KERNELS[module]
    )
    included = {
        name for path in (first, *headers) for name in re.findall(r'#include "(.*)"', path.read_text("utf-8"))
    }
    assert included == {path.name for path in headers}


def ship(kernel: Kernel, tmp_path: Path, **answers: str) -> None:
    """Libraries as a wheel brings them, by level (`v3`) and body."""
    for level, body in answers.items():
        place = tmp_path / "shipped" / f"x86-64-{level}"
        place.mkdir(parents=True)
        (place / "answer.cpp").write_text(f'extern "C" int answer(int n) {{ {body} }}\n')
        for command in commands("c++", "answer.cpp", ()):
            subprocess.run(command, cwd=place, check=True)
        (place / "library.so").rename(place / f"{kernel.name}.so")


DOT, V4, V3 = LEVELS.values()


@pytest.mark.parametrize(
    ("instructions", "wanted", "answer", "state"),
    [
        (V4, "", 4, "shipped, for x86-64-v4"),
        (DOT, "", 5, "shipped, for x86-64-v4-dot"),
        (DOT, "x86-64-v4", 4, "shipped, for x86-64-v4"),
        (V4 | {"avx512_bf16"}, "", 4, "shipped, for x86-64-v4"),
        (V4 - {"avx512vl"}, "", 3, "shipped, for x86-64-v3"),
        (V3, "", 3, "shipped, for x86-64-v3"),
        (V4, "x86-64-v3", 3, "shipped, for x86-64-v3"),
        (V4, "compile", 2, "compiled"),
        (V3 - {"fma"}, "", 2, "compiled"),
    ],
)
def test_the_processor_decides_which_shipped_library_is_loaded(
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    instructions: frozenset[str],
    wanted: str,
    answer: int,
    state: str,
) -> None:
    ship(kernel, tmp_path, **{"v3": "return 3;", "v4": "return 4;", "v4-dot": "return 5;"})
    # of two processors one may be able to do more
    told = f"flags : {' '.join(instructions)}\nflags : {' '.join(instructions | V4)}"
    monkeypatch.setattr(build, "_processor", lambda: told)
    monkeypatch.setenv("DEEPLAB_KERNELS", wanted)
    assert (kernel.library.answer(1), kernel.state) == (answer, state)


def test_a_shipped_library_needs_no_compiler_and_no_cache(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ship(kernel, tmp_path, v3="return 3;")
    monkeypatch.setattr(build, "_processor", lambda: f"flags : {' '.join(V4)}")
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    assert kernel.ready() and kernel.state == "shipped, for x86-64-v3"
    assert not (tmp_path / "cache").exists()


def test_what_was_shipped_and_cannot_be_loaded_is_compiled(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # as where torch has another OpenMP runtime
    ship(kernel, tmp_path, v3="int absent_runtime(); return absent_runtime();")
    monkeypatch.setattr(build, "_processor", lambda: f"flags : {' '.join(V4)}")
    assert kernel.library.answer(21) == 42 and kernel.state == "compiled"


def test_a_level_that_was_not_shipped_is_said(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_KERNELS", "x86-64-v4")
    with pytest.warns(RuntimeWarning, match="DEEPLAB_KERNELS is 'x86-64-v4', which was not shipped"):
        assert not kernel.ready()


PREDICTION = ("dense_conv", "depthwise", "separable", "upsample_argmax", "upsampled", "winograd")
PREDICT = """
import sys
from importlib import import_module
from pathlib import Path
import numpy as np
from deeplab import Segmenter
from deeplab.native import build
folder, level, *names = sys.argv[1:]
build.SHIPPED_FOLDER = Path(folder)
photo = np.load(f"{folder}/photo.npy")
labels = [Segmenter(model)(photo).labels for model in ("animals", "street")]
for name in names:
    assert import_module(f"deeplab.native.{name}").KERNEL.state == f"shipped, for {level}", name
np.save(f"{folder}/{level}.npy", labels)
"""


def test_all_levels_give_the_same_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as in a wheel: registers are twice as wide in most of them, and sums have to be the same."""
    if CONFUSION.why_not.startswith("no C++") or len(levels(build._instructions())) < len(LEVELS):
        pytest.skip("needs a compiler, and a processor with every level")
    spec = importlib.util.spec_from_file_location("setup_py", Path(__file__).parents[2] / "setup.py")
    assert spec and spec.loader
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    # soft gradients: edges between classes are long, and their logits nearly equal there
    rows, columns = np.mgrid[0:193, 0:257]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 11), np.sin((rows + columns) / 13)], axis=-1)
    np.save(tmp_path / "photo.npy", (127 + 120 * waves).astype(np.uint8))
    for level in LEVELS:
        (tmp_path / level).mkdir()
        for name in PREDICTION:
            source = Path(build.__file__).with_name(f"{name}.cpp")
            setup.compile_library(source, level, tmp_path / level / f"{name}.so")
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PREDICT, tmp_path, level, *PREDICTION],
            check=True,
            env=os.environ | {"DEEPLAB_KERNELS": level, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    first, *others = (np.load(tmp_path / f"{level}.npy") for level in LEVELS)
    assert len(np.unique(first)) > 2 and all((each == first).all() for each in others)

"""Which kernels there are, and how a compiler is called. Builds, wheels, `deeplab env` and tests all go by it.

The standard library is enough for it, as `setup.py` builds wheels where nothing else is installed.
"""

from __future__ import annotations

from collections.abc import Iterable

ONE_PASS = ("one_pass.hpp", "taps.hpp", "sums.hpp", "lanes.hpp")
# module that calls it -> files beside it; the first is compiled, the others are its headers
KERNELS: dict[str, tuple[str, ...]] = {
    "deeplab.native.confusion": ("confusion.cpp", "share_out.hpp"),
    "deeplab.native.dense_conv": ("dense_conv.cpp", "products.hpp", "sums.hpp", "lanes.hpp"),
    "deeplab.native.depthwise": ("depthwise.cpp", "taps.hpp", "sums.hpp", "lanes.hpp"),
    "deeplab.native.int8": ("int8_conv.cpp", "byte_products.hpp", *ONE_PASS),
    "deeplab.native.norm_act": ("norm_act.cpp", "lanes.hpp"),
    "deeplab.native.separable": ("separable.cpp", "products.hpp", *ONE_PASS),
    "deeplab.native.upsample_argmax": ("upsample_argmax.cpp",),
    "deeplab.native.upsampled": ("upsampled.cpp", "products.hpp", *ONE_PASS),
    "deeplab.native.upsample_loss": ("upsample_loss.cpp", "vector_math.hpp", "share_out.hpp"),
    "deeplab.native.winograd": ("winograd.cpp", "products.hpp", "sums.hpp", "lanes.hpp"),
    "deeplab.crf.compiled": ("mean_field.cpp", "lattice.hpp", "buffer.hpp", "team.hpp"),
    "deeplab.data.fast_crop": ("fast_crop.cpp",),
}
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-pthread")
OPENMP = "-fopenmp"

# What a wheel for Linux on x86-64 has each kernel for, best first, and the instructions that each takes for granted, as
# Linux calls them. The best one sums products of bfloat16 and of bytes in one instruction.
_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
LEVELS: dict[str, frozenset[str]] = {
    "x86-64-v4-dot": _V4 | frozenset(["avx512_bf16", "avx512_vnni"]),
    "x86-64-v4": _V4,
    "x86-64-v3": _V3,
}
# what compilers call them
MACHINES: dict[str, tuple[str, ...]] = {
    "x86-64-v4-dot": ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"),
    "x86-64-v4": ("-march=x86-64-v4",),
    "x86-64-v3": ("-march=x86-64-v3",),
}
# folder in the package that holds them: LEVEL/NAME.so
SHIPPED = "native/shipped"


def commands(compiler: str, source: str, flags: Iterable[str]) -> tuple[list[str], list[str]]:
    """How `source` becomes library.so in the working folder: compile and link, one after the other.

    Two steps, as linking with -fopenmp would name a runtime, and torch has brought one.
    """
    return (
        [compiler, *FLAGS, *flags, "-c", source, "-o", "library.o"],
        [compiler, "-shared", "-pthread", "library.o", "-o", "library.so"],
    )


def levels(flags: Iterable[str]) -> tuple[str, ...]:
    """Those of `LEVELS` whose instructions are all among `flags`, best first."""
    return tuple(level for level, needed in LEVELS.items() if needed <= frozenset(flags))

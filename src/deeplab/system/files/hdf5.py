"""HDF5 files as groups of arrays and texts, read by a process of its own, within limits of time and memory.

The HDF5 library trusts its files: damaged ones make it run for ever or end the process that calls it, and they may
name other files to read. Needs h5py (extra `keras`).
"""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from deeplab.errors import UserError, require
from deeplab.system.reading import DAMAGED, RATIO, SMALL, cut, shown

# of the processor for a small file, start included, and bytes a second beyond; a busy machine may take longer
SECONDS, SPEED, BUSY = 8, 50_000_000, 10
# of the process, beside the file and what it unpacks to
MEMORY = 1 << 30
MOST_PARTS, MOST_SIDES, DEEPEST = 100_000, 8, 32
# attributes that list names
LISTS = ("layer_names", "weight_names")


class Group(NamedTuple):
    """A group: its attributes that list names, groups, and arrays as float32."""

    lists: dict[str, list[str]]
    groups: dict[str, Group]
    arrays: dict[str, np.ndarray]

    def within(self, path: str) -> Group:
        """The group at `path` below this one; raises KeyError where there is none."""
        found = self
        for name in filter(None, path.split("/")):
            found = found.groups[name]
        return found

    def array(self, path: str) -> np.ndarray:
        """The array at `path` below this group; raises KeyError where there is none."""
        parent, _, name = path.rpartition("/")
        return self.within(parent).arrays[name]


def read_hdf5(data: bytes) -> Group:
    """The root group of a file with these bytes.

    Raises:
        UserError: h5py is not installed; the file is damaged, or reading it takes too long or too much memory.
    """
    require("h5py", extra="keras")
    unpacked = max(SMALL, RATIO * len(data))
    program = f"from deeplab.system.files.hdf5 import tell; tell({unpacked})"
    surroundings = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    try:
        found = subprocess.run(
            [sys.executable, "-P", "-c", program],
            input=data,
            capture_output=True,
            timeout=BUSY * (SECONDS + len(data) / SPEED),
            env=surroundings,
        )
    except subprocess.TimeoutExpired:
        raise UserError("its HDF5 structure leads nowhere: it is damaged", fix=DAMAGED) from None
    if found.returncode:
        said = cut(found.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        raise UserError(f"its HDF5 structure is damaged ({said or 'the HDF5 library broke'})", fix=DAMAGED)
    size = int.from_bytes(found.stdout[:8], "little")
    parts = json.loads(found.stdout[8 : 8 + size])
    root, start = Group({}, {}, {}), 8 + size
    for path, name, content in parts:
        group = root
        for step in path:
            group = group.groups.setdefault(step, Group({}, {}, {}))
        if name in LISTS and isinstance(content, dict):
            group.lists[name] = content["names"]
        elif content is not None:
            count = int(np.prod(content))
            group.arrays[name] = np.frombuffer(found.stdout, np.float32, count, start).reshape(content)
            start += 4 * count
    return root


def tell(unpacked: int) -> None:
    """Read a file from the standard input and write what `read_hdf5` takes: runs in a process of its own."""
    data = sys.stdin.buffer.read()
    try:
        import resource

        limit = MEMORY + 2 * len(data) + 2 * unpacked
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        seconds = SECONDS + len(data) // SPEED
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    except ImportError:
        # Windows: only the parent's patience ends
        pass
    h5py = importlib.import_module("h5py")

    parts: list[Any] = []
    arrays: list[Any] = []
    left = unpacked
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            for path, name, content in _walk(file, []):
                if len(parts) == MOST_PARTS:
                    raise UserError(f"more than {MOST_PARTS} parts")
                if isinstance(content, np.ndarray):
                    left -= content.nbytes
                    arrays.append(content)
                    content = content.shape
                parts.append((path, name, content))
                if left < 0:
                    raise UserError(f"arrays of more than {unpacked} bytes")
    except BaseException as error:
        sys.exit(f"{type(error).__name__}: {shown(error)}")
    header = json.dumps(parts).encode()
    out = sys.stdout.buffer
    out.write(len(header).to_bytes(8, "little") + header)
    for array in arrays:
        out.write(array.data if array.ndim else array.tobytes())
    out.flush()


def _walk(group: Any, path: list[str]) -> Iterator[tuple[list[str], str, Any]]:
    """Path, name and content of every list of names, array, and (without content) group."""
    h5py = importlib.import_module("h5py")

    if len(path) > DEEPEST:
        raise UserError(f"groups more than {DEEPEST} deep")
    yield path, "", None
    for name in LISTS:
        if name in group.attrs:
            attribute = group.attrs.get_id(name)
            if attribute.get_storage_size() > SMALL or int(np.prod(attribute.shape)) > MOST_PARTS:
                raise UserError(f"a list {name} of {attribute.shape} entries")
            entries = np.atleast_1d(group.attrs[name]).tolist()
            names = [each.decode() if isinstance(each, bytes) else str(each) for each in entries]
            yield path, name, {"names": names}
    for name in group:
        # others lead to places elsewhere, in other files too
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        part = group[name]
        if isinstance(part, h5py.Group):
            yield from _walk(part, [*path, name])
        elif isinstance(part, h5py.Dataset) and part.dtype.kind in "fiu":
            if part.external or part.is_virtual:
                raise UserError(f"{name} is stored in another file")
            if part.ndim > MOST_SIDES or part.size * 4 > max(SMALL, RATIO * group.file.id.get_filesize()):
                raise UserError(f"{name} of shape {part.shape}, more than the file can hold")
            yield path, name, np.ascontiguousarray(part[()], np.float32).reshape(part.shape)

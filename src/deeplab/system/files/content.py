"""What a file seems to be, by its first bytes, and what to do about it: for errors that say more than "no".

Names are never looked at: a downloaded error page keeps the name of the weights it stands for.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple


class Content(NamedTuple):
    """A phrase like 'a PNG image', and what its owner can do to import what it stands for."""

    name: str
    fix: str


GIVE_WEIGHTS = "give the file with the weights"
FETCH = "open the address in a browser: it may ask to sign in or to agree; fetch the file itself"
UNPACK = "unpack it and give the file or the folder with the weights"
SAVE_WEIGHTS = (
    "a pickle can run code and is not opened; where it was made, "
    "torch.save(model.state_dict(), 'weights.pth') saves the weights alone"
)
SAVE_NUMPY = (
    "bare arrays do not say what they belong to; save them as a state dict, "
    "torch.save(model.state_dict(), 'weights.pth')"
)
PICKLE = Content("a Python pickle", SAVE_WEIGHTS)
ONNX = Content("an ONNX model", "give the weights that it was exported from (.pth, .safetensors, .h5)")
IMAGE = f"{GIVE_WEIGHTS}; photos go to `deeplab predict`"
# longest first where one signature begins another
SIGNATURES: tuple[tuple[int, bytes, Content], ...] = (
    (4, b"TFL3", Content("a TensorFlow Lite model", "fetch it again")),
    (0, b"\x89PNG\r\n\x1a\n", Content("a PNG image", IMAGE)),
    (0, b"\xff\xd8\xff", Content("a JPEG image", IMAGE)),
    (0, b"GIF8", Content("a GIF image", IMAGE)),
    (0, b"BM", Content("a BMP image", IMAGE)),
    (0, b"%PDF-", Content("a PDF document", GIVE_WEIGHTS)),
    (0, b"\x89HDF\r\n\x1a\n", Content("an HDF5 file (Keras .h5 weights, or MATLAB)", GIVE_WEIGHTS)),
    (0, b"\x93NUMPY", Content("a NumPy .npy array", SAVE_NUMPY)),
    (0, b"\x1f\x8b", Content("a gzip archive (.tar.gz, .gz)", UNPACK)),
    (0, b"BZh", Content("a bzip2 archive", UNPACK)),
    (0, b"\xfd7zXZ\x00", Content("an xz archive", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Content("a Zstandard archive", UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Content("a 7z archive", UNPACK)),
    (0, b"Rar!\x1a\x07", Content("a RAR archive", UNPACK)),
    (257, b"ustar", Content("a tar archive", UNPACK)),
    (0, b"\x80\x02", Content("a Python pickle (a legacy PyTorch .pth?)", SAVE_WEIGHTS)),
    (0, b"\x80\x03", PICKLE),
    (0, b"\x80\x04", PICKLE),
    (0, b"\x80\x05", PICKLE),
    (0, b"(dp", PICKLE),
    (0, b"(lp", PICKLE),
    (0, b"ccopy_reg\n", PICKLE),
    (0, b"}q\x00", PICKLE),
    (0, b"\x7fELF", Content("a program", GIVE_WEIGHTS)),
    (0, b"\x08\x01\x12", Content("a TensorFlow SavedModel", "give a frozen graph, or the checkpoint")),
    (
        0,
        b"model_checkpoint_path:",
        Content("the list of a folder's TensorFlow checkpoints", "give the folder"),
    ),
    (0, b"node {", Content("a TensorFlow graph written as text", "give the binary .pb")),
    (
        0,
        b"version https://git-lfs.github.com",
        Content(
            "a Git LFS pointer; the file it stands for was not fetched",
            "run `git lfs pull` in its repository, or download the file from its page",
        ),
    ),
)
# ModelProto: ir_version (from 2 on; 1 is a SavedModel's), then a field that may stand second
ONNX_START = re.compile(rb"\x08[\x02-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
HTML_START = re.compile(r"<(!doctype html|html|head|body|script|meta)\b|<!--")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# of bytes in old 8-bit encodings that are plain ASCII
MOSTLY = 0.8


def describe(head: bytes) -> str:
    """A phrase like 'a PNG image' for a file that begins with `head` (4 KiB are plenty)."""
    return recognise(head).name


def recognise(head: bytes) -> Content:
    """What a file that begins with `head` seems to be, and what to do about it."""
    if not head:
        return Content("an empty file", "fetch it again: the download failed or the disk was full")
    if head.startswith(b"PK\x03\x04"):
        return _recognise_zip(head)
    for offset, magic, content in SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return content
    if head.startswith(b"\x00\x00") and b"\x0a" in head[3:7]:
        return Content("a TensorFlow V1 checkpoint", "save it again in TensorFlow's V2 format")
    if ONNX_START.match(head):
        return ONNX
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return Content("a safetensors file", "fetch it again")
    return _recognise_text(head)


def _recognise_zip(head: bytes) -> Content:
    if b"data.pkl" in head:
        return Content("a PyTorch checkpoint (.pth, .pt)", "fetch it again")
    if b".weights.h5" in head or b"metadata.json" in head:
        return Content("a Keras archive (.keras)", "fetch it again")
    if b".npy" in head:
        return Content("a NumPy .npz archive", SAVE_NUMPY)
    return Content("a zip archive", UNPACK)


def _recognise_text(head: bytes) -> Content:
    text = _as_text(head)
    if text is None:
        return Content("binary data of an unknown kind", f"{GIVE_WEIGHTS}; if this is it, fetch it again")
    start = text.lstrip("\ufeff \t\r\n").lower()
    if HTML_START.match(start):
        return Content("an HTML page (a failed download?)", FETCH)
    if start.startswith("<?xml"):
        return Content("an XML document", FETCH)
    return Content("JSON text" if start.startswith(("{", "[")) else "text", GIVE_WEIGHTS)


def _as_text(head: bytes) -> str | None:
    """`head` as text, or None if its bytes are no text's."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return head.decode(encoding, errors="ignore")
    if any(byte < 9 or 13 < byte < 32 for byte in head):
        return None
    if sum(byte < 128 for byte in head) >= MOSTLY * len(head):
        return head.decode("utf-8", errors="replace")
    try:
        # the last character may be cut in two
        return codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None

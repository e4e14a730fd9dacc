"""What a file seems to be, by its first bytes: for errors that say more than "not recognised".

Names are never looked at: a downloaded error page keeps the name of the weights it stands for.
"""

from __future__ import annotations

# longest first where one signature begins another
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"BM", "a BMP image"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5 weights, or MATLAB)"),
    (0, b"\x93NUMPY", "a NumPy .npy array"),
    (0, b"\x1f\x8b", "a gzip archive (.tar.gz, .gz)"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x80\x02", "a Python pickle (a legacy PyTorch .pth?)"),
    (0, b"\x80\x03", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x80\x05", "a Python pickle"),
    (0, b"\x7fELF", "a program"),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel (give a frozen graph, or the checkpoint)"),
    (0, b"model_checkpoint_path:", "the list of a folder's TensorFlow checkpoints (give the folder)"),
    (0, b"node {", "a TensorFlow graph written as text (give the binary .pb)"),
    (0, b"version https://git-lfs.github.com", "a Git LFS pointer; the file it stands for was not fetched"),
)


def describe(head: bytes) -> str:
    """A phrase like 'a PNG image' for a file that begins with `head` (4 KiB are plenty)."""
    if not head:
        return "an empty file"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(head)
    for offset, magic, name in SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head.startswith(b"\x00\x00") and b"\x0a" in head[3:7]:
        return "a TensorFlow V1 checkpoint (save it again in TensorFlow's V2 format)"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "a safetensors file"
    return _describe_text(head)


def _describe_zip(head: bytes) -> str:
    if b"data.pkl" in head:
        return "a PyTorch checkpoint (.pth, .pt)"
    if b".weights.h5" in head or b"metadata.json" in head:
        return "a Keras archive (.keras)"
    if b".npy" in head:
        return "a NumPy .npz archive"
    return "a zip archive"


def _describe_text(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page (a failed download?)"
    if start.startswith(b"<?xml"):
        return "an XML document"
    if any(byte < 9 or 13 < byte < 32 for byte in head):
        return "binary data of an unknown kind"
    return "JSON text" if start.startswith((b"{", b"[")) else "text"

"""CRC-32C (Castagnoli), as TensorFlow stores it beside its data; fast on large arrays, with NumPy alone.

A cyclic redundancy check is linear over bits: the data is cut into lanes of equal length whose checks
advance together, two bytes a step, and are then chained by what a lane's worth of zero bytes does to a
check. Mask: TensorFlow's core/lib/hash/crc32c.h.
"""

from __future__ import annotations

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78
ONES = 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C of `data`: 0xE3069283 for b"123456789"."""
    octets = np.frombuffer(data, np.uint8)
    if len(octets) < 4:
        return _bit_by_bit(octets.tolist())
    length = 1 << len(octets).bit_length() // 2
    # zero bytes in front change nothing while the register is zero, so the data is padded there; starting
    # from ones is the same as starting from zero with the first four bytes inverted
    padded = np.zeros(-(-len(octets) // length) * length, np.uint8)
    used = padded[len(padded) - len(octets) :]
    used[:] = octets
    used[:4] ^= 0xFF
    lanes = _advance(np.zeros(len(padded) // length, np.uint32), padded.view("<u2").reshape(-1, length // 2))
    first, second, third, fourth = _behind_zeros(length)
    check = 0
    for lane in lanes.tolist():
        check = (
            first[check & 0xFF]
            ^ second[check >> 8 & 0xFF]
            ^ third[check >> 16 & 0xFF]
            ^ fourth[check >> 24]
            ^ lane
        )
    return check ^ ONES


def unmask(stored: int) -> int:
    """The check from its stored form, which TensorFlow rotates and shifts."""
    rotated = (stored - 0xA282EAD8) & ONES
    return (rotated >> 17 | rotated << 15) & ONES


def _advance(checks: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    table = _table()
    for pair in np.ascontiguousarray(lanes.T):
        checks = table[(checks ^ pair) & 0xFFFF] ^ (checks >> 16)
    return checks


@cache
def _table() -> np.ndarray:
    values = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        values = np.where(values & 1, values >> 1 ^ POLYNOMIAL, values >> 1).astype(np.uint32)
    return values


@cache
def _behind_zeros(count: int) -> list[list[int]]:
    """What `count` zero bytes, an even number, make of each value of each of a check's four bytes."""
    bytes_alone = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    zeros = np.broadcast_to(np.uint16(0), (1024, count // 2))
    return _advance(bytes_alone.ravel(), zeros).reshape(4, 256).tolist()


def _bit_by_bit(octets: list[int]) -> int:
    check = ONES
    for octet in octets:
        check ^= octet
        for _ in range(8):
            check = check >> 1 ^ (POLYNOMIAL if check & 1 else 0)
    return check ^ ONES

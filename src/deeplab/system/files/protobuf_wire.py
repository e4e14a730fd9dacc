"""Protocol buffers' wire format: what a message holds, by field number, with no schema and no dependency.

The few messages that published weights are stored in (TensorFlow graphs and checkpoint indexes) need a
handful of fields each, so the readers of those formats pick them by number. Format: the encoding chapter of
protobuf.dev.
"""

from __future__ import annotations

from collections.abc import Iterator

from deeplab.errors import UserError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
# of one message, some seconds; weights are packed into one field each
MOST_FIELDS = 1_000_000
Value = int | memoryview
Message = dict[int, list[Value]]


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """The unsigned number at `position`, and the position behind it.

    Raises:
        UserError: the data ends inside it, or it has more than 10 bytes.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise UserError("the data ends inside a number: the file is truncated or is of another kind")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise UserError("a number of more than 10 bytes: the file is damaged or is of another kind")


def signed(value: int) -> int:
    """An int32, int64 or enum from its varint."""
    return value - (1 << 64) if value >> 63 else value


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field in order: numbers as int, anything else as its bytes, not copied.

    Raises:
        UserError: bytes that are no message.
    """
    position = count = 0
    while position < len(data):
        count += 1
        if count > MOST_FIELDS:
            raise UserError(f"a message of more than {MOST_FIELDS} fields, which no weights have")
        key, position = read_varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = read_varint(data, position)
            yield number, value
            continue
        if kind == BYTES:
            size, position = read_varint(data, position)
        elif kind in FIXED_SIZES:
            size = FIXED_SIZES[kind]
        else:
            raise UserError(
                f"field {number} has wire type {kind}, which no message here has: not such a file"
            )
        if number == 0 or position + size > len(data):
            raise UserError(
                f"field {number} of {size} bytes goes beyond the data: truncated or of another kind"
            )
        yield number, data[position : position + size]
        position += size


def message(data: memoryview) -> Message:
    """All values of each field; a field that is absent has no key."""
    found: Message = {}
    for number, value in fields(data):
        found.setdefault(number, []).append(value)
    return found


def varints(values: list[Value]) -> list[int]:
    """A repeated number field, packed or not, as unsigned numbers."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = read_varint(value, position)
            numbers.append(number)
    return numbers


def text(values: list[Value]) -> str:
    """A string field's last value, as the format's rule is; '' where it is absent.

    Raises:
        UserError: a number where a string should be, or bytes that are no UTF-8.
    """
    if not values:
        return ""
    if isinstance(values[-1], int):
        raise UserError("a number where a string should be: not such a file")
    try:
        return bytes(values[-1]).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError("a string that is no UTF-8: the file is damaged or is of another kind") from None


def sub_message(found: Message, number: int) -> memoryview:
    """The bytes of field `number`, its last value; none where it is absent.

    Raises:
        UserError: a number where a message should be.
    """
    value = found.get(number, [memoryview(b"")])[-1]
    if isinstance(value, int):
        raise UserError("a number where a message should be: the file is damaged or is of another kind")
    return value


def sub_messages(found: Message, number: int) -> list[memoryview]:
    """The bytes of every value of field `number`: messages, strings, or numbers of fixed size.

    Raises:
        UserError: a number of varying size among them.
    """
    return [sub_message({number: [value]}, number) for value in found.get(number, [])]

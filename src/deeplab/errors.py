"""Errors that are a user's to fix, and the guard for optional dependencies."""

from __future__ import annotations

import copy
import importlib
import os
import re
from types import ModuleType

DISTRIBUTION = "deeplab-segmentation"
# workers of whatever kind, each with memory of its own
MOST_PROCESSES = 256
# characters: of a line of a sentence, of a value in it, and what is left of a longer value at either end
LONGEST_LINE, LONGEST_VALUE, END = 2000, 400, 100
# that a system takes, of a path and of a name in it; an index may claim others
LONGEST_PATH, LONGEST_NAME = 4096, 255
# without blanks, as numbers are, and between quotes as Python writes them
VALUES = (
    re.compile(rf"\S{{{LONGEST_VALUE},}}"),
    re.compile(rf"(?<!\w)(['\"])(?:(?!\1(?!\w)).){{{LONGEST_VALUE},}}+\1"),
)


class UserError(ValueError):
    """A mistake in the input, in parts that code may read; as text it is one sentence of them.

    The command line prints it without a traceback and exits with code 2. Of values of thousands of characters the
    middle is left out, wherever they were found: keys, numbers, names of classes, of files that cannot be.

    Attributes:
        what: what is wrong, with the value found; simple cases say all of it here.
        allowed: what may stand there instead; empty where nothing has to be said.
        fix: what to do; likewise.
        file: the file, folder or address that holds the mistake, in front of the sentence; None for none.
    """

    def __init__(
        self, what: str, *, allowed: str = "", fix: str = "", file: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.allowed, self.fix = map(_without_middles, (what, allowed, fix))
        self.file = None if file is None else os.fspath(file)

    def __str__(self) -> str:
        file = self.file and (self.file if len(self.file) <= LONGEST_PATH else _ends(self.file, END))
        parts = [self.what if file is None else f"{file}: {self.what}"]
        parts += [f"allowed: {self.allowed}"] if self.allowed else []
        return ("\n" if "\n" in self.what else "; ").join(parts + ([f"fix: {self.fix}"] if self.fix else []))

    def within(self, file: str | os.PathLike[str]) -> UserError:
        """The same mistake, of the same kind, in `file` where it names none."""
        named = copy.copy(self)
        named.file = os.fspath(file) if self.file is None else self.file
        return named


def _without_middles(text: str) -> str:
    if len(text) <= LONGEST_VALUE:
        return text
    lines = text.split("\n")
    for pattern in VALUES:
        # a line of megabytes is not searched for quotes
        lines = [_ends(line, LONGEST_LINE) for line in lines]
        lines = [pattern.sub(_shorter, line) for line in lines]
    return "\n".join(_ends(line, LONGEST_LINE // 2) for line in lines)


def _shorter(value: re.Match[str]) -> str:
    names = value[0].split("/")
    is_path = len(names) > 2 and max(map(len, names)) <= LONGEST_NAME
    return value[0] if is_path else _ends(value[0], END)


def _ends(text: str, length: int) -> str:
    return text if len(text) <= 2 * length else f"{text[:length]}...{text[-length:]}"


def refuse_outside(lowest: float, highest: float, **settings: float) -> None:
    """See that each setting is a number in these bounds, before anything starts.

    Raises:
        UserError: one is not; it is called by its name, `_` for a space; `__` begins an option of the command.
    """
    for name, value in settings.items():
        if not lowest <= value <= highest:
            option = name.startswith("__")
            called = f"--{name[2:].replace('_', '-')}" if option else name.replace("_", " ")
            raise UserError(f"{called} is {value}", allowed=f"{lowest} to {highest}")


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: dotted module name.
        extra: name of the extra in `pip install deeplab-segmentation[extra]`.

    Raises:
        UserError: the module cannot be imported. Broken binary wheels raise more than ImportError at
            import (RuntimeError, OSError), so any exception counts.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UserError(
            f"this needs the Python module {module!r}, which could not be imported "
            f"({type(error).__name__}: {error})",
            fix=f"pip install '{DISTRIBUTION}[{extra}]'",
        ) from error

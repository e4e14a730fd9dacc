"""Errors that are a user's to fix, and the guard for optional dependencies."""

from __future__ import annotations

import importlib
from types import ModuleType

DISTRIBUTION = "deeplab-segmentation"


class UserError(ValueError):
    """A mistake in the input: the message names the value found, what is allowed, and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


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
            f"({type(error).__name__}: {error}); fix: pip install '{DISTRIBUTION}[{extra}]'"
        ) from error

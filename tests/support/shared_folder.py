"""Where golden vectors and assets lie, and how tests skip without them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared(path: str) -> Path:
    """SHARED/path, or skip the calling test with the reason."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"{found} is absent: golden vectors and assets are not part of the project")
    return found

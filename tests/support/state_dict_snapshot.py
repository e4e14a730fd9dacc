"""Names, shapes and types of every contract model's weights, as fingerprints.

`python tests/support/state_dict_snapshot.py` writes them anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import nn

SNAPSHOT = Path(__file__).with_name("state_dict_snapshot.json")


def fingerprint(model: nn.Module) -> str:
    """Number of tensors and a hash over their names, shapes and types, in order."""
    state = model.state_dict()
    lines = [f"{key} {tuple(value.shape)} {value.dtype}" for key, value in state.items()]
    return f"{len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def main() -> None:
    """Write the snapshot of today's models."""
    from test_model import PAIRS, meta

    values = {f"{backbone} + {head}": fingerprint(meta(backbone, head)) for backbone, head in PAIRS}
    SNAPSHOT.write_text(json.dumps(values, indent=0) + "\n", encoding="utf-8")
    print(f"{len(values)} models in {SNAPSHOT}")


if __name__ == "__main__":
    main()

"""The command line's front door.

Subcommands are import paths: `deeplab --help` must not wait for torch.
"""

from __future__ import annotations

import sys

from cyclopts import App

from deeplab import __version__
from deeplab.errors import UserError

app = App(name="deeplab", help="Label every pixel: DeepLab v1, v2, v3 and v3+.", version=__version__)
app.command("deeplab.cli.predict:predict", name="predict")
app.command("deeplab.cli.train:train", name="train")
app.command("deeplab.cli.evaluate:evaluate", name="eval")
app.command("deeplab.cli.import_weights:import_weights", name="import")


def main() -> None:
    """Run the command line; a user's mistake prints one message and exits with code 2."""
    try:
        result = app(result_action="return_value")
    except UserError as error:
        print(f"deeplab: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("deeplab: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)

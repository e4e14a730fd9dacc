"""The command line's front door.

Subcommands are import paths: `deeplab --help` must not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App

from deeplab import __version__
from deeplab.cli.crf import crf
from deeplab.cli.data import data
from deeplab.errors import UserError

app = App(name="deeplab", help="Label every pixel: DeepLab v1, v2, v3 and v3+.", version=__version__)
app.command(
    "deeplab.cli.predict:predict", help="Label every pixel of photos: files, folders, globs.", name="predict"
)
app.command("deeplab.cli.train:train", help="Train a model by a recipe and measure it.", name="train")
app.command("deeplab.cli.evaluate:evaluate", help="Mean IoU of a model on a data set, by class.", name="eval")
app.command(
    "deeplab.cli.panoptic:panoptic", help="Panoptic Quality or Parsing Covering, by class.", name="panoptic"
)
app.command(
    "deeplab.cli.import_weights:import_weights",
    help="Turn published weights into a model of this package.",
    name="import",
)
app.command(data)
app.command(crf)
app.command("deeplab.cli.models:models", help="Named models: size, cost, published scores.", name="models")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake prints one message and exits with code 2.

    Args:
        arguments: words after `deeplab`; None takes the process's own.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = app(words, result_action="return_value")
    except UserError as error:
        print(f"deeplab: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("deeplab: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)

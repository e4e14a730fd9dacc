"""The command line's front door.

Subcommands are import paths: `deeplab --help` must not wait for torch.
"""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App

from deeplab import __version__
from deeplab.cli.crf import crf
from deeplab.cli.data import data
from deeplab.cli.whole_numbers import ARGUMENTS, PARAMETERS
from deeplab.errors import UserError
from deeplab.system.memory import ran_out_of_memory

app = App(
    name="deeplab",
    help="Label every pixel: DeepLab v1, v2, v3 and v3+.",
    version=__version__,
    # nothing of it is markdown, whose parser is a fifth of the time until the help stands there
    help_format="plaintext",
    group_arguments=ARGUMENTS,
    group_parameters=PARAMETERS,
)
COMMANDS = {
    "predict": ("deeplab.cli.predict:predict", "Label every pixel of photos: files, folders, globs."),
    "train": ("deeplab.cli.train:train", "Train a model by a recipe and measure it."),
    "recipes": ("deeplab.cli.recipes:recipes", "Recipes that come with the package, to list or to print."),
    "eval": ("deeplab.cli.evaluate:evaluate", "Mean IoU of a model on a data set, by class."),
    "serve": ("deeplab.cli.serve:serve", "Label photos over HTTP, with a page to try it."),
    "panoptic": ("deeplab.cli.panoptic:panoptic", "Panoptic Quality or Parsing Covering, by class."),
    "import": (
        "deeplab.cli.import_weights:import_weights",
        "Turn published weights into a model of this package.",
    ),
    "export": (
        "deeplab.cli.export:export",
        "Write a model for another runtime, with proof that it labels alike.",
    ),
    "models": ("deeplab.cli.models:models", "Named models: size, cost, published scores."),
    "env": ("deeplab.cli.env:env", "What runs here: versions, processor, kernels, extras, caches."),
}
for name, (path, text) in COMMANDS.items():
    app.command(path, name=name, help=text, help_format="markdown")
app.command(data)
app.command(crf)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake prints one message and exits with code 2.

    Args:
        arguments: words after `deeplab`; None takes the process's own.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # names of files may be no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _tell  # type: ignore[assignment]  # called with places alone
            result = app(words, result_action="return_value")
    except UserError as error:
        print(f"deeplab: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # which asking whether a file is there ends in, and no other mistake
        if error.errno != errno.ENAMETOOLONG or error.filename is None:
            raise
        long = UserError("this name is longer than systems take", fix="name another", file=error.filename)
        print(f"deeplab: {long}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        print(
            "deeplab: memory ran out; fix: smaller photos, --window, fewer --scales or a smaller batch",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("deeplab: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)


def _tell(message: Warning | str, *_: object) -> None:
    """A warning as a user reads it: what is said, not where in the code."""
    print(f"deeplab: warning: {message}", file=sys.stderr)

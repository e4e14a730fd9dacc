"""Run golden vectors of the reference through this package: `python tests/golden.py DIR`.

One row per case, of every family that the folder holds: models (a to g), preprocessing (h), losses (i),
learning rates (j), metrics (k), tools (l), checkpoints and TFRecords (m), training (n). A row shows the
difference nearest to its limit and that limit, in the family's own unit (models: standard deviations of the
golden array), the share of equal integer values, and pass / fail / not built yet. Exits 1 if a case that is
built fails. Everything about a case comes from its file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from families import checkpoint, losses, metrics, models, preprocess, records, regularization, tools, train
from families.row import NAN, Row, shown

from deeplab.presets.reference import NotBuilt

Runner = Callable[[Path], Row]

# by how a file's or folder's name begins; the first that fits counts
FAMILIES: dict[str, Runner] = {
    "h_preprocess_eval": preprocess.run_evaluation,
    "h_preprocess_train": preprocess.run_training,
    "h_random_scale": preprocess.run_random_scale,
    "h_resize_to_range": preprocess.run_resize_to_range,
    "h_resize_ops": preprocess.run_resize_ops,
    "i_losses_matting": losses.run_matting,
    "i_losses": losses.run_losses,
    "j_learning_rates": losses.run_learning_rates,
    "k_miou": metrics.run_mean_iou,
    "k_panoptic": metrics.run_panoptic,
    "l_utils": tools.run_tools,
    "m_tfrecord": records.run_records,
    "n_regularization": regularization.run_groups,
    "n_train": train.run_training_steps,
    "m_": checkpoint.run_checkpoint,
}


def runner_of(path: Path) -> Runner | None:
    """Who judges `path`: by its name, or for a model by what it holds; None for what is no vector."""
    for start, runner in FAMILIES.items():
        if path.name.startswith(start):
            return runner
    if path.suffix != ".npz":
        return None
    with np.load(path) as data:
        is_model = {"options", "variables", "logits", "labels"} <= set(data.files)
    return models.run_model if is_model else None


def run_case(path: Path) -> Row:
    """The row of one file or folder; whatever goes wrong is in the row."""
    runner = runner_of(path)
    if runner is None:
        return _not_built(path, "no family's name, and no model's arrays")
    try:
        return runner(path)
    except NotBuilt as missing:
        return _not_built(path, str(missing))
    except Exception as error:
        return Row(path.stem, NAN, NAN, NAN, "fail", f"{type(error).__name__}: {error}")


def _not_built(path: Path, missing: str) -> Row:
    return Row(path.stem, NAN, NAN, NAN, "not built yet", missing)


def cases(folder: Path) -> list[Path]:
    """Every vector in `folder`: its .npz files, and its folders whose names begin like a family's.

    Not `published_*`, outputs of mobile files that lie elsewhere: `benchmarks/tflite_parity.py` judges them.
    """
    found = (path for path in folder.iterdir() if not path.name.startswith("published_"))
    return sorted(
        path for path in found if path.suffix == ".npz" or (path.is_dir() and path.name[:2] == "m_")
    )


def run_folder(folder: Path) -> Iterator[Row]:
    """Every case in `folder`, one by one."""
    return map(run_case, cases(folder))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python tests/golden.py DIR   (a folder of golden vectors)", file=sys.stderr)
        return 2
    print(f"{'case':44} {'worst |d|':>9} {'allowed':>9} {'equal':>9}  verdict")
    rows = []
    for row in run_folder(Path(arguments[0])):
        numbers = f"{shown(row.difference, '9.1e'):>9} {shown(row.allowed, '9.1e'):>9}"
        print(
            f"{row.case:44} {numbers} {shown(row.labels, '9.6f'):>9}  {row.verdict}: {row.detail}", flush=True
        )
        rows.append(row)
    counts = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in ("pass", "fail", "not built yet")
    }
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["fail"] or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What engines, bfloat16 and int8 change: labels of a trained model on real photos, beside PyTorch's in float32.

    python benchmarks/precision.py PHOTOS [--model animals] [--most 50] [--calibration PHOTOS]

Without photos for --calibration, int8 is left out; they should be others than PHOTOS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from deeplab.cli.labelling import CALIBRATION_PHOTOS, spread
from deeplab.errors import UserError
from deeplab.imaging.photos import as_photo, find_photos
from deeplab.prediction.segmenter import Segmenter

WAYS = (
    ("torch", "bfloat16"),
    ("torch", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("onnxruntime", "float32"),
)


def main() -> None:
    """Prints one line a way: share of equal labels over all photos, and the photo with the smallest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--model", default="animals")
    parser.add_argument("--most", type=int, default=50, help="photos to look at")
    parser.add_argument("--calibration", nargs="+", default=[], help="photos to take int8's ranges from")
    options = parser.parse_args()
    paths = find_photos(options.photos)[: options.most]
    photos = [as_photo(path) for path in paths]
    calibration = spread(find_photos(options.calibration), CALIBRATION_PHOTOS) if options.calibration else []
    reference = Segmenter(options.model)
    expected = [reference(photo).labels for photo in photos]
    print(f"{len(photos)} photos, {sum(labels.size for labels in expected)} pixels, model {options.model}")
    for engine, precision in WAYS:
        try:
            ranges = calibration if precision == "int8" else []
            segmenter = Segmenter(options.model, engine=engine, precision=precision, calibration=ranges)
        except UserError as error:
            print(f"{engine} {precision}: {error}")
            continue
        print(f"{engine} {precision}: {equality(segmenter, photos, expected, paths)}", flush=True)


def equality(
    segmenter: Segmenter, photos: list[np.ndarray], expected: list[np.ndarray], paths: list[Path]
) -> str:
    """Share of equal labels, in all and on the worst photo."""
    equal = [segmenter(photo).labels == labels for photo, labels in zip(photos, expected, strict=True)]
    shares = [float(each.mean()) for each in equal]
    whole = sum(int(each.sum()) for each in equal) / sum(each.size for each in equal)
    worst = int(np.argmin(shares))
    return f"{whole:.3%} of labels equal, {shares[worst]:.3%} on the worst photo ({paths[worst].name})"


if __name__ == "__main__":
    main()

"""Golden family m, data: TFRecord shards, read and written (facts 5.2 and 5.3).

Differences are grey levels of 0..255.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.data.augment import eval_pad
from deeplab.data.layouts.tfrecord import features
from deeplab.data.opening import open_source
from deeplab.data.source import Source
from deeplab.data.storage import Storage
from deeplab.data.tfrecord import decode_example, encode_example, read_record, record_places, write_records
from families.preprocess import pad_pixel, resize_of
from families.row import Judge, Row, said_as_json

TOLERANCE = 1e-4
# the reference decodes JPEG with another cosine transform: up to 7 levels off in the known files
JPEG_TOLERANCE = 10.0


def run_records(folder: Path) -> Row:
    """What the shards hold, what evaluation makes of it, and the same shards written again."""
    data, judge = np.load(folder / "expected.npz"), Judge(folder.name)
    meta = said_as_json(data, "meta")
    names = tuple(f"class {index}" for index in range(meta["num_classes"]))
    source = open_source(folder, meta["split"], Storage(names=names))
    found = [source.name(index) for index in range(len(source))]
    judge.equal("image names", found, meta["image_names"])
    for index in range(min(len(found), len(meta["image_names"]))):
        _judge_sample(judge, index, source, data, meta)
    for shard in sorted(folder.glob("*.tfrecord")):
        judge.equal(f"bytes of {shard.name}", *_written_again(shard, data, meta))
    return judge.row()


def _judge_sample(judge: Judge, index: int, source: Source, data: Any, meta: dict[str, Any]) -> None:
    photo, label = source.photo(index), source.label(index)
    judge.equal(f"label{index}", label, data[f"label{index}"])
    judge.equal(f"size {index}", label.shape, (meta["heights"][index], meta["widths"][index]))
    decoded = data[f"decoded{index}"]
    lossy = meta["format"] in ("jpg", "jpeg")
    judge.close(f"decoded{index}", photo, decoded, absolute=JPEG_TOLERANCE if lossy else TOLERANCE)
    options = meta["options"]
    resize = resize_of(options)
    image, padded_label = eval_pad(
        decoded,
        label,
        tuple(meta["crop_size"]),
        resize=resize,
        pad_pixel=pad_pixel(options["model_variant"]),
        ignore_label=meta["ignore_label"],
    )
    original = decoded if resize is None else resize(decoded, label)[0]
    judge.close(f"batch{index}_image", image, data[f"batch{index}_image"], absolute=TOLERANCE)
    judge.equal(f"batch{index}_label", padded_label, data[f"batch{index}_label"])
    judge.close(f"batch{index}_original", original, data[f"batch{index}_original"], absolute=TOLERANCE)


def _written_again(shard: Path, data: Any, meta: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    records = []
    for start, length in record_places(shard).tolist():
        record = decode_example(read_record(shard, start, length))
        name = record["image/filename"].decode()
        index = meta["image_names"].index(name)
        again = features(
            name,
            photo=data[f"encoded{index}"].tobytes(),
            label=record["image/segmentation/class/encoded"],
            size=data[f"label{index}"].shape,
        )
        records.append(encode_example(again))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / shard.name
        write_records(path, records)
        return np.frombuffer(path.read_bytes(), np.uint8), np.frombuffer(shard.read_bytes(), np.uint8)

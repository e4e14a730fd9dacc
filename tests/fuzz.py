"""Mutants of good files, given to everything that reads: python tests/fuzz.py [READER ...]

Each must end in success or in one UserError that names its file, within 10 seconds and 2 GB. A reader runs in a
process of its own, so that one that ends or hangs is seen too. What went wrong is kept in fuzz-found/READER/, and the
exit status is 1. `make fuzz` runs the seeds that are committed; for hours: --minutes 600 --seed N.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import random
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import save as safetensors
from support import hostile_data

from deeplab.config import ASPPConfig, DecoderConfig, DeepLabConfig, backbone_config
from deeplab.crf.config import crf_parameters
from deeplab.data.tfrecord import decode_example, encode_example, read_record, record_places, write_records
from deeplab.errors import UserError
from deeplab.evaluation.panoptic.coco import read_files
from deeplab.export.run import export_model
from deeplab.imaging.photos import read_photo
from deeplab.imaging.scenes import is_scene, open_scene
from deeplab.imaging.videos import Picture, open_clip
from deeplab.importers import import_weights
from deeplab.importers.tensorflow.resolve import _option
from deeplab.model.checkpoint import load
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import REPORT_NAME, open_predictor
from deeplab.prediction.artefacts.apart import KEY
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.scenes import Ledger
from deeplab.prediction.tiles import Gathered
from deeplab.system.reading import foreign
from deeplab.train.recipe import FOLDER, read_recipe
from deeplab.train.run_folder.checkpointing import TrainingState, parse_checkpoint, write_checkpoint

SEED, COUNT = 1, 100
SECONDS, MEGABYTES = 10, 2048
# of the photo that exported models label
SIZE = (40, 56)
KEPT = Path("fuzz-found")
Random = random.Random
NUMBERS = [0, 1, -1, 127, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
TEXTS = [
    b"9" * 5000, b"1e999", b"-1", b"NaN", b"null", b"true", b"{}", b"[]", b'""', b"2024-13-45", b"[" * 2000,
    b"{" * 2000, b"99999999999", b"0.0000001", b"\xff\xfe", b"\x00", b"&a [*a]", b"*a", b"<<: *a", b"!!binary x",
    b"!!timestamp y",
    b"0x" + b"f" * 5000, b"../../x", b"/dev/zero", b"\xed\xa0\x80", b"2147483648", b"9223372036854775808",
]  # fmt: skip


class Target(NamedTuple):
    """A reader: `make` writes a good file into a folder, whole or from mutated parts; `read` reads what it wrote."""

    make: Callable[[Path, Callable[[bytes], bytes]], Path]
    read: Callable[[Path], object]


def binary(data: bytes, chance: Random) -> bytes:
    """A few changes of a kind that damage and malice make."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not changed:
            return bytes(changed)
        place, kind = chance.randrange(len(changed)), chance.randrange(8)
        if kind <= 1:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            changed[place] = chance.randrange(256)
        elif kind == 3:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(NUMBERS) & (1 << 8 * width) - 1
            changed[place : place + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif kind == 4:
            del changed[place : place + chance.choice((1, 4, 64, len(changed)))]
        elif kind == 5:
            start = chance.randrange(len(changed))
            changed[place:place] = changed[start : start + chance.choice((1, 8, 64, 512))]
        elif kind == 6:
            changed[place : place + chance.choice((4, 16, 64))] = bytes([chance.choice((0, 255))]) * 16
        else:
            changed[place:place] = chance.choice(TEXTS)[:64]
    return bytes(changed)


def words(data: bytes, chance: Random) -> bytes:
    """Changes of a text's words, numbers and lines, or of what JSON or YAML says."""
    kind = chance.random()
    if kind < 0.1:
        return binary(data, chance)
    as_json = data[:1] in b"{["
    values = (
        json.loads(data) if as_json else yaml.safe_load(data) if b": " in data and data[:1] != b"<" else None
    )
    if kind < 0.7 and isinstance(values, dict | list):
        for _ in range(chance.choice((1, 1, 2))):
            values = elsewhere(values, values, chance)
        return (json.dumps(values) if as_json else yaml.safe_dump(values)).encode(errors="surrogatepass")
    for _ in range(chance.choice((1, 1, 2, 3))):
        tokens = [(found.start(), found.end()) for found in TOKEN.finditer(data)]
        if not tokens:
            return data
        start, end = chance.choice(tokens)
        if chance.random() < 0.8:
            other = chance.choice((chance.choice(TEXTS), str(chance.choice(NUMBERS)).encode()))
        else:
            first, last = chance.choice(tokens)
            other = data[first:last]
        data = data[:start] + other + data[end:]
    return data


def elsewhere(value: Any, whole: Any, chance: Random) -> Any:
    """The same values with another one, or another key, somewhere."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {("x" if each == key else each): part for each, part in value.items()}
        if chance.random() < 0.05:
            return {each: part for each, part in value.items() if each != key}
        return value | {key: elsewhere(value[key], whole, chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], elsewhere(value[place], whole, chance), *value[place + 1 :]]
    number = chance.choice(NUMBERS)
    nested: Any = 1
    for _ in range(200):
        nested = [nested]
    others = [
        number,
        -number,
        number / 7,
        1e308,
        1e-308,
        None,
        True,
        "",
        "x" * 3000,
        [],
        {},
        nested,
        [1] * 5000,
        "é\ud800",
    ]
    others += [{"a": 1}, [[1]], "../..", "/dev/zero", whole, float("inf"), float("nan"), 8, 2, 0.5, 300, 3000]
    return chance.choice(others)


TOKEN = re.compile(rb'"[^"]*"|[\w.+-]+|[\[\]{}]|\n')


def whole(name: str, content: Callable[[], bytes]) -> Callable[[Path, Callable[[bytes], bytes]], Path]:
    """A maker of one file, all of whose bytes are mutated."""

    def make(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
        path = folder / name
        path.write_bytes(mutate(content()))
        return path

    return make


def small_model() -> DeepLab:
    torch.manual_seed(0)
    return DeepLab(
        DeepLabConfig(
            backbone=backbone_config("mobilenet_v2", width=0.25),
            context=ASPPConfig(channels=8),
            decoder=DecoderConfig(channels=8, low_level_channels=4),
            num_classes=3,
        )
    )


def tensors() -> dict[str, torch.Tensor]:
    return {
        "module.conv1.weight": torch.rand(4, 3, 3, 3),
        "module.bn1.running_var": torch.rand(4),
        "module.bn1.num_batches_tracked": torch.tensor(3),
        "module.layer1.0.conv1.weight": torch.rand(4, 4, 1, 1).half(),
    }


def pth(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(
        {"state_dict": tensors(), "epoch": 3, "best": np.float64(0.5), "args": [1, "a"]}, file, **options
    )
    return file.getvalue()


def rezipped(
    data: bytes, member: str, name: str, stored: int = zipfile.ZIP_STORED
) -> Callable[[Path, Callable[[bytes], bytes]], Path]:
    """A maker of a zip archive of which one member is mutated, its checksum made anew."""

    def make(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(folder / name, "w", stored) as out:
            for each in archive.namelist():
                content = archive.read(each)
                out.writestr(each, mutate(content) if each.endswith(member) else content)
        return folder / name

    return make


def keras_h5() -> bytes:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        out.attrs["layer_names"] = [b"block1_conv1", b"block1_conv2", b"bn"]
        for name in ("block1_conv1", "block1_conv2"):
            group = out.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            group[f"{name}/kernel:0"] = np.ones((3, 3, 3, 4), np.float32)
            group[f"{name}/bias:0"] = np.ones(4, np.float32)
        group = out.create_group("bn")
        group.attrs["weight_names"] = [b"bn/gamma:0"]
        group.create_dataset("bn/gamma:0", data=np.ones(40, np.float32), chunks=(8,), compression="gzip")
    return file.getvalue()


def keras_zip() -> bytes:
    import h5py

    weights, file = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as out:
        out["layers/conv2d/vars/0"] = np.ones((3, 3, 3, 4), np.float32)
        out["layers/conv2d/vars/1"] = np.ones(4, np.float32)
    layer = {"class_name": "Conv2D", "config": {"name": "block1_conv1", "filters": 4}}
    config = {"class_name": "Functional", "config": {"name": "vgg16", "layers": [layer]}}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    return file.getvalue()


def caffemodel() -> bytes:
    from support.caffe_writer import Network, Style, encode

    network = Network()
    network.conv("conv1_1", "data", (3, 4), kernel=3, pad=1)
    return encode(network.layers, Style())


def tflite() -> bytes:
    from support.tflite_writer import graph_of, to_bytes

    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25),
        context=ASPPConfig(channels=8),
        num_classes=5,
        folded=True,
    )
    return to_bytes(graph_of(DeepLab(config).eval(), (33, 49)))


def graph() -> bytes:
    from support.tensorflow_files import GraphWriter

    writer = GraphWriter()
    writer.node("ImageTensor", "Placeholder")
    x = writer.conv("MobilenetV2/Conv/weights", "ImageTensor", stride=2)
    x = writer.norm("MobilenetV2/Conv", x, epsilon=1e-3)
    x = writer.pool("pool", x, (3, 3))
    writer.resize("ResizeBilinear", x, (33, 33))
    return writer.data


ARRAYS = {
    "MobilenetV2/Conv/weights": np.ones((3, 3, 3, 8), np.float32),
    "MobilenetV2/Conv/BatchNorm/gamma": np.ones(8, np.float32),
    "global_step": np.array(7, np.int64),
}


def bundle(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    """The index, its checksums valid for what was mutated before."""
    from support import tensorflow_files as writer

    made = writer._block
    try:
        writer._block = lambda pairs: mutate(made(pairs)) if pairs else made(pairs)
        return writer.write_checkpoint(folder / "model.ckpt", ARRAYS)
    finally:
        writer._block = made


def damaged_bundle(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    from support.tensorflow_files import write_checkpoint as write

    index = write(folder / "model.ckpt", ARRAYS)
    path = index if random.random() < 0.5 else Path(str(index).replace(".index", ".data-00000-of-00001"))
    path.write_bytes(mutate(path.read_bytes()))
    return index


def tar(content: Callable[[], bytes], mode: str) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as archive:
            member = tarfile.TarInfo("model/weights.pth")
            data = content()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        return file.getvalue()

    return make


def gzipped(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    import gzip

    path = folder / "model.tar.gz"
    path.write_bytes(gzip.compress(mutate(tar(pth, "w")())))
    return path


def own_model(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    """model.safetensors without a description, and config.json, mutated, beside it."""
    model = small_model()
    model.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(safetensors(model.state_dict()))
    (folder / "config.json").write_bytes(mutate((folder / "config.json").read_bytes()))
    return folder


def header_of(stored: Callable[[Path], bytes], name: str) -> Callable[[Path, Callable[[bytes], bytes]], Path]:
    """A maker of a safetensors file whose header is mutated, its length made anew."""

    def make(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
        data = stored(folder)
        size = int.from_bytes(data[:8], "little")
        header = mutate(data[8 : 8 + size])
        (folder / name).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
        return folder / name

    return make


def stored_model(folder: Path) -> bytes:
    small_model().save_pretrained(folder)
    return (folder / "model.safetensors").read_bytes()


def stored_checkpoint(folder: Path) -> bytes:
    state = TrainingState(3, {"model/w": torch.rand(3), "optimiser/w/momentum_buffer": torch.rand(3)}, VALUES)
    write_checkpoint(folder, state)
    return (folder / "checkpoint.safetensors").read_bytes()


VALUES: dict[str, Any] = {
    "recipe": {"a": 1},
    "data": "x",
    "best": None,
    "random": [],
    "resumed": [],
    "seconds": 1.0,
}


def read_checkpoint_file(path: Path) -> object:
    return parse_checkpoint(path.read_bytes(), str(path))


RECIPE: dict[str, Any] = {
    "name": "a", "workers": 1, "data": {"root": ".", "layout": "voc", "classes": ["a", "b"]},
    "model": {"backbone": {"name": "mobilenet_v2", "width": 0.5}, "decoder": {"channels": 19, "strides": [4]}},
    "optimise": {"steps": 10, "batch_size": 4, "learning_rate": 1e-3}, "augment": {"crop": [65, 65]},
}  # fmt: skip


def recipe_text() -> bytes:
    """One that is written here, or one of the package's, of which the file that it extends is not beside it."""
    names = [None, None, None, *sorted(FOLDER.glob("*.yaml"))[:3]]
    path = random.choice(names)
    return path.read_bytes() if path else yaml.safe_dump(RECIPE).encode()


def read_recipe_file(path: Path) -> object:
    recipe = read_recipe(path, ["data.root=."])
    return recipe.model.config(len(recipe.data.classes) or 2)


def records(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    example = encode_example({"image/encoded": b"\x89PNG" * 9, "image/height": 4, "image/filename": b"a.png"})
    write_records(folder / "a.tfrecord", [mutate(example)])
    return folder / "a.tfrecord"


def read_records(path: Path) -> object:
    with foreign(path):
        return [
            decode_example(read_record(path, start, length)) for start, length in record_places(path).tolist()
        ]


def crf_text() -> bytes:
    return json.dumps({"parameters": {"w1": 4.5, "sigma_alpha": 65, "sigma_beta": 4, "w2": 3}}).encode()


def cell_text() -> bytes:
    cell = [{"op": "conv", "input": -1, "kernel": 1, "rate": [1, 6]}, {"op": "conv", "input": 0, "kernel": 3}]
    return json.dumps(cell).encode()


@lru_cache
def exported(to: str) -> dict[str, bytes]:
    """The files of an exported model, by their names."""
    with tempfile.TemporaryDirectory() as inside:
        sized: dict[str, Any] = {"litert": {"sizes": [SIZE]}, "executorch": {"largest": SIZE}}.get(to, {})
        folder = export_model(small_model().eval(), to, Path(inside) / "m", name="m", **sized).path.parent
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def exported_alone(to: str, ending: str) -> Target:
    """An exported model without the report that says its checksum, in its own runtime."""

    def make(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
        for name, content in exported(to).items():
            if name.startswith("m."):
                (folder / name).write_bytes(mutate(content) if name.endswith(ending) else content)
        return folder / ("m.xml" if ending == ".bin" else f"m{ending}")

    return Target(make, label_by)


def exported_part(member: str) -> Target:
    """An exported .pt2 of which one part is mutated."""
    return Target(
        lambda folder, mutate: rezipped(exported("torch-export")["m.pt2"], member, "m.pt2")(folder, mutate),
        label_by,
    )


def onnx_description(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    """An exported .onnx with a mutated description; protobuf takes text in UTF-8 alone."""
    import onnx

    model = onnx.load_from_string(exported("onnx")["m.onnx"])
    for entry in model.metadata_props:
        if entry.key == KEY:
            entry.value = mutate(entry.value.encode()).decode(errors="replace")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def exported_report(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    for name, content in exported("torch-export").items():
        (folder / name).write_bytes(mutate(content) if name == REPORT_NAME else content)
    return folder


def label_by(path: Path) -> object:
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return open_predictor(path, Labelling(device="cpu")).label(photo)


def clip(ending: str) -> Callable[[], bytes]:
    def make() -> bytes:
        import av

        with tempfile.TemporaryDirectory() as inside:
            path = Path(inside) / f"c{ending}"
            with av.open(str(path), "w") as container:
                video = container.add_stream("libx264", rate=5)
                video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
                for value in (0, 90, 180):
                    picture = np.full((32, 48, 3), value, np.uint8)
                    container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                container.mux(video.encode())
            return path.read_bytes()

    return make


def read_clip(path: Path) -> object:
    with open_clip(str(path)) as opened:
        return [part for part in opened.parts() if isinstance(part, Picture)]


def geotiff() -> bytes:
    import rasterio

    size = {"count": 3, "height": 20, "width": 30, "dtype": "uint8"}
    ground = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    with rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", **size, **ground) as out:
            out.write(np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8))
        return file.read()


def read_geotiff(path: Path) -> object:
    if not is_scene(path):
        return read_photo(str(path))
    with open_scene(path) as scene:
        height, width = scene.size
        scene.preview(64)
        return scene.read(0, 0, min(height, 512), min(width, 512))


PANOPTIC = {
    "annotations": [
        {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1, "iscrowd": 0}]}
    ],
    "categories": [{"id": 1, "name": "cat", "isthing": 1}],
}


def panoptic() -> bytes:
    return json.dumps(PANOPTIC).encode()


def scene_left(folder: Path, mutate: Callable[[bytes], bytes]) -> Path:
    """What a run that was stopped leaves."""
    ledger = Ledger(folder / "left", "key")
    ledger.add(np.ones((20, 30), np.uint8))
    ledger.keep(Gathered((torch.zeros(3),), torch.zeros(3)))
    ledger.close()
    path = folder / "left" / random.choice(("labels", "ledger", "means.npz"))
    path.write_bytes(mutate(path.read_bytes()))
    return folder / "left"


def read_left(path: Path) -> object:
    ledger = Ledger(path, "key")
    try:
        return ledger.gathered(), list(ledger.contents())
    finally:
        ledger.close()


# what an extra reads, where it is installed
EXTRAS: dict[str, tuple[str, Callable[[], Target]]] = {
    "tflite": ("tflite", lambda: Target(whole("m.tflite", tflite), import_weights)),
    "h5": ("h5py", lambda: Target(whole("w.h5", keras_h5), import_weights)),
    "keras": ("h5py", lambda: Target(whole("w.keras", keras_zip), import_weights)),
    "keras, its config": ("h5py", lambda: Target(rezipped(keras_zip(), "config.json", "w.keras"), import_weights)),
    "keras, its weights": ("h5py", lambda: Target(rezipped(keras_zip(), "weights.h5", "w.keras"), import_weights)),
    "exported .onnx": ("onnxruntime", lambda: exported_alone("onnx", ".onnx")),
    "exported .onnx, its description": ("onnxruntime", lambda: Target(onnx_description, label_by)),
    "exported .xml": ("openvino", lambda: exported_alone("openvino", ".xml")),
    "exported .bin": ("openvino", lambda: exported_alone("openvino", ".bin")),
    "exported .tflite": ("litert_torch", lambda: exported_alone("litert", ".tflite")),
    "exported .pte": ("executorch", lambda: exported_alone("executorch", ".pte")),
    "clip, .mp4": ("av", lambda: Target(whole("c.mp4", clip(".mp4")), read_clip)),
    "clip, .mkv": ("av", lambda: Target(whole("c.mkv", clip(".mkv")), read_clip)),
    "scene": ("rasterio", lambda: Target(whole("s.tif", geotiff), read_geotiff)),
}  # fmt: skip
ABSENT = {name: module for name, (module, _) in EXTRAS.items() if not importlib.util.find_spec(module)}
TARGETS: dict[str, Target] = {
    "pth": Target(whole("w.pth", pth), import_weights),
    "pth before 1.6": Target(whole("w.pth", lambda: pth(_use_new_zipfile_serialization=False)), import_weights),
    "pth, its pickle": Target(rezipped(pth(), "data.pkl", "w.pth"), import_weights),
    "pth, compressed": Target(rezipped(pth(), "data.pkl", "w.pth", zipfile.ZIP_DEFLATED), import_weights),
    "safetensors": Target(whole("w.safetensors", lambda: safetensors(tensors())), import_weights),
    "safetensors, its header": Target(header_of(lambda _: safetensors(tensors()), "w.safetensors"), import_weights),
    "own model": Target(header_of(stored_model, "model.safetensors"), load),
    "own config.json": Target(own_model, load),
    "training checkpoint": Target(header_of(stored_checkpoint, "checkpoint.safetensors"), read_checkpoint_file),
    "recipe": Target(whole("r.yaml", recipe_text), read_recipe_file),
    "crf parameters": Target(whole("c.json", crf_text), lambda path: crf_parameters(str(path))),
    "cell": Target(whole("cell.json", cell_text), lambda path: _option("cell", path)),
    "tensorflow bundle": Target(damaged_bundle, import_weights),
    "tensorflow bundle, checksums": Target(bundle, import_weights),
    "tensorflow graph": Target(whole("g.pb", graph), import_weights),
    "tar.gz": Target(whole("m.tar.gz", tar(pth, "w:gz")), import_weights),
    "tar.gz, the tar": Target(gzipped, import_weights),
    "caffemodel": Target(whole("w.caffemodel", caffemodel), import_weights),
    "tfrecord": Target(records, read_records),
    **{name: Target(make, read) for name, (make, read, _) in hostile_data.TARGETS.items()},
    "panoptic results": Target(whole("p.json", panoptic), lambda path: read_files(path, path.parent)),
    "a scene's work": Target(scene_left, read_left),
    "exported .pt2": exported_alone("torch-export", ".pt2"),
    "exported .pt2, its program": exported_part("models/model.json"),
    "exported .pt2, its description": exported_part(f"extra/{KEY}"),
    "export.json": Target(exported_report, label_by),
    **{name: make() for name, (_, make) in EXTRAS.items() if name not in ABSENT},
}  # fmt: skip
TEXTUAL = {
    "own config.json", "own model", "recipe", "crf parameters", "cell", "keras, its config", "safetensors, its header",
    "panoptic results", "export.json", "exported .xml", "exported .onnx, its description",
    "exported .pt2, its program", "exported .pt2, its description",
    *(name for name, (_, _, textual) in hostile_data.TARGETS.items() if textual),
}  # fmt: skip


def outcome_of(name: str, number: int, seed: int, folder: Path) -> str:
    """What became of mutant `number`: "success", "refused", or what went wrong."""
    target, chance = TARGETS[name], Random(f"{name} {seed} {number}")
    random.seed(f"{name} {seed} {number}")
    change = words if name in TEXTUAL else binary
    path = target.make(folder, lambda data: change(data, chance))
    try:
        target.read(path)
    except UserError as error:
        # or another file, that this one names
        return (
            "refused" if error.file or str(folder) in str(error) else f"UserError without the file: {error}"
        )
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:500]
    return "success"


def work(name: str, seed: int, first: int, count: int, folder: Path) -> None:
    """Say what became of each mutant, a line each; a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # what is made once takes no mutant's time
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        TARGETS[name].make(Path(inside), lambda data: data)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, first + count):
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            print(json.dumps([number, inside]), flush=True)
            # of the processor: others may use it at the same time
            spent, theirs = (
                resource.getrusage(resource.RUSAGE_SELF),
                resource.getrusage(resource.RUSAGE_CHILDREN),
            )
            limit = int(spent.ru_utime + spent.ru_stime) + SECONDS + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            outcome = outcome_of(name, number, seed, Path(inside))
            # what reads in a process of its own
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = children.ru_utime + children.ru_stime - theirs.ru_utime - theirs.ru_stime
            if seconds > SECONDS:
                outcome = f"slow: {seconds:.0f} s"
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            most = max(own - began, children.ru_maxrss) // 1024
            if most > MEGABYTES:
                outcome = f"memory: {most} MB"
            print(json.dumps([number, outcome]), flush=True)
        if outcome.startswith("memory"):
            return


def run(name: str, seed: int, count: int, until: float) -> Counter[str]:
    """All outcomes of `count` mutants; what went wrong is made again in `KEPT`."""
    outcomes: Counter[str] = Counter()
    number = 0
    while number < count and time.monotonic() < until:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                __file__,
                "--work",
                name,
                str(seed),
                str(number),
                str(count - number),
                folder,
            ]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                number = _watch(process, name, seed, number, outcomes, until)
    return outcomes


def _watch(
    process: subprocess.Popen[bytes], name: str, seed: int, number: int, outcomes: Counter[str], until: float
) -> int:
    """Follow one process to its end, or to the mutant that ends it; returns the next mutant's number."""
    assert process.stdout is not None
    patience, begun = 300.0, False
    while time.monotonic() < until:
        ready = select.select([process.stdout], [], [], patience)[0]
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            if not begun and ready:
                return (
                    1 << 60 if process.wait() == 0 else _wrong(name, seed, number, "does not start", outcomes)
                )
            ended = -process.wait() if ready else signal.SIGXCPU
            slow = ended == signal.SIGXCPU
            what = f"slow: more than {SECONDS} s" if slow else f"ended by signal {ended}"
            return _wrong(name, seed, number, what, outcomes) if begun else number
        number, said = json.loads(line)
        begun = not begun
        patience = 12.0 * SECONDS if begun else 300.0
        if begun:
            continue
        if said not in ("success", "refused"):
            _wrong(name, seed, number, said, outcomes)
        else:
            outcomes[said] += 1
        number += 1
    process.send_signal(signal.SIGKILL)
    return number


def _wrong(name: str, seed: int, number: int, what: str, outcomes: Counter[str]) -> int:
    outcomes["wrong"] += 1
    folder = KEPT / name.replace(" ", "_").replace(",", "") / f"{seed}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    chance = Random(f"{name} {seed} {number}")
    random.seed(f"{name} {seed} {number}")
    change = words if name in TEXTUAL else binary
    TARGETS[name].make(folder, lambda data: change(data, chance))
    print(f"  {name}: mutant {number} of seed {seed}: {what}; kept in {folder}")
    return number + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", default=[*TARGETS, *ABSENT], metavar="READER")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT, help="mutants a reader")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this long")
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/robustness.md")
    options = parser.parse_args()
    if unknown := set(options.readers) - {*TARGETS, *ABSENT}:
        parser.error(f"no reader {', '.join(sorted(unknown))}; there are {', '.join([*TARGETS, *ABSENT])}")
    row = "{:32}{:>8}{:>9}{:>9}{:>7}{:>9}"
    if options.markdown:
        row = "| {} | {} | {} | {} | {} | {} |"
    until, wrong = time.monotonic() + 60 * options.minutes, 0
    print(row.format("reader", "inputs", "success", "refused", "wrong", "seconds"))
    if options.markdown:
        print(row.format("---", *["---:"] * 5))
    for name in options.readers:
        if name in ABSENT:
            print(f"{name}: skipped, as {ABSENT[name]} is not installed", file=sys.stderr)
            continue
        began = time.monotonic()
        found = run(name, options.seed, options.count, until)
        seconds = round(time.monotonic() - began)
        cells = found.total(), found["success"], found["refused"], found["wrong"], seconds
        print(row.format(name, *cells), flush=True)
        wrong += found["wrong"]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        reader, *numbers, inside = sys.argv[2:]
        work(reader, *map(int, numbers), Path(inside))
    else:
        main()

"""Every extra of pyproject.toml alone: installed into an empty environment, then what it is for is done once.

    python tests/every_extra.py [EXTRA ...] [--from WHEEL]

One row an extra: seconds and size of the installation beyond the core, and what was done. Exit code 1 if one fails. The
core is installed once, and each extra into a copy of that. What an extra is for stands below, in `FEATURES`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import venv
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeplab import DeepLab

ROOT = Path(__file__).resolve().parents[1]


def tflite(folder: Path) -> str:
    """Import of a TensorFlow Lite file."""
    from support.tflite_writer import graph_of, to_bytes

    (folder / "model.tflite").write_bytes(to_bytes(graph_of(_small_model(folded=True), (65, 97))))
    _deeplab("import", folder / "model.tflite", "-o", folder / "model")
    return "a .tflite file imported"


def hub(folder: Path) -> str:
    """A model by `hf:owner/name`, from a server that answers as the Hub does."""
    from deeplab import DeepLab

    _small_model().save_pretrained(folder / "owner" / "name" / "resolve" / "main")
    with _server(folder, {"X-Repo-Commit": "0" * 40, "ETag": '"1"'}) as address:
        os.environ |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
        DeepLab.from_pretrained("hf:owner/name")
    return "a model loaded from a server of the Hub's kind"


def keras(folder: Path) -> str:
    """Import of VGG-16 as Keras stores it."""
    import h5py
    import numpy as np

    from deeplab.importers import import_weights

    channels, random = 3, np.random.default_rng(0)
    with h5py.File(folder / "vgg.h5", "w") as file:
        names = [f"block{block}_conv{index + 1}" for block in range(1, 6) for index in range(2 + (block > 2))]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            width = 64 * 2 ** min(int(name[5]) - 1, 3)
            arrays = {"kernel": random.standard_normal((3, 3, channels, width)), "bias": np.zeros(width)}
            group, channels = file.create_group(name), width
            group.attrs["weight_names"] = [f"{name}/{array}:0".encode() for array in arrays]
            for array, values in arrays.items():
                group[f"{name}/{array}:0"] = values.astype(np.float32)
    _, report = import_weights(folder / "vgg.h5")
    return f"an .h5 file imported, {report.variables} variables"


def tiff(folder: Path) -> str:
    """Photos of several bands."""
    import numpy as np
    import tifffile

    from deeplab.imaging.bands import Bands
    from deeplab.imaging.photos import read_photo

    stored = np.random.default_rng(0).integers(0, 65536, (65, 97, 4), dtype=np.uint16)
    tifffile.imwrite(folder / "a.tif", stored, photometric="rgb", compression="lzw")
    found = read_photo(folder / "a.tif", Bands(("red", "green", "blue", "infrared"), "uint16"))
    assert (found == stored).all()
    return "four bands of 16 bits read from an LZW TIFF"


def download(folder: Path) -> str:
    """Weights by address."""
    from deeplab.system.download import fetch

    _small_model().save_pretrained(folder / "model")
    with _server(folder / "model") as address:
        found = fetch(f"{address}/model.safetensors", folder=folder / "cache")
    assert found.read_bytes() == (folder / "model" / "model.safetensors").read_bytes()
    return "a file fetched by address"


def timm(folder: Path) -> str:
    """A backbone of timm, predicted with."""
    _small_model("timm:resnet18").save_pretrained(folder / "model")
    _predict(folder, "--model", folder / "model")
    return "a photo labelled with a backbone of timm"


def openvino(folder: Path) -> str:
    """The engine of that name."""
    _predict(folder, "--engine", "openvino")
    return "a photo labelled by --engine openvino"


def int8(folder: Path) -> str:
    """Its eight-bit form."""
    photos = _photo(folder / "calibration" / "a.png").parent
    _predict(folder, "--engine", "openvino", "--precision", "int8", "--calibration", photos)
    return "a photo labelled by --engine openvino --precision int8"


def onnx(folder: Path) -> str:
    """The engine of that name."""
    _predict(folder, "--engine", "onnxruntime")
    return "a photo labelled by --engine onnxruntime"


def geo(folder: Path) -> str:
    """A scene labelled window by window."""
    _scene(folder / "scene.tif", crs="EPSG:32633", transform=_affine())
    _deeplab("predict", folder / "scene.tif", "-o", folder / "out", "--window", 64, 64, "--polygons", "gpkg")
    assert (folder / "out" / "scene_labels.gpkg").exists()
    return "a GeoTIFF labelled in windows, with polygons"


def slides(folder: Path) -> str:
    """A slide labelled window by window."""
    _scene(folder / "slide.svs", crs=None, transform=_affine())
    _deeplab("predict", folder / "slide.svs", "-o", folder / "out", "--window", 64, 64)
    assert (folder / "out" / "slide_labels.tif").exists()
    return "a slide labelled in windows"


def video(folder: Path) -> str:
    """A clip labelled picture by picture."""
    import av
    import numpy as np

    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for level in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 * level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _deeplab("predict", folder / "clip.mp4", "-o", folder / "out")
    assert (folder / "out" / "clip_overlay.mp4").exists()
    return "a clip labelled picture by picture"


def serve(folder: Path) -> str:
    """A photo over HTTP."""
    from support.servers import command

    _small_model().save_pretrained(folder / "model")
    with command("-m", folder / "model", log=folder / "log") as (_, client):
        assert client.segment(_photo(folder / "photo.png").read_bytes()).status == 200
    return "a photo labelled over HTTP"


def _exported(folder: Path, *options: object) -> str:
    """Exported, and labelled with by predict where the target's runtime is."""
    _small_model().save_pretrained(folder / "model")
    _deeplab("export", folder / "model", *options, "-o", folder / "exported")
    target = str(options[1])
    if target == "coreml":
        return "a model exported for Core ML, which only Apple's systems run"
    _predict(folder, "--model", folder / "exported")
    return f"a photo labelled with a model exported by --to {target}"


def litert(folder: Path) -> str:
    """Export to it."""
    return _exported(folder, "--to", "litert", "--size", 65, 97)


def executorch(folder: Path) -> str:
    """Export to it."""
    return _exported(folder, "--to", "executorch", "--max-size", 97, 130)


def coreml(folder: Path) -> str:
    """Export to it."""
    return _exported(folder, "--to", "coreml", "--size", 65, 97)


def ray(folder: Path) -> str:
    """A cluster of this machine."""
    _deeplab("predict", _photo(folder / "a.png"), "-o", folder / "out", "--cluster", "ray", "--workers", 1)
    assert (folder / "out" / "labels-00000.tar").exists()
    return "a photo labelled on a Ray cluster of one process"


def stores(folder: Path) -> str:
    """What lies by HTTP, as the extra's file systems read it."""
    from deeplab.cluster.inputs import open_part

    content = _photo(folder / "a.png").read_bytes()
    with _server(folder) as address:
        assert open_part((f"{address}/a.png",)).read([0]) == [content]
    import s3fs

    return f"a photo read from a server; s3fs {s3fs.__version__} imported"


def parquet(folder: Path) -> str:
    """Photos in the rows of a table."""
    import pyarrow
    import pyarrow.parquet

    from deeplab.cluster.inputs import open_part

    content = _photo(folder / "a.png").read_bytes()
    pyarrow.parquet.write_table(pyarrow.table({"image": [content]}), folder / "a.parquet")
    photos = open_part((str(folder / "a.parquet"),))
    with photos.files:
        assert photos.read([0]) == [content]
    return "a photo read from a Parquet file"


def sbd(folder: Path) -> str:
    """VOC's train_aug from SBD's MATLAB files."""
    import numpy as np
    from scipy.io import savemat
    from support.data_folders import grey, photo, text

    voc, source = folder / "VOC2012", folder / "sbd"
    mask = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    for name in ("t1", "v1", "s1"):
        photo(voc / f"JPEGImages/{name}.jpg", (2, 3))
        (source / "cls").mkdir(parents=True, exist_ok=True)
        savemat(source / f"cls/{name}.mat", {"GTcls": {"Segmentation": mask}})
    for split, name in (("train", "t1"), ("val", "v1")):
        grey(voc / f"SegmentationClass/{name}.png", [[1, 0, 255], [1, 0, 255]])
        text(voc / f"ImageSets/Segmentation/{split}.txt", f"{name}\n")
        text(source / f"{split}.txt", "s1\nt1\n" if split == "train" else "v1\n")
    _deeplab("data", "sbd", source, voc)
    return "train_aug made from SBD"


def webdataset(folder: Path) -> str:
    """Shards written and read."""
    from support.every_layout import webdataset as shards

    from deeplab.data.opening import open_source

    shards(folder / "shards")
    source = open_source(folder / "shards", "train")
    return f"shards written and read, first photo {source.photo(0).shape}"


def tensorboard(folder: Path) -> str:
    """Training that TensorBoard can show."""
    _train(folder, "--tensorboard")
    assert list((folder / "run" / "tensorboard").iterdir())
    return "a run with scalars for TensorBoard"


def train(folder: Path) -> str:
    """Training from ImageNet weights that lie in Python packages."""
    start = ("start=imagenet-mobilenet-v2", "model.backbone.width=1.0", "model.backbone.norm.eps=0.00001")
    pixels = ("model.pixels.mean=[123.675,116.28,103.53]", "model.pixels.std=[58.395,57.12,57.375]")
    _train(folder, *start, *pixels, "model.backbone.padding=symmetric")
    return "a run started from ImageNet weights"


def demo(folder: Path) -> str:
    """The photos of `make demo`."""
    import skimage

    _deeplab("predict", Path(skimage.__file__).parent / "data" / "chelsea.png", "-o", folder / "out")
    return "a photo of scikit-image labelled"


def test(folder: Path) -> str:
    """The tests' own tools."""
    words = [sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "test_errors.py")]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return "tests/test_errors.py passed"


def test_page(folder: Path) -> str:
    """What drives a browser, without one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        assert driver.chromium.name == "chromium"
    return "the browser's driver started and stopped; `make test-page` brings a browser"


# their requirements do not go with constraints.txt: LiteRT's converter wants an older typing_extensions
OWN_VERSIONS = ("litert",)
FEATURES = {
    feature.__name__.replace("_", "-"): feature
    for feature in (
        tflite, hub, keras, tiff, download, timm, openvino, int8, onnx, serve, litert, executorch, coreml, geo, slides,
        video, ray, stores, parquet, sbd, webdataset, tensorboard, train, demo, test, test_page,
    )
}  # fmt: skip


def _small_model(backbone: str = "mobilenet_v2", *, folded: bool = False) -> DeepLab:
    """With random weights."""
    from deeplab import DeepLab, DeepLabConfig
    from deeplab.config import ASPPConfig, backbone_config

    width = {"width": 0.25} if backbone == "mobilenet_v2" else {}
    config = DeepLabConfig(
        backbone=backbone_config(backbone, **width),
        context=ASPPConfig(channels=8),
        num_classes=3,
        folded=folded,
    )
    return DeepLab(config).eval()


def _deeplab(*words: object) -> None:
    """The command of this environment.

    Raises:
        SystemExit: it failed; what it said is said.
    """
    command = [sys.executable, "-m", "deeplab", *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{' '.join(command[2:])} failed: {ran.stderr}")


def _photo(path: Path) -> Path:
    from support.data_folders import photo

    photo(path, (65, 97))
    return path


def _scene(path: Path, **place: object) -> None:
    import numpy as np
    import rasterio

    profile = {
        "driver": "GTiff",
        "height": 130,
        "width": 160,
        "count": 3,
        "dtype": "uint8",
        "photometric": "rgb",
    }
    with rasterio.open(path, "w", tiled=True, blockxsize=64, blockysize=64, **profile, **place) as file:
        file.write(np.random.default_rng(0).integers(0, 256, (3, 130, 160), dtype=np.uint8))


def _affine() -> object:
    import rasterio

    return rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


def _predict(folder: Path, *options: object) -> None:
    _deeplab("predict", _photo(folder / "photo.png"), *options, "-o", folder / "out")
    assert (folder / "out" / "photo_labels.png").exists()


def _train(folder: Path, *options: str) -> None:
    """Two steps."""
    from support.training_runs import make_squares, squares_recipe

    recipe = squares_recipe(make_squares(folder / "squares", side=32, photos=3), steps=2, batch_size=2)
    # YAML that is JSON
    (folder / "recipe.yaml").write_text(recipe.model_dump_json(), encoding="utf-8")
    _deeplab("train", folder / "recipe.yaml", *options, "-o", folder / "run")


@contextlib.contextmanager
def _server(folder: Path, headers: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a server of the files in `folder`."""

    class Files(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def main() -> None:
    """Prints a table."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = list(stated["optional-dependencies"])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="*", help=f"default: all of {', '.join(extras)}")
    parser.add_argument("--from", dest="source", default=str(ROOT), help="wheel or folder to install")
    parser.add_argument("--feature", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.feature:
        with tempfile.TemporaryDirectory() as folder:
            return print(FEATURES[options.feature](Path(folder)))
    if unlike := set(extras) ^ set(FEATURES):
        sys.exit(f"pyproject.toml and FEATURES differ in {', '.join(sorted(unlike))}")
    print("| extra | MB beyond the core | seconds to install | what was done |\n| --- | --- | --- | --- |")
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        core = Path(name) / "core"
        venv.create(core, with_pip=True)
        install(core, options.source)
        for extra in options.extras or extras:
            megabytes, seconds, done = tried(extra, options.source, core)
            failed += done.startswith("FAILED")
            print(f"| `{extra}` | {megabytes:.0f} | {seconds:.0f} | {done} |", flush=True)
    sys.exit(min(failed, 1))


def tried(extra: str, source: str, core: Path) -> tuple[float, float, str]:
    """(megabytes, seconds to install, what was done) of an extra, the first two beyond `core`."""
    folder = core.with_name(extra)
    # pip puts new files in the place of old ones, so that what is linked here stays as it is there
    shutil.copytree(core, folder, symlinks=True, copy_function=os.link)
    before, began = _megabytes(folder), time.perf_counter()
    try:
        install(folder, f"{source}[{extra}]", freely=extra in OWN_VERSIONS)
    except subprocess.CalledProcessError as error:
        return 0.0, time.perf_counter() - began, f"FAILED: pip ended with {error.returncode}, see above"
    seconds, megabytes = time.perf_counter() - began, _megabytes(folder) - before
    variables = {"PYTHONPATH": str(ROOT / "tests"), "DEEPLAB_CACHE": str(core.with_name("cache"))}
    ran = subprocess.run(
        [folder / "bin" / "python", Path(__file__).resolve(), "--feature", extra],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        cwd=core.parent,
    )
    shutil.rmtree(folder)
    if ran.returncode:
        return megabytes, seconds, f"FAILED: {' '.join((ran.stdout + ran.stderr).split())[-600:]}"
    return megabytes, seconds, ran.stdout.strip().splitlines()[-1]


def install(environment: Path, what: str, *, freely: bool = False) -> None:
    """With pip, in the versions of constraints.txt, or `freely` with its torch alone.

    Raises:
        CalledProcessError: it failed.
    """
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ROOT / "constraints.txt"
    # the core's CPU build where one is at hand
    torch = [
        line for line in constraints.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")
    ]
    subprocess.run([*pip, what, *(torch if freely else ["--constraint", constraints])], check=True)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*.*") if path.is_file()) / 1e6


if __name__ == "__main__":
    main()

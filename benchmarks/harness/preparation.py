"""What the variants of a case need, made once: weights for peer and us, the photo, programs with argmax in the graph.

    python -m harness.preparation inference|training FOLDER NETWORK HEIGHT WIDTH CLASSES BATCH

Training needs no programs, but a step in float64 to judge by. In the peers' environment; stops if our logits are not
the peer's. It is a process of its own because converting takes memory that would count against the variants.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from deeplab.importers import import_weights
from deeplab.model.network import DeepLab
from deeplab.prediction.fold import folded
from deeplab.prediction.runtimes.int8 import write_int8
from deeplab.prediction.runtimes.onnxruntime import onnxruntime_network
from deeplab.prediction.runtimes.openvino import openvino_network
from harness.cases import CURVES, INT8, INT8_PROGRAM, JUDGE, LARGE, Case
from harness.peer_networks import build, logits_of, make_up_weights
from harness.training_variants import peer

# of the standard deviation of the peer's logits
LOGITS_TOLERANCE = 1e-3
READY = "ready"


class PhotoToLabels(nn.Module):
    """uint8 [N, H, W, 3] to uint8 [N, H, W]: the whole task as one program."""

    def __init__(self, model: DeepLab) -> None:
        super().__init__()
        self.model = model

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        return self.model(photos.permute(0, 3, 1, 2)).argmax(1).to(torch.uint8)


def main() -> None:
    """See the module."""
    purpose, folder, network, *numbers = sys.argv[1:]
    case = Case(network, *map(int, numbers))
    prepare(case, Path(folder), programs=purpose == "inference")


def prepare(case: Case, folder: Path, *, programs: bool) -> None:
    """Fill `folder`; nothing is done if it is full."""
    if (folder / READY).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    photos = example_photos(case)
    np.save(folder / "photos.npy", photos)
    difference = _weights(case, photos, folder)
    ours = DeepLab.from_pretrained(folder / "ours")
    pixels = {"mean": ours.config.pixels.mean, "std": ours.config.pixels.std}
    (folder / "about.json").write_text(json.dumps({"logits_difference": difference, **pixels}))
    if programs:
        _programs(case, ours, photos, folder)
    else:
        np.save(folder / JUDGE, peer(folder=str(folder), case=case._asdict(), precision="float64")())
    (folder / READY).touch()
    print(f"{case.name}: our logits are the peer's within {difference:.1e} of their standard deviation")


def example_photos(case: Case) -> np.ndarray:
    """uint8 [N, H, W, 3]: scikit-image's photos, enlarged."""
    from skimage import data

    sources = (data.astronaut(), data.chelsea(), data.coffee())
    photos = [
        Image.fromarray(sources[index % len(sources)]).resize((case.width, case.height))
        for index in range(case.batch)
    ]
    return np.stack([np.asarray(photo) for photo in photos])


def normalised(photos: np.ndarray, *, mean: list[float], std: list[float]) -> torch.Tensor:
    """As peers are fed: float32 [N, 3, H, W], contiguous."""
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous().float()
    return (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def _weights(case: Case, photos: np.ndarray, folder: Path) -> float:
    """Saves the peer's weights and ours; how far apart the logits are."""
    theirs = build(case.network, case.classes)
    logits = logits_of(case.network, theirs)
    torch.save(theirs.state_dict(), folder / "peer.pth")
    pixels = _imported(case.network, theirs, folder).config.pixels
    images = normalised(photos, mean=pixels.mean, std=pixels.std)
    make_up_weights(theirs, logits, images, classes=case.classes)
    ours = _imported(case.network, theirs, folder)
    ours.save_pretrained(folder / "ours")
    with torch.inference_mode():
        expected = logits(images)
        found = ours(torch.from_numpy(photos).permute(0, 3, 1, 2))
    difference = ((found - expected).abs().max() / expected.std()).item()
    if not difference <= LOGITS_TOLERANCE:
        raise SystemExit(
            f"{case.name}: logits differ by {difference:.2g} standard deviations: nothing is timed"
        )
    return difference


def _imported(network: str, theirs: nn.Module, folder: Path) -> DeepLab:
    torch.save(theirs.state_dict(), folder / "peer.pth")
    if network.startswith("transformers"):
        theirs.save_pretrained(folder / "peer")
        return import_weights(folder / "peer" / "model.safetensors").model
    return import_weights(folder / "peer.pth").model


def _programs(case: Case, ours: DeepLab, photos: np.ndarray, folder: Path) -> None:
    """What the case's variants run, at the fixed size that suits others best; ours goes into the cache."""
    import openvino

    example = (torch.from_numpy(photos),)
    module, network = PhotoToLabels(ours).eval(), folded(ours).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, example)
        openvino.save_model(
            openvino.convert_model(program), str(folder / "labels.xml"), compress_to_fp16=False
        )
        openvino_network(network)
        if case not in (*CURVES, *LARGE):
            torch.onnx.export(
                program, example, str(folder / "labels.onnx"), external_data=False, verbose=False
            )
            onnxruntime_network(network)
    if case in INT8:
        write_int8(folder / "labels.xml", list(photos), folder / INT8_PROGRAM)
        openvino_network(network, precision="int8", calibration=list(photos))


if __name__ == "__main__":
    main()

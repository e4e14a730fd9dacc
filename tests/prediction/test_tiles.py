"""Windows that are shown the whole: equal labels with `exact`, one set of means with `shared`, and what cannot be."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deeplab import DeepLab, DeepLabConfig
from deeplab.config import ASPPConfig, DecoderConfig, backbone_config
from deeplab.errors import UserError
from deeplab.model.reach import reach_of
from deeplab.prediction.fold import for_inference
from deeplab.prediction.inference import predict
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.sliding import predict_in_windows, slide
from deeplab.prediction.strips import predict_whole
from deeplab.prediction.tiles import Gathered, Tiles
from deeplab.prediction.windows import Block, Place, Window, assembled

LIGHT = ASPPConfig(channels=8, rates=())
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "image pooling": ("mobilenet_v2", {"context": LIGHT}),
    # corners are aligned at sides that are no k * 16 + 1, so that its maps are stretched
    "a decoder": ("mobilenet_v2", {"context": LIGHT, "decoder": DecoderConfig(channels=8)}),
    "half pixels": (
        "mobilenet_v2",
        {"context": LIGHT, "decoder": DecoderConfig(channels=8), "resize": "half_pixel"},
    ),
    "many means": ("mobilenet_v3_small_seg", {"context": LIGHT}),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> DeepLab:
    backbone, rest = NETWORKS[request.param]
    return ready(backbone, **rest)


def ready(backbone: str, **rest: Any) -> DeepLab:
    torch.manual_seed(4)
    width = {"width": 0.25} if backbone == "mobilenet_v2" else {}
    config = DeepLabConfig(backbone=backbone_config(backbone, **width), num_classes=5, **rest)
    model = DeepLab(config).eval()
    with torch.no_grad():
        # random weights answer with one class: here each gets its share
        image = picture(64, 64)
        logits = model.low_resolution_logits(image)["semantic"]
        next(iter(model.classifiers.values())).convs[0].bias -= logits.mean((0, 2, 3))
    return for_inference(model, device=torch.device("cpu"))


def picture(height: int, width: int) -> torch.Tensor:
    """Coarse, so that labels come in regions."""
    torch.manual_seed(height)
    coarse = torch.rand(1, 3, -(-height // 24), -(-width // 24)) * 255
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


# heights of all remainders that a pooling or an aligned corner could stumble over
@pytest.mark.parametrize("height", [1180, 1185, 1191])
def test_exact_labels_are_those_of_the_whole_image(network: DeepLab, height: int) -> None:
    image = picture(height, 50)
    reach = reach_of(network.config, network.output_stride).pixels
    side = 2 * (reach + 3 * network.output_stride) + 200
    found = predict_in_windows(network, image, window=Window(side, 50), seams="exact")
    whole = predict_whole(network, image)
    tiles = Tiles(network, (height, 50), Window(side, 50), exact=True)
    assert len(tiles.places) > 2 and len(whole.labels.unique()) > 1
    differing = found.labels != whole.labels
    # where two classes are equal up to rounding, which depends on how many pixels are computed at once
    assert differing.float().mean() < 1e-4
    torch.testing.assert_close(found.confidence, whole.confidence, rtol=0, atol=1e-4)


def test_cores_that_are_too_near_to_the_rim_are_not(network: DeepLab) -> None:
    image = picture(1180, 50)
    shared = predict_in_windows(network, image, window=Window(256, 50, overlap=0.1), seams="shared")
    whole = predict_whole(network, image)
    assert (shared.labels != whole.labels).any()
    blended = predict_in_windows(network, image, window=Window(256, 50, overlap=0.1))
    assert (blended.confidence - whole.confidence).abs().mean() > (
        shared.confidence - whole.confidence
    ).abs().mean()


def test_gathering_goes_on_where_it_stopped(network: DeepLab) -> None:
    image = picture(700, 50)

    def read(place: Place) -> torch.Tensor:
        return image[..., place.top : place.top + place.height, :]

    def tiles() -> Tiles:
        return Tiles(network, (700, 50), Window(200, 50), exact=False)

    straight, stopped = tiles(), tiles()
    seen = sum(1 for _ in straight.gather(read))
    assert seen == len(straight.places) * reach_of(network.config, 16).means
    for count, _ in enumerate(stopped.gather(read)):
        if count == seen // 2:
            break
    resumed = tiles()
    resumed.gathered = Gathered(*stopped.gathered)
    assert sum(1 for _ in resumed.gather(read)) == seen - seen // 2 - 1
    for one, other in zip(straight.gathered.means, resumed.gathered.means, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("seams", ["blend", "shared"])
def test_blocks_may_begin_anywhere_and_cover_every_pixel_once(seams: str, monkeypatch) -> None:
    monkeypatch.setattr("deeplab.prediction.blended.OPEN_BYTES", (4 * 5 * 19 + 64) * 150)
    from deeplab.prediction.sliding import slide

    network, image = ready("mobilenet_v2", context=LIGHT), picture(200, 380)
    counted = torch.zeros(200, 380)

    def way() -> Any:
        return slide(network, (200, 380), window=Window(64, 80), seams=seams, confidence=True)

    for place in way().places:
        counted[place.top : place.top + place.height, place.left : place.left + place.width] += 1
    assert (counted == 1).all()
    assert len({place.left for place in way().places}) > 2

    def read(place: Place) -> torch.Tensor:
        return image[..., place.top : place.top + place.height, place.left : place.left + place.width]

    straight: list[Block] = list(way().blocks(read))
    for first in (1, len(straight) // 2, len(straight) - 1):
        for one, other in zip(straight[first:], way().blocks(read, first=first), strict=True):
            assert one.place == other.place and torch.equal(one.labels, other.labels)
            assert torch.equal(one.confidence, other.confidence)


def test_panels_change_no_label(monkeypatch) -> None:
    network, image = ready("mobilenet_v2", context=LIGHT), picture(150, 400)
    one = predict_in_windows(network, image, window=Window(64, 80))
    monkeypatch.setattr("deeplab.prediction.blended.OPEN_BYTES", 1)
    many = predict_in_windows(network, image, window=Window(64, 80))
    assert torch.equal(one.labels, many.labels) and torch.equal(one.confidence, many.confidence)


def test_while_a_window_is_labelled_no_more_is_held_than_what_others_add_to(monkeypatch) -> None:
    """Else the heap of a long run grows by a window or two."""
    network, image = ready("mobilenet_v2", context=LIGHT), picture(140, 520)
    window, classes = Window(80, 80, overlap=0.25), network.config.num_classes
    # some weights are packed in the first pass
    predict(network, image[..., :80, :80])
    before = {id(each): each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)}
    most = 0

    def counting(*arguments: object, **options: object) -> object:
        nonlocal most
        tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        storages = [
            each.untyped_storage()
            for each in tensors
            if id(each) not in before and each.layout == torch.strided and each.dtype == torch.float32
        ]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages}
        most = max(most, sum(held.values()))
        return predict(*arguments, **options)

    monkeypatch.setattr("deeplab.prediction.blended.predict", counting)
    way = slide(network, (140, 520), window=window)
    for _ in way.blocks(
        lambda place: image[..., place.top :, place.left :][..., : place.height, : place.width]
    ):
        pass
    # 20 rows of the windows above, 25 columns at most of the one before, and weights
    assert 0 < most <= 4 * (classes * (20 * 520 + 80 * 25) + 80 * 20 + 80)


@pytest.mark.parametrize("seams", ["blend", "shared", "exact"])
def test_what_nothing_is_read_of_is_not_computed(seams: str) -> None:
    network = ready("mobilenet_v2", context=LIGHT)
    reach = reach_of(network.config, 16).pixels
    window = Window(2 * reach + 120, 64) if seams == "exact" else Window(96, 64)
    way = slide(network, (900, 64), window=window, seams=seams)
    assert all(not block.labels.any() for block in way.blocks(lambda place: None))


def refused(match: str, make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=match):
        make()


def test_what_does_not_go_together_is_refused() -> None:
    network = ready("mobilenet_v2", context=LIGHT)
    refused(
        "too small: .* beyond what is labelled.*fix: --window",
        lambda: Tiles(network, (900, 900), Window(99, 99), exact=True),
    )
    refused("one pass.*leave out scales", lambda: Labelling(seams="exact", flip=True))
    refused("engine openvino cannot.*engine torch", lambda: Labelling(seams="shared", engine="openvino"))


def test_one_window_is_the_whole_photo() -> None:
    network, image = ready("mobilenet_v2", context=LIGHT), picture(100, 90)
    whole = predict_whole(network, image).labels
    for seams in ("shared", "exact"):
        assert torch.equal(
            predict_in_windows(network, image, window=Window(100, 90), seams=seams).labels, whole
        )
    tiles = Tiles(network, (100, 90), None, exact=True)
    assert torch.equal(assembled(tiles, image).labels, whole)

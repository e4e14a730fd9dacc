"""Overlays: right colours in the right pixels, shares, and a legend for every size and name."""

from __future__ import annotations

import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from deeplab.errors import UserError
from deeplab.imaging import legend
from deeplab.imaging.legend import PANEL
from deeplab.imaging.overlay import class_shares, draw_overlay
from deeplab.imaging.palettes import CITYSCAPES, CITYSCAPES_CLASSES, distinct
from deeplab.imaging.png import png_bytes

NAMES = ("background", "cat", "dog")
PALETTE = np.array([[0, 0, 0], [200, 0, 100], [0, 255, 50]], np.uint8)


def overlay(photo: np.ndarray, labels: np.ndarray, **changes: object) -> np.ndarray:
    options = {"class_names": NAMES, "palette": PALETTE, "legend": False} | changes
    image = draw_overlay(photo, labels, **options)
    assert image.mode == "RGB"
    return np.array(image)


def test_class_shares_by_hand() -> None:
    labels = np.array([[0, 0, 0, 1], [2, 255, 255, 255]], np.uint8)
    np.testing.assert_allclose(class_shares(labels, 4), [0.6, 0.2, 0.2, 0])
    np.testing.assert_allclose(class_shares(labels, 256, ignore_label=None)[[0, 255]], [3 / 8, 3 / 8])
    np.testing.assert_allclose(class_shares(labels, 3, ignore_label=255).sum(), 1)
    np.testing.assert_array_equal(class_shares(np.full((2, 2), 255, np.uint8), 3), [0, 0, 0])


def test_class_shares_ignores_a_label_among_the_classes() -> None:
    labels = np.array([[0, 0, 1, 2]], np.int64)
    np.testing.assert_allclose(
        class_shares(np.where(labels == 2, 255, labels), 256, ignore_label=0)[[0, 1, 255]], [0, 0.5, 0.5]
    )
    np.testing.assert_allclose(class_shares(labels - 1, 2, ignore_label=-1), [0.5, 0.5])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[0, 7, 9]], np.uint8), r"labels \[7, 9\] have no class name: allowed is 0\.\.2 and 255"),
        (np.array([[-1]], np.int32), r"labels \[-1\]"),
        (np.array([[0.0]]), "float64"),
        (np.zeros((1, 1, 1), np.uint8), r"\[1, 1, 1\]"),
    ],
)
def test_class_shares_names_bad_labels(labels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_shares(labels, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (33, 47)])
def test_pictures_are_written_exactly(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    with Image.open(BytesIO(png_bytes(Image.fromarray(pixels)))) as image:
        # which reads to the end, checksums too
        image.verify()
    with Image.open(BytesIO(png_bytes(Image.fromarray(pixels)))) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.array(image), pixels)


def test_tint_is_the_blend_and_background_and_ignored_keep_the_photo() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 20:40] = 1
    labels[:, 40:] = 255
    before = photo.copy()
    result = overlay(photo, labels, alpha=0.4)
    np.testing.assert_array_equal(photo, before)
    np.testing.assert_array_equal(result[:, :20], photo[:, :20])
    np.testing.assert_array_equal(result[:, 40:], photo[:, 40:])
    inner = np.s_[:, 21:39]
    np.testing.assert_allclose(result[inner], 0.6 * photo[inner] + 0.4 * PALETTE[1], atol=1)


def test_class_edges_are_opaque_and_one_pixel_wide_on_each_side() -> None:
    photo = np.full((40, 60, 3), 90, np.uint8)
    labels = np.ones((40, 60), np.uint8)
    labels[:, 30:] = 2
    result = overlay(photo, labels)
    row = result[20].tolist()
    assert row[28] == pytest.approx([145, 45, 95], abs=1)
    assert row[31] == pytest.approx([45, 172, 70], abs=1)
    # Opaque class colour, 40 % of the way to white.
    assert row[29] == pytest.approx([222, 102, 162], abs=1)
    assert row[30] == pytest.approx([102, 255, 132], abs=1)
    assert (result == result[20]).all()


def test_first_class_is_tinted_unless_it_is_background() -> None:
    photo = np.full((4, 4, 3), 100, np.uint8)
    labels = np.zeros((4, 4), np.uint8)
    tinted = overlay(photo, labels, class_names=("road",), palette=np.array([[200, 0, 0]], np.uint8))
    np.testing.assert_allclose(tinted, np.broadcast_to([150, 50, 50], (4, 4, 3)), atol=1)
    for name in ("background", "Background", "_background_"):
        names = (name, *NAMES[1:])
        np.testing.assert_array_equal(overlay(photo, labels, class_names=names), photo)


def test_alpha_zero_draws_outlines_only_and_one_hides_the_photo() -> None:
    photo = np.full((9, 9, 3), 50, np.uint8)
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 2
    outlined = overlay(photo, labels, alpha=0)
    np.testing.assert_array_equal(outlined[3:6, 3:6], photo[3:6, 3:6])
    assert (outlined[2, 2:7] != 50).any(axis=1).all()
    assert (overlay(photo, labels, alpha=1)[3:6, 3:6] == PALETTE[2]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_label_dtypes_and_strides_do_not_matter(dtype: type) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    labels = np.random.default_rng(2).integers(0, 3, (10, 12), dtype=np.uint8)
    plain = overlay(photo, np.ascontiguousarray(labels.T))
    np.testing.assert_array_equal(overlay(photo, labels.astype(dtype).T), plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros((5, 4), np.uint8)}, r"shape \[5, 4\] do not fit .* height 4 and width 4"),
        ({"palette": PALETTE[:2]}, r"3 classes need a palette .* found \[2, 3\]; fix: .*distinct\(3\)"),
        ({"alpha": 1.5}, r"alpha is 1\.5"),
        ({"labels": np.full((4, 4), 3, np.uint8)}, r"labels \[3\] have no class name"),
    ],
)
def test_overlay_names_what_does_not_fit(changes: dict[str, object], message: str) -> None:
    arguments = {"labels": np.zeros((4, 4), np.uint8)} | changes
    with pytest.raises(UserError, match=message):
        overlay(np.zeros((4, 4, 3), np.uint8), **arguments)


def colours_of(image: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(image.reshape(-1, 3), axis=0).tolist()}


def test_legend_shows_swatches_of_present_classes_only() -> None:
    photo = np.full((200, 300, 3), 255, np.uint8)
    labels = np.zeros((200, 300), np.uint8)
    labels[:50] = 1
    result = overlay(photo, labels, legend=True)
    assert result.shape[0] > 200
    np.testing.assert_array_equal(result[:200], overlay(photo, labels))
    panel = colours_of(result[200:])
    assert tuple(PALETTE[1].tolist()) in panel
    assert tuple(PALETTE[2].tolist()) not in panel
    assert PANEL in panel


def test_legend_is_ordered_by_share() -> None:
    labels = np.full((400, 200), 2, np.uint8)
    labels[:60] = 1
    panel = overlay(np.zeros((400, 200, 3), np.uint8), labels, legend=True)[400:]
    places = [np.argwhere((panel == PALETTE[i]).all(axis=2))[0] for i in (2, 1)]
    assert tuple(places[0]) < tuple(places[1])


def test_legend_lists_ten_classes_and_counts_the_rest() -> None:
    palette = distinct(40)
    labels = np.repeat(np.arange(1, 31, dtype=np.uint8), 10)[None].repeat(20, axis=0)
    names = [f"class {i}" for i in range(40)]
    result = draw_overlay(np.zeros((20, 300, 3), np.uint8), labels, class_names=names, palette=palette)
    panel = colours_of(np.array(result)[20:])
    assert sum(tuple(colour) in panel for colour in palette[1:].tolist()) == 10


@pytest.mark.parametrize("shape", [(1, 1), (65, 65), (3, 900), (900, 3), (3000, 4000)])
def test_legend_fits_every_size(shape: tuple[int, int]) -> None:
    labels = np.ones(shape, np.uint8)
    image = draw_overlay(np.zeros((*shape, 3), np.uint8), labels, class_names=NAMES, palette=PALETTE)
    assert image.width >= shape[1]
    assert 20 < image.height - shape[0] < 300
    assert tuple(PALETTE[1].tolist()) in colours_of(np.array(image)[shape[0] :])


@pytest.mark.parametrize(
    "name",
    [
        "x" * 500,
        "Stra\u00dfenbahn f\u00fchrer",
        "\u732b",
        "\u0441\u043e\u0431\u0430\u043a\u0430",
        "e\u0301",
        "\U0001f408",
        "\ud800",
        "two\nlines\tand tab",
        "",
    ],
)
def test_legend_takes_every_name(name: str) -> None:
    labels = np.ones((100, 200), np.uint8)
    image = draw_overlay(
        np.zeros((100, 200, 3), np.uint8), labels, class_names=("background", name), palette=PALETTE
    )
    assert (image.width, image.height > 100) == (200, True)


def test_long_names_do_not_push_the_share_out_of_the_panel() -> None:
    labels = np.ones((100, 400), np.uint8)
    image = draw_overlay(
        np.zeros((100, 400, 3), np.uint8), labels, class_names=("background", "w" * 300), palette=PALETTE
    )
    right_margin = np.array(image)[100:, -12:]
    assert (right_margin == PANEL).all()


def test_of_a_name_no_more_is_measured_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    begin = legend.replace
    monkeypatch.setattr(
        legend, "replace", lambda line, *, name: measured.append(len(name)) or begin(line, name=name)
    )
    draw_overlay(
        np.zeros((100, 200, 3), np.uint8),
        np.ones((100, 200), np.uint8),
        class_names=("a", "w" * 9000),
        palette=PALETTE,
    )
    assert 0 < len(measured) <= 200 and max(measured) <= 203


def test_all_ignored_gets_a_legend_that_says_so() -> None:
    labels = np.full((50, 300), 255, np.uint8)
    result = overlay(np.zeros((50, 300, 3), np.uint8), labels, legend=True)
    assert len(colours_of(result[50:])) > 5


def test_overlay_of_a_street_photo_is_fast() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
    labels = np.kron(np.arange(128, dtype=np.uint8).reshape(8, 16) % 19, np.ones((128, 128), np.uint8))

    def seconds() -> float:
        start = time.perf_counter()
        draw_overlay(photo, labels, class_names=CITYSCAPES_CLASSES, palette=CITYSCAPES)
        return time.perf_counter() - start

    # About 0.03 s; a Python loop over pixels or classes takes several seconds.
    assert min(seconds() for _ in range(3)) < 0.5

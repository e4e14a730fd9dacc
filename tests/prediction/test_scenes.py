"""Pictures larger than memory: what is kept, what is left out, and runs that are stopped and go on."""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.banded_photos import NAMES, pixels_of
from support.banded_photos import scene as banded_scene

from deeplab import DeepLab, DeepLabConfig, LabelSpec
from deeplab.config import ASPPConfig, PixelConfig, backbone_config
from deeplab.errors import UserError
from deeplab.imaging.label_rasters import write_label_raster
from deeplab.imaging.scenes import Place, is_scene, open_scene
from deeplab.model.checkpoint import load
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.runtimes.program import RuntimeNetwork
from deeplab.prediction.scenes import Ledger, Progress, _key, label_scene
from deeplab.prediction.tiles import Gathered
from deeplab.prediction.windows import Window

rasterio = pytest.importorskip("rasterio", reason="scenes are read by the extra geo")
# what the tests' own files are read and written with
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIZE = (150, 220)
GROUND: dict[str, Any] = {
    "crs": "EPSG:32633",
    "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
}


def values(bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    random = np.random.default_rng(5)
    coarse = random.integers(1, 256, (-(-SIZE[0] // 16), -(-SIZE[1] // 16), bands))
    return coarse.repeat(16, 0).repeat(16, 1)[: SIZE[0], : SIZE[1]].astype(dtype)


def write(path: Path, stored: np.ndarray, **profile: Any) -> Path:
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "dtype": stored.dtype} | profile
    with rasterio.open(path, "w", count=stored.shape[2], **profile) as file:
        file.write(np.moveaxis(stored, -1, 0))
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Without data in the rows above 60, and so in whole windows."""
    stored = values()
    stored[:60] = 0
    return write(tmp_path / "scene.tif", stored, nodata=0, **GROUND)


@pytest.fixture
def predictor(squares_model: Path) -> Predictor:
    return Predictor.of(load(squares_model), Labelling(window=Window(48, 64), device="cpu"))


def labelled(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_the_command_keeps_where_a_scene_lies(deeplab, squares_model, scene: Path, tmp_path: Path) -> None:
    words = ("-m", squares_model, "-o", tmp_path / "out", "--window", 48, 64, "--polygons", "geojson")
    code, _, err = deeplab("predict", scene, *words)
    assert code == 0, err
    with rasterio.open(tmp_path / "out" / "scene_labels.tif") as file, rasterio.open(scene) as source:
        assert (file.crs, file.transform, file.shape) == (source.crs, source.transform, source.shape)
        assert file.nodata == 255 and file.profile["tiled"] and file.compression.name == "deflate"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        found = file.read(1)
        classes = json.loads(file.tags()["CLASSES"])
        colours = file.colormap(1)
        assert (file.dataset_mask() > 0).sum() == (found != 255).sum()
    model = load(squares_model)
    assert tuple(classes) == model.labels.classes
    assert [colours[index][:3] for index in range(3)] == list(model.labels.palette)
    assert (found[:60] == 255).all() and (found[60:] < 3).all() and len(np.unique(found)) > 2
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    counts = np.bincount(found[60:].ravel(), minlength=3) / found[60:].size
    assert entry["shares"] == {
        classes[index]: pytest.approx(counts[index], abs=1e-6)
        for index in np.argsort(-counts)
        if counts[index]
    }
    with Image.open(tmp_path / "out" / entry["overlay"]) as overlay:
        assert overlay.height > SIZE[0]
    outlines = json.loads((tmp_path / "out" / entry["polygons"]).read_text())["features"]
    assert {each["properties"]["name"] for each in outlines} == set(classes) - {"background"}
    across, up = outlines[0]["geometry"]["coordinates"][0][0]
    # of UTM zone 33 at 500,000 m east
    assert across == pytest.approx(15, abs=0.01) and up == pytest.approx(45.15, abs=0.01)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_polygons_cover_their_class(deeplab, squares_model, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(), nodata=0)
    assert (
        deeplab(
            "predict",
            path,
            "-m",
            squares_model,
            "-o",
            tmp_path / "out",
            "--polygons",
            "geojson",
            "--window",
            64,
            64,
        )[0]
        == 0
    )
    found = labelled(tmp_path / "out" / "a_labels.tif")
    outlines = json.loads((tmp_path / "out" / "a_labels.geojson").read_text())["features"]
    for index in (1, 2):
        parts = [each["geometry"]["coordinates"] for each in outlines if each["properties"]["class"] == index]
        covered = sum(area(outside) - sum(map(area, holes)) for outside, *holes in parts)
        assert covered == (found == index).sum()


def test_geopackages_are_in_the_scenes_own_system(
    deeplab, squares_model, scene: Path, tmp_path: Path
) -> None:
    words = ("-m", squares_model, "-o", tmp_path / "out", "--window", 48, 64, "--polygons", "gpkg")
    assert deeplab("predict", scene, *words)[0] == 0
    found = labelled(tmp_path / "out" / "scene_labels.tif")
    with sqlite3.connect(tmp_path / "out" / "scene_labels.gpkg") as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("SELECT srs_id FROM gpkg_contents").fetchall() == [(32633,)]
        rows = base.execute("SELECT class, name, geom FROM labels").fetchall()
    base.close()
    classes = load(squares_model).labels.classes
    covered = np.zeros(3)
    for index, name, geometry in rows:
        assert name == classes[index] and geometry[:2] == b"GP"
        (outside, *holes), rest = rings(geometry[8:])
        assert rest == b""
        covered[index] += area(outside) - sum(map(area, holes))
        assert all(500_000 <= across <= 500_110 and 4_999_925 <= up <= 4_999_970 for across, up in outside)
    # of pixels of half a metre
    assert covered[1:] * 4 == pytest.approx(np.bincount(found[found != 255].ravel(), minlength=3)[1:])


def test_polygons_follow_ground_control_points(deeplab, squares_model, tmp_path: Path) -> None:
    """Those of the corners of a place on the ground say what its transform says."""
    height, width = SIZE
    corners = [(0, 0), (0, width), (height, 0), (height, width)]
    points = [
        rasterio.control.GroundControlPoint(
            row, column, *rasterio.transform.xy(GROUND["transform"], row, column, offset="ul")
        )
        for row, column in corners
    ]
    path = write(tmp_path / "points.tif", values())
    with rasterio.open(path, "r+") as file:
        file.gcps = points, rasterio.crs.CRS.from_string(GROUND["crs"])
    other = write(tmp_path / "transform.tif", values(), **GROUND)
    words = ("-m", squares_model, "-o", tmp_path / "out", "--polygons", "geojson")
    assert deeplab("predict", path, other, *words)[0] == 0
    found, expected = (
        json.loads((tmp_path / "out" / f"{name}_labels.geojson").read_text())["features"]
        for name in ("points", "transform")
    )
    assert found and len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one["properties"] == two["properties"]
        for ring, same in zip(one["geometry"]["coordinates"], two["geometry"]["coordinates"], strict=True):
            # to some centimetres
            np.testing.assert_allclose(ring, same, atol=5e-7)


def rings(polygon: bytes) -> tuple[list[list[list[float]]], bytes]:
    """Of well-known binary, and what stands behind it."""
    order, kind, count = struct.unpack_from("<BII", polygon)
    assert (order, kind) == (1, 3)
    rest, found = polygon[9:], []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", rest)
        found.append(np.frombuffer(rest[4:], np.float64, 2 * length).reshape(length, 2).tolist())
        rest = rest[4 + 16 * length :]
    return found, rest


def area(ring: list[list[float]]) -> float:
    across, down = np.array(ring[:-1]).T
    return abs(across @ (np.roll(down, 1) - np.roll(down, -1))) / 2


def test_labels_are_those_of_the_array(predictor: Predictor, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(), **GROUND)
    with open_scene(path) as scene:
        counts = label_scene(predictor, scene, tmp_path / "labels.tif")
    found = labelled(tmp_path / "labels.tif")
    expected = predictor.labels_of(values())
    assert torch.equal(torch.from_numpy(found), expected)
    assert counts[:3].tolist() == np.bincount(found.ravel(), minlength=3).tolist()


@pytest.fixture(params=["blend", "shared"])
def stoppable(request: pytest.FixtureRequest, squares_model: Path) -> Predictor:
    return Predictor.of(
        load(squares_model), Labelling(window=Window(48, 64), seams=request.param, device="cpu")
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("what", ["looking", "labelling"])
def test_a_stopped_run_goes_on(
    stoppable: Predictor, scene: Path, tmp_path: Path, share: float, what: str
) -> None:
    straight, target = tmp_path / "straight.tif", tmp_path / "labels.tif"

    class Stopped(Exception):
        pass

    def run(path: Path, on_progress: Callable[[Progress], None]) -> int:
        """Places that were read."""
        reads = 0
        with open_scene(scene) as opened:
            read = opened.read

            def counted(*place: int) -> np.ndarray:
                nonlocal reads
                reads += 1
                return read(*place)

            opened.read = counted  # type: ignore[method-assign]
            label_scene(stoppable, opened, path, on_progress=on_progress)
        return reads

    def stop(progress: Progress) -> None:
        if progress.what == what and progress.pixels > share * progress.of:
            raise Stopped

    whole = run(straight, lambda progress: None)
    if what == "looking" and stoppable.how.seams == "blend":
        return
    with pytest.raises(Stopped):
        run(target, stop)
    assert not target.exists()
    rest = run(target, lambda progress: None)
    assert rest < whole or share == 0
    assert (labelled(target) == labelled(straight)).all()
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif", "straight.tif", "labels.tif"}


def test_a_program_of_other_weights_does_not_go_on(predictor: Predictor, scene: Path) -> None:
    network = predictor.network
    assert isinstance(network, DeepLab)

    def program(version: str) -> Predictor:
        run = RuntimeNetwork(network.low_resolution_logits, network, version=version, one_pass=True)
        return Predictor(run, predictor.labels, device=predictor.device, output_stride=8)

    with open_scene(scene) as opened:
        keys = [_key(program(version), opened) for version in ("one", "one", "other")]
    assert keys[0] == keys[1] != keys[2]


def test_what_was_cut_off_is_done_again(tmp_path: Path) -> None:
    blocks = [np.full((4, 5), value, np.uint8) for value in range(3)]
    (tmp_path / "work").mkdir()
    ledger = Ledger(tmp_path / "work", "key")
    for block in blocks:
        ledger.add(block)
    ledger.keep(Gathered((torch.ones(1, 2, 1, 1),), torch.ones(2, dtype=torch.float64), 7, 3))
    ledger.close()
    labels = tmp_path / "work" / "labels"
    labels.write_bytes(labels.read_bytes()[:-1])
    again = Ledger(tmp_path / "work", "key")
    assert again.done == 2
    again.add(blocks[2])
    again.close()
    assert [block.tobytes() for block in blocks] == list(again.contents())
    found = again.gathered()
    assert (
        found.positions == 7 and found.following == 3 and torch.equal(found.means[0], torch.ones(1, 2, 1, 1))
    )
    # of another scene, model or way of labelling
    other = Ledger(tmp_path / "work", "another key")
    assert other.done == 0 and other.gathered().means == ()
    other.close()


def write_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    (path.parent / "drafts").mkdir(exist_ok=True)
    return write_label_raster(
        path,
        [(0, 0, labels[:400]), (400, 0, labels[400:])],
        size=labels.shape,
        dtype="uint8",
        place=Place(GROUND, {}),
        nodata=255,
        palette=np.zeros((7, 3), np.uint8),
        classes=list("abcdefg"),
        drafts=path.parent / "drafts",
    )


def test_overviews_hold_the_commonest_class(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 7, (350, 450), np.uint8).repeat(2, 0).repeat(2, 1)
    small = labels[::2, ::2].copy()
    # one of each four is another
    labels[1::2, 1::2] = 6 - labels[1::2, 1::2]
    labels[:2, :2] = small[0, 0] = 255
    write_labels(tmp_path / "labels.tif", labels)
    assert (labelled(tmp_path / "labels.tif") == labels).all()
    with rasterio.open(tmp_path / "labels.tif", overview_level=0) as file:
        assert (file.read(1) == small).all()


def test_a_full_disk_leaves_no_half(tmp_path: Path) -> None:
    """GDAL keeps to itself what goes wrong when a file is closed."""
    resource = pytest.importorskip("resource", reason="file sizes are limited so")
    labels = np.random.default_rng(0).integers(0, 7, (700, 900), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (30_000, 200_000, 300_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(UserError, match=r"labels\.tif: cannot be written"):
                write_labels(tmp_path / "labels.tif", labels)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not (tmp_path / "labels.tif").exists()
    assert write_labels(tmp_path / "labels.tif", labels).sum() == labels.size


def test_what_a_scene_is(tmp_path: Path, monkeypatch) -> None:
    stored = values()
    assert is_scene(write(tmp_path / "ground.tif", stored, **GROUND))
    assert is_scene(write(tmp_path / "five.tif", values(5), nodata=0))
    assert is_scene(write(tmp_path / "big.tif", stored, BIGTIFF="YES"))
    plain = write(tmp_path / "plain.tif", stored)
    assert not is_scene(plain)
    monkeypatch.setattr("deeplab.imaging.scenes.MOST_PHOTO_PIXELS", SIZE[0] * SIZE[1] - 1)
    assert is_scene(plain)
    (tmp_path / "world.tfw").write_text("0.5\n0\n0\n-0.5\n500000\n5000000\n")
    assert is_scene(write(tmp_path / "world.tif", stored))
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "cut.tif").write_bytes(plain.read_bytes()[:9])
    assert not is_scene(tmp_path / "empty.tif") and not is_scene(tmp_path / "cut.tif")
    assert is_scene(tmp_path / "slide.svs")


def cache_of(path: Path) -> int:
    with open_scene(path):
        return rasterio.env.getenv()["GDAL_CACHEMAX"]


def test_blocks_of_a_window_are_kept_between_its_bands_its_mask_and_the_next_window(tmp_path: Path) -> None:
    held = 4 * 3 * 1280 * 1280
    assert cache_of(write(tmp_path / "scene.tif", values(), **GROUND)) >= held
    many = {"driver": "GTiff", "width": 5000, "height": 5000, "count": 4, "dtype": "uint16", "tiled": True}
    with rasterio.open(tmp_path / "many.tif", "w", **many, blockxsize=512, blockysize=512, sparse_ok=True):
        pass
    # 1280 pixels may touch four tiles of 512
    assert cache_of(tmp_path / "many.tif") == 2 * 4 * 2048 * 2048


def test_an_overview_of_more_tiles_than_are_kept_is_that_of_one_read(tmp_path: Path, monkeypatch) -> None:
    tiled = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    stored = np.tile(values(), (1, 3, 1))[:40, :333]
    path = write(tmp_path / "wide.tif", stored, height=40, width=333, **GROUND, **tiled)
    with open_scene(path) as scene:
        expected = scene.preview(100)
    monkeypatch.setattr("deeplab.imaging.scenes.CACHE_BYTES", 3 * 16 * 64)
    with open_scene(path) as scene:
        reads = []
        monkeypatch.setattr(
            scene, "_values", lambda *, read=scene._values, **which: reads.append(which) or read(**which)
        )
        assert (scene.preview(100) == expected).all()
    assert len(reads) == 11


def test_strips_are_warned_of_and_tiles_are_not(tmp_path: Path, monkeypatch, recwarn) -> None:
    monkeypatch.setattr("deeplab.imaging.scenes.WIDEST_STRIP", SIZE[1] - 1)
    tiled = write(tmp_path / "tiled.tif", values(), tiled=True, blockxsize=64, blockysize=64, **GROUND)
    with open_scene(tiled):
        assert not [each for each in recwarn if "strips" in str(each.message)]
    strips = write(tmp_path / "strips.tif", values(), **GROUND)
    with pytest.warns(UserWarning, match="stored in strips.*fix: gdal_translate"), open_scene(strips):
        pass


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        (values(3, "uint16"), [], "uint16"),
        (values(5), [], "band 1, band 2, band 3, band 4, band 5"),
        (values(5), ["--bands", 1, 2, 9], "has no band 9; allowed: 1 to 5"),
        (values(3), ["--crf", "v1"], "leave out the CRF"),
    ],
)
def test_what_a_model_cannot_take_is_named(
    deeplab, squares_model, tmp_path: Path, stored, options, message
) -> None:
    path = write(tmp_path / "scene.tif", stored, **GROUND)
    code, _, err = deeplab("predict", path, "-m", squares_model, "-o", tmp_path / "out", *options)
    assert code == 1 and message in err and str(path) in err
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["predictions.json"]


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64"])
def test_complex_values_of_radar_are_refused(deeplab, squares_model, tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "slc.tif", values(dtype="complex64"), dtype=dtype, **GROUND)
    code, _, err = deeplab("predict", path, "-m", squares_model, "-o", tmp_path / "out", "--window", 64, 64)
    assert code == 1
    assert f"{path}: holds values of type {dtype}; allowed: real numbers; fix: gdal_translate DERIVED" in err


def test_a_scene_without_any_data_says_so(deeplab, squares_model, tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", np.zeros_like(values()), nodata=0, **GROUND)
    code, out, err = deeplab("predict", path, "-m", squares_model, "-o", tmp_path / "out")
    assert code == 0 and "scene.tif: no pixel of it has data" in out + err
    assert (labelled(tmp_path / "out" / "scene_labels.tif") == 255).all()


def test_a_fourth_band_is_no_transparency(deeplab, squares_model, tmp_path: Path) -> None:
    """Whatever it holds: here what would be opaque."""
    stored = values(4)
    stored[..., 3] = 255
    path = write(tmp_path / "scene.tif", stored, photometric="minisblack", **GROUND)
    code, _, err = deeplab("predict", path, "-m", squares_model, "-o", tmp_path / "out")
    assert (
        code == 1 and f"{path}: has 4 bands (band 1, band 2, band 3, band 4), and the model takes RGB" in err
    )


def test_greys_are_as_bright_as_they_look(tmp_path: Path) -> None:
    grey, few = values(1), values(1) // 16
    for name, stored, shown, profile in (
        ("white", grey, 255 - grey, {"photometric": "miniswhite"}),
        ("few", few, few * 17, {"nbits": 4}),
        ("both", few, 255 - few * 17, {"nbits": 4, "photometric": "miniswhite"}),
        ("usual", grey, grey, {}),
    ):
        with open_scene(write(tmp_path / f"{name}.tif", stored, **profile, **GROUND)) as scene:
            assert (scene.read(0, 0, *SIZE) == shown).all(), name


def test_no_data_and_transparency_are_both_none(tmp_path: Path) -> None:
    """Of the bands that are read, one that holds data is enough; of others none counts."""
    stored = values(5)
    stored[..., 4] = 255
    stored[:, :100, 4] = 0
    stored[:50, :, :2] = 0
    stored[:30, :, 2] = 0
    path = write(tmp_path / "scene.tif", stored, nodata=0, **GROUND)
    with rasterio.open(path, "r+") as file:
        kinds = rasterio.enums.ColorInterp
        file.colorinterp = [kinds.gray, kinds.undefined, kinds.undefined, kinds.undefined, kinds.alpha]
    for bands, rows in (((1, 2, 3), 30), ((1, 2), 50), ((4,), 0)):
        expected = np.zeros(SIZE, bool)
        expected[rows:, 100:] = True
        with open_scene(path, bands=bands) as scene:
            assert (scene.mask(0, 0, *SIZE) == expected).all(), bands


def test_where_satellites_looked_from_is_kept(predictor: Predictor, tmp_path: Path) -> None:
    one = [1, *[0] * 19]
    rows, columns = [0, 0, -1, *[0] * 17], [0, 1, *[0] * 18]
    place = (100, 500, 45, 0.1, one, rows, 75, 75, 15, 0.1, one, columns, 110, 110, 0, 0)
    rpcs = rasterio.rpc.RPC(*place)
    path = write(tmp_path / "scene.tif", values(), rpcs=rpcs)
    assert is_scene(path)
    with open_scene(path) as scene:
        label_scene(predictor, scene, tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as file, rasterio.open(path) as source:
        assert source.rpcs.line_num_coeff == rows and file.rpcs.to_dict() == source.rpcs.to_dict()


def test_jpeg_2000_on_the_ground(predictor: Predictor, tmp_path: Path) -> None:
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    path = write(tmp_path / "a.jp2", values(), **lossless, **GROUND)
    assert is_scene(path) and not is_scene(write(tmp_path / "plain.jp2", values(), **lossless))
    with open_scene(path) as scene:
        assert (scene.read(0, 0, *SIZE) == values()).all()
        label_scene(predictor, scene, tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as file:
        assert file.crs == GROUND["crs"] and file.transform == GROUND["transform"]


def test_what_is_left_out_is_warned_of(tmp_path: Path) -> None:
    first, second = (Image.fromarray(each) for each in (values(), 255 - values()))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "turned.tif", tiffinfo={274: 6})
    for name, words in (("pages", "holds 2 pictures, of which the first"), ("turned", "orientation tag")):
        with pytest.warns(UserWarning, match=f"{name}.tif: .*{words}"), open_scene(tmp_path / f"{name}.tif"):
            pass


def test_geojson_of_a_local_system_is_refused_first(deeplab, squares_model, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(), **{**GROUND, "crs": 'LOCAL_CS["works",UNIT["metre",1]]'})
    words = ("predict", path, "-m", squares_model, "-o", tmp_path / "out", "--window", 64, 64, "--polygons")
    code, _, err = deeplab(*words, "geojson")
    assert code == 1 and f"{path}: GeoJSON" in err and "fix: --polygons gpkg" in err
    assert not (tmp_path / "out" / "a_labels.tif").exists()
    assert deeplab(*words, "gpkg")[0] == 0


def test_two_processes_do_not_label_into_one(predictor: Predictor, scene: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="without it nobody holds a folder")
    held = "import sys, pathlib; from deeplab.system.writing import hold_folder\n"
    held += "with hold_folder(pathlib.Path(sys.argv[1]), 'labelling into'): print(flush=True); input()"
    words = [sys.executable, "-c", held, str(tmp_path / ".labels.tif.work")]
    with (
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        open_scene(scene) as opened,
    ):
        assert other.stdout is not None and other.stdout.readline() == "\n"
        with pytest.raises(UserError, match="another process is labelling into"):
            label_scene(predictor, opened, tmp_path / "labels.tif")
        other.communicate("\n")
        assert label_scene(predictor, opened, tmp_path / "labels.tif").sum() == SIZE[0] * SIZE[1]


def test_numbers_of_a_palette_are_its_colours(predictor: Predictor, tmp_path: Path) -> None:
    table = {number: (number * 37 % 256, 255 - number, number // 2, 255) for number in range(256)}
    path = write(tmp_path / "scene.tif", values(1), photometric="palette", **GROUND)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
    colours = np.array([table[number][:3] for number in range(256)], np.uint8)[values(1)[..., 0]]
    with open_scene(path) as scene:
        assert (scene.read(0, 0, *SIZE) == colours).all()
        assert scene.preview(50).shape == (34, 50, 3)
        label_scene(predictor, scene, tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as file:
        assert (file.read(1) == predictor.label(colours).labels.numpy()).all()


def test_a_model_of_bands_labels_scenes_of_them(deeplab, tmp_path: Path) -> None:
    """No data is out of the range that the model takes, and says nothing to the windows that see it."""
    torch.manual_seed(3)
    pixels = {
        "bands": ["vv", "vh"],
        "values": "float32",
        "range": [-50, 10],
        "mean": [-12.0, -18.0],
        "std": [4.0, 4.0],
    }
    backbone = {"name": "mobilenet_v2", "width": 0.25, "in_channels": 2}
    config = {"backbone": backbone, "context": {"channels": 8}, "num_classes": 3, "pixels": pixels}
    DeepLab(DeepLabConfig.model_validate(config)).save_pretrained(tmp_path / "model")
    stored = values(2).astype(np.float32) / -20
    stored[:60] = -9999
    stored[70:75, 90:99] = -9999
    path = write(tmp_path / "radar.tif", stored, nodata=-9999, **GROUND)
    words = ("-m", tmp_path / "model", "-o", tmp_path / "out", "--window", 64, 64)
    code, _, err = deeplab("predict", path, *words)
    assert code == 0, err
    found = labelled(tmp_path / "out" / "radar_labels.tif")
    assert ((found == 255) == (stored[..., 0] == -9999)).all()
    with Image.open(tmp_path / "out" / "radar_overlay.png") as overlay:
        assert overlay.width == SIZE[1]
    stored[100, 100, 1] = 700
    write(path, stored, nodata=-9999, **GROUND)
    code, _, err = deeplab("predict", path, *words)
    assert code == 1 and "holds" in err and "allowed: -50 to 10" in err


def test_bands_are_chosen_and_transparency_is_a_mask(deeplab, squares_model, tmp_path: Path) -> None:
    five, rgb = values(5), values(5)[..., [2, 0, 4]]
    words = ("-m", squares_model, "-o", tmp_path / "out", "--window", 64, 64)
    many = write(tmp_path / "many.tif", five, **GROUND)
    assert deeplab("predict", many, *words, "--bands", 3, 1, 5)[0] == 0
    alpha = np.full((*SIZE, 1), 255, np.uint8)
    alpha[:, 100:] = 0
    clear = write(
        tmp_path / "clear.tif", np.concatenate([rgb, alpha], 2), photometric="rgb", alpha="yes", **GROUND
    )
    assert deeplab("predict", clear, *words)[0] == 0
    found, masked = (labelled(tmp_path / "out" / f"{name}_labels.tif") for name in ("many", "clear"))
    assert (masked[:, 100:] == 255).all()
    assert (found[:, :30] == masked[:, :30]).all()


def banded(folder: Path, kind: str) -> DeepLab:
    torch.manual_seed(6)
    pixels = PixelConfig(**pixels_of(kind))
    config = DeepLabConfig(
        backbone=backbone_config("mobilenet_v2", width=0.25, in_channels=len(pixels.names)),
        context=ASPPConfig(channels=8),
        num_classes=2,
        pixels=pixels,
    )
    model = DeepLab(config, LabelSpec.named(NAMES)).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("kind", "nodata"), [("infrared", 65535), ("float", float("nan"))])
def test_models_of_bands_read_them_as_stored(deeplab, tmp_path: Path, kind: str, nodata: float) -> None:
    model = banded(tmp_path / "model", kind)
    stored, _ = banded_scene(kind, 1, side=120)
    empty = stored.copy()
    empty[:30] = nodata
    profile = {"height": 120, "width": 120, **GROUND}
    words = ("-m", tmp_path / "model", "-o", tmp_path / "out", "--window", 64, 64, "--device", "cpu")
    for name, values_of in (("full", stored), ("empty", empty)):
        path = write(tmp_path / f"{name}.tif", values_of, nodata=nodata, **profile)
        code, _, err = deeplab("predict", path, *words)
        assert code == 0, err
    found, masked = (labelled(tmp_path / "out" / f"{name}_labels.tif") for name in ("full", "empty"))
    predictor = Predictor.of(model, Labelling(window=Window(64, 64), device="cpu"))
    assert (found == predictor.labels_of(stored).numpy()).all()
    assert (masked[:30] == 255).all() and (masked[30:] < 2).all()
    assert (tmp_path / "out" / "full_overlay.png").exists()
    # one that it was not made for
    other = write(tmp_path / "other.tif", stored[..., :1], **profile)
    code, _, err = deeplab("predict", other, *words)
    assert code == 1 and "(band 1; " in err and "--bands names those to read" in err


def test_nothing_is_fetched_for_a_scene(scene: Path) -> None:
    """GDAL follows what lies beside a raster, and what the raster says of itself, to any address."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            """Quietly."""

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"/vsicurl/http://127.0.0.1:{server.server_port}/x.tif"
        (scene.parent / "scene.tif.aux.xml").write_text(
            f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{address}</MDI></Metadata></PAMDataset>'
        )
        with open_scene(scene) as opened:
            opened.preview(8)
        beside = scene.parent / "scene.tif.OVR"
        beside.write_text(
            '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
            f"<SourceFilename>{address}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
        )
        with pytest.raises(UserError, match=rf"{beside}: is no TIFF, .*read without it"), open_scene(scene):
            pass
        server.shutdown()
    assert asked == []


def test_a_damaged_scene_is_skipped_by_name(deeplab, squares_model, scene: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tif"
    cut.write_bytes(scene.read_bytes()[: scene.stat().st_size // 2])
    code, _, err = deeplab("predict", cut, scene, "-m", squares_model, "-o", tmp_path / "out")
    assert code == 1 and "cut.tif: cannot be read as a raster" in err and "get it again" in err
    assert (tmp_path / "out" / "scene_labels.tif").exists() and not (
        tmp_path / "out" / "cut_labels.tif"
    ).exists()


def test_slides_are_read_through_openslide(deeplab, squares_model, tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="slides are read by the extra slides")
    tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64, "photometric": "rgb"}
    path = write(tmp_path / "slide.tif", values(), **tiled)
    slide = path.rename(tmp_path / "slide.svs")
    assert deeplab("predict", slide, "-m", squares_model, "-o", tmp_path / "out", "--window", 48, 64)[0] == 0
    predictor = Predictor.of(load(squares_model), Labelling(window=Window(48, 64), device="cpu"))
    assert (labelled(tmp_path / "out" / "slide_labels.tif") == predictor.labels_of(values()).numpy()).all()
    code, _, err = deeplab("predict", slide, "-m", squares_model, "-o", tmp_path / "out", "--level", 1)
    assert code == 1 and "has no level 1; allowed: 0: 220 x 150" in err
    slide.write_bytes(slide.read_bytes()[:100])
    code, _, err = deeplab("predict", slide, "-m", squares_model, "-o", tmp_path / "out")
    assert code == 1 and "slide.svs: cannot be read as a slide" in err and "fix: it is damaged" in err

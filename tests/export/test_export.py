"""Exported models: proved from their files, the same for everybody, and models like any other."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image
from support.crf_runs import CLASSES
from support.servers import png, serving
from support.torch_comparison import randomise

from deeplab.config import ASPPConfig, DeepLabConfig, backbone_config
from deeplab.config.labels import LabelSpec
from deeplab.errors import UserError
from deeplab.export import run as export_run
from deeplab.export.gate import GateError, compare, drawn_photo, fitted, gate_photos, verdict
from deeplab.export.run import TARGETS, export_model
from deeplab.export.target import Job, converting
from deeplab.model.network import DeepLab
from deeplab.prediction.artefacts import (
    Artefact,
    apart,
    artefact_path,
    open_artefact,
    open_predictor,
    predictor_of,
)
from deeplab.prediction.artefacts.apart import Apart
from deeplab.prediction.artefacts.description import Description, PhotoInput
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.segmenter import Segmenter
from deeplab.serve.models import Models
from deeplab.system.writing import whole_folder

torch.set_num_threads(1)

# odd, even, wide, tall
SIZES = ((65, 97), (64, 80), (40, 161), (131, 36))
# of targets that have to be told
SIZING = {
    "litert": {"sizes": [(65, 97)]},
    "executorch": {"largest": (140, 170)},
    "coreml": {"sizes": [(65, 97)]},
}
Export = Callable[..., Path]


def small_model() -> DeepLab:
    config = DeepLabConfig(
        backbone=backbone_config("vgg16"),
        context=ASPPConfig(rates=(2, 4), channels=16, separable=True),
        num_classes=4,
    )
    model = randomise(DeepLab(config, LabelSpec.named(["background", "cat", "a dog", "ünd"])))
    with torch.no_grad():
        logits = model.low_resolution_logits(torch.from_numpy(picture((65, 97))).permute(2, 0, 1)[None])
        # all classes are found
        model.classifiers["semantic"].convs[0].bias -= logits["semantic"].mean((0, 2, 3))
    return model


@pytest.fixture(autouse=True, scope="module")
def few_layers() -> Iterator[None]:
    """A VGG of five convolutions: conversion takes a second, not ten."""
    with pytest.MonkeyPatch.context() as patch:
        stages = ((16, 1), (16, 1), (32, 1), (64, 1), (64, 1))
        patch.setattr("deeplab.backbones.vgg.STAGES", stages)
        yield


def needs(to: str) -> None:
    for module in TARGETS[to].modules:
        pytest.importorskip(module)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, few_layers: None) -> Export:
    """Folder of the small model at a target with an output, made once."""
    made: dict[tuple[str, str], Path] = {}

    def export(to: str, output: str = "labels") -> Path:
        needs(to)
        if (to, output) not in made:
            folder = tmp_path_factory.mktemp("exports") / f"{to}-{output}"
            export_model(small_model(), to, folder, name="small", output=output, **SIZING.get(to, {}))
            made[to, output] = folder
        return made[to, output]

    return export


def picture(size: tuple[int, int], seed: int = 7) -> np.ndarray:
    return drawn_photo(size, 3, seed=seed)


def test_another_device_is_refused_wherever_the_file_is_opened(exported: Export) -> None:
    """A cluster's driver opens models where it is; evaluation on a GPU names the one that is this process's."""
    folder = exported("torch-export")
    with pytest.raises(
        UserError, match=r"--device cuda goes with a model of this .* fix: leave --device cuda away"
    ):
        open_predictor(folder, Labelling(device="cuda"), device="cpu")
    assert open_predictor(folder, device="cuda:0").device == torch.device("cpu")


@pytest.mark.parametrize(
    ("to", "output"),
    [("onnx", "labels"), ("openvino", "small-logits"), ("torch-export", "labels"), ("onnx", "small-logits")],
)
def test_a_segmenter_of_the_folder_labels_as_one_of_the_model(exported: Export, to: str, output: str) -> None:
    folder = exported(to, output)
    ours, theirs = Segmenter(small_model()), Segmenter(folder)
    assert theirs.predictor.engine == to
    smallest = (
        theirs.predictor.network.config and open_artefact(artefact_path(folder)).description.input.smallest
    )
    for size in (*SIZES, *([(1, 1)] if smallest == (1, 1) else [])):
        found, expected = theirs(picture(size)), ours(picture(size))
        assert found.labels.dtype == np.uint8 and found.labels.shape == size
        assert (found.labels == expected.labels).mean() >= 0.9998
        assert found.classes == ("background", "cat", "a dog", "ünd")
        assert expected.labels.std() > 0 or size == (1, 1)
    assert theirs(picture(SIZES[0])).overlay().size[0] >= 97


@pytest.mark.parametrize("output", ["logits", "probabilities", "small-logits"])
def test_probabilities_come_of_all_that_holds_them(exported: Export, output: str) -> None:
    theirs = Segmenter(exported("onnx", output))
    for size in SIZES:
        found = theirs(picture(size), probabilities=True)
        expected = Segmenter(small_model())(picture(size), probabilities=True)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-4)


def test_small_logits_serve_scales_mirroring_windows(exported: Export) -> None:
    folder, photo = exported("onnx", "small-logits"), picture((65, 97))
    from deeplab.prediction.sliding import Window

    for options in ({"scales": (0.75, 1.0), "flip": True}, {"window": Window(49, 49)}):
        expected = Segmenter(small_model(), **options)(photo).labels
        # photos resized for a pass are rounded for other runtimes
        assert (Segmenter(folder, **options)(photo).labels == expected).mean() > 0.99


def test_what_an_exported_model_cannot_do_is_said(exported: Export) -> None:
    folder = exported("onnx")
    with pytest.raises(
        UserError, match=r"gives labels, no probabilities.*--output probabilities, logits or small"
    ):
        Segmenter(folder)(picture((9, 9)), probabilities=True)
    with pytest.raises(
        UserError, match=r"gives labels, and a scene .* fix: export with --output small-logits"
    ):
        Segmenter(folder).predictor.sliding((9, 9))
    with pytest.raises(UserError, match=r"gives labels, and several scales.*--output small-logits"):
        Segmenter(folder, flip=True)
    with pytest.raises(UserError, match=r"logits at the photo's size.*--output small-logits"):
        Segmenter(exported("onnx", "logits"), scales=(0.5, 1.0))
    for option, given in {"engine": "openvino", "output_stride": 8, "device": "cuda"}.items():
        with pytest.raises(UserError, match="fix: leave --"):
            Segmenter(folder, **{option: given})
    bound = exported("torch-export")
    least = open_artefact(bound / "small.pt2").description.input.smallest
    assert least > (1, 1)
    with pytest.raises(UserError, match=rf"the photo is 1 x 40, .* takes any size from {least[0]} x"):
        Segmenter(bound)(picture((1, 40)))


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_pooling_over_windows_is_exported(to: str, tmp_path: Path) -> None:
    needs(to)
    config = small_model().config
    context = config.context.model_copy(
        update={"image_pooling_crop": (65, 65), "image_pooling_stride": (4, 5)}
    )
    model = randomise(DeepLab(config.model_copy(update={"context": context})))
    made = export_model(model, to, tmp_path / "out", name="small", output="small-logits")
    assert made.description.parity is not None and made.description.parity["passed"]


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_a_server_offers_it_as_any_model(exported: Export, to: str) -> None:
    pytest.importorskip("uvicorn")
    folder, photo = exported(to), picture((65, 97))
    with serving(f"mine={folder}", f"same={artefact_path(folder)}") as server:
        for name in ("mine", "same"):
            reply = server.client.segment(png(photo), f"output=labels&model={name}")
            assert reply.status == 200, reply.body
            with Image.open(io.BytesIO(reply.body)) as labels:
                np.testing.assert_array_equal(np.asarray(labels), Segmenter(folder)(photo).labels)
        (mine, same) = server.client.get("/v1/models").json["models"]
        assert (mine["engine"], mine["parameters"], mine["version"]) == (to, None, same["version"])
        assert [each["name"] for each in mine["classes"]] == list(small_model().labels.classes)
        refused = server.client.segment(png(photo), "output=labels&flip=true")
        assert refused.status == 400 and b"--output small-logits" in refused.body


def test_a_server_counts_the_pixels_of_a_files_image_pyramid(tmp_path: Path) -> None:
    small = small_model()
    model = randomise(DeepLab(small.config.model_copy(update={"image_pyramid": (1.25,)}), small.labels))
    export_model(model, "torch-export", tmp_path / "out", name="small", output="small-logits")
    models = Models([str(tmp_path / "out")], Labelling(device="cpu"))
    assert models.weight(models.named(None), models.how) == 1.25**2


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_the_file_says_what_it_is(exported: Export, to: str) -> None:
    folder, model = exported(to), small_model()
    beside = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    path = artefact_path(folder)
    assert path == folder / beside.pop("file") == artefact_path(path)
    digests = {each.name: sha256(each.read_bytes()).hexdigest() for each in folder.glob("small.*")}
    assert beside.pop("sha256") == digests
    about = open_artefact(path).description
    assert about == Description.model_validate(beside)
    assert about.labels == model.labels and about.architecture.num_classes == 4
    assert about.output.names == ("labels",) and about.output.dtype == "uint8"
    assert about.parity["passed"] and len(about.parity["photos"]) >= 3
    assert about.versions["torch"] == torch.__version__
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(model.labels.classes)
    assert sorted(each.name for each in folder.iterdir() if not each.name.startswith("small")) == [
        "example.py",
        "export.json",
        "labels.txt",
    ]


@pytest.mark.parametrize("to", list(TARGETS))
def test_exports_are_equal_and_name_no_file_of_the_machine(exported: Export, to: str, tmp_path: Path) -> None:
    first, second = exported(to), tmp_path / "again"
    export_model(small_model(), to, second, name="small", **SIZING.get(to, {}))
    # a Core ML package is a folder
    for path in sorted(each for each in first.rglob("*") if each.is_file()):
        content = path.read_bytes()
        assert content == (second / path.relative_to(first)).read_bytes(), path.name
        for place in (str(tmp_path.parent), str(first), sys.prefix, str(Path(__file__).parents[2])):
            assert place.encode() not in content, path.name


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export", "litert", "executorch"])
def test_the_example_labels_a_photo_without_this_package(exported: Export, to: str, tmp_path: Path) -> None:
    folder = exported(to)
    photo = picture((65, 97))
    Image.fromarray(photo).save(tmp_path / "photo.png")
    script = folder / "example.py"
    assert "deeplab" not in script.read_text()
    told = subprocess.run(
        [sys.executable, "-I", str(script), "photo.png"], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    labels = np.asarray(Image.open(tmp_path / "labels.png"))
    np.testing.assert_array_equal(labels, Segmenter(folder)(photo).labels)
    assert told.stdout.strip() == ", ".join(
        small_model().labels.classes[index] for index in np.unique(labels)
    )


@pytest.mark.parametrize(
    ("to", "change"),
    [
        ("onnx", {"image_pyramid": (1.0, 0.75, 0.5)}),
        ("openvino", {"image_pyramid": (1.0, 0.75, 0.5)}),
        # a searched network that comes back from stride 32
        ("onnx", {"backbone": backbone_config("hnasnet", filters=4), "output_stride": 8}),
    ],
)
def test_sizes_that_arithmetic_gives_follow_the_photo(to: str, change: dict, tmp_path: Path) -> None:
    """They are not those of the example that the program was made of."""
    needs(to)
    model = randomise(DeepLab(small_model().config.model_copy(update=change)))
    made = export_model(model, to, tmp_path / "out", name="model", output="logits")
    photos = [picture(size) for size in ((130, 257), (301, 451), (513, 200))]
    compared, _ = compare(model, open_artefact(made.path), photos)
    assert verdict("float32", compared)["passed"], compared


def test_extra_outputs_have_names(tmp_path: Path) -> None:
    needs("onnx")
    config = small_model().config.model_copy(update={"extra_outputs": {"depth": 3}})
    export_model(randomise(DeepLab(config)), "onnx", tmp_path / "out", name="two", output="logits")
    artefact = open_artefact(tmp_path / "out" / "two.onnx")
    assert artefact.description.output.names == ("logits", "depth_logits")
    assert [each.shape for each in artefact.run(picture((33, 40))[None])] == [(1, 4, 33, 40), (1, 3, 33, 40)]


def test_many_classes_are_int32(tmp_path: Path) -> None:
    needs("onnx")
    config = small_model().config.model_copy(update={"num_classes": 300})
    model = randomise(DeepLab(config))
    export_model(model, "onnx", tmp_path / "out", name="many")
    assert open_artefact(tmp_path / "out" / "many.onnx").description.output.dtype == "int32"
    found = Segmenter(tmp_path / "out")(picture((40, 33))).labels
    assert found.dtype == np.uint16 and found.max() > 255
    assert (found == Segmenter(model)(picture((40, 33))).labels).mean() > 0.999


@pytest.mark.parametrize("opset", [18, 23])
def test_the_opset_is_the_one_asked_for(tmp_path: Path, opset: int) -> None:
    needs("onnx")
    import onnx

    export_model(small_model(), "onnx", tmp_path / "out", name="small", opset=opset)
    model = onnx.load(tmp_path / "out" / "small.onnx")
    assert [each.version for each in model.opset_import if not each.domain] == [opset]
    (photo,) = model.graph.input
    assert [side.dim_param or side.dim_value for side in photo.type.tensor_type.shape.dim] == [
        "batch",
        "height",
        "width",
        3,
    ]
    readers = [node.op_type for node in model.graph.node if "photo" in node.input]
    assert readers == ["Cast"], "TensorRT takes bytes into a cast only"


# --- the gate


def spoiled(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[DeepLab], None]) -> None:
    """Exports to ONNX whose file is of another model than the one given."""
    honest = TARGETS["onnx"]

    def write(job: Job, path: Path) -> Description:
        spoil(job.program.model)
        return honest.write(job, path)

    monkeypatch.setitem(TARGETS, "onnx", replace(honest, write=write))


def test_a_wrong_file_leaves_nothing_and_ends_in_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deeplab: Callable[..., tuple[int, str, str]]
) -> None:
    needs("onnx")

    def forget_to_normalise(model: DeepLab) -> None:
        model.pixel_mean.zero_()

    spoiled(monkeypatch, forget_to_normalise)
    small_model().save_pretrained(tmp_path / "model")
    place = tmp_path / "made"
    place.mkdir()
    code, out, err = deeplab("export", tmp_path / "model", "--to", "onnx", "-o", place / "out")
    assert code == 1 and "FAILED" in out and "nothing was written" in err
    assert list(place.iterdir()) == []


def test_numbers_that_are_none_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs("onnx")
    spoiled(monkeypatch, lambda model: model.pixel_std.zero_())
    with pytest.raises(GateError) as failed:
        export_model(small_model(), "onnx", tmp_path / "out", name="small", output="logits")
    assert failed.value.parity["error"] == np.inf and not (tmp_path / "out").exists()


def test_a_small_shift_fails_by_its_margin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A thousandth of a logit: labels of few pixels change, and those by more than rounding can."""
    needs("onnx")

    def shift(model: DeepLab) -> None:
        model.classifiers["semantic"].convs[0].bias.data[0] += 0.05

    spoiled(monkeypatch, shift)
    with pytest.raises(GateError) as failed:
        export_model(small_model(), "onnx", tmp_path / "out", name="small")
    parity = failed.value.parity
    assert parity["margin"] > 2 * parity["limit"] and parity["agreement"] > 0.9


def test_photos_of_the_gate_are_of_sizes_that_tracing_did_not_see(exported: Export) -> None:
    about = open_artefact(exported("onnx") / "small.onnx").description
    sizes = {photo.shape[:2] for photo in gate_photos(about, ())}
    assert len(sizes) >= 3 and (97, 129) not in sizes and (1, 1) in sizes
    assert len({side % 2 for size in sizes for side in size}) == 2


def test_the_same_photos_are_drawn_everywhere() -> None:
    np.testing.assert_array_equal(picture((20, 30)), picture((20, 30)))
    assert picture((20, 30)).std() > 20 and picture((20, 30), seed=8).tobytes() != picture((20, 30)).tobytes()


def test_int8_is_judged_by_each_photo_and_by_all(exported: Export) -> None:
    from deeplab.export.gate import Compared

    def judged(*agreements: float) -> bool:
        compared = [Compared((9, 9), each, None, 0.0, 1e-6) for each in agreements]
        return verdict("int8", compared)["passed"]

    assert judged(0.96, 1.0) and not judged(0.94, 1.0, 1.0, 1.0) and not judged(0.97, 0.98)


# --- int8


@pytest.mark.parametrize("to", ["onnx", "openvino", "litert", "executorch"])
def test_int8_is_compared_on_photos_that_it_was_not_calibrated_on(to: str, tmp_path: Path) -> None:
    needs(to)
    if to == "openvino":
        pytest.importorskip("nncf")
    photos = [picture((64 + index, 81), seed=index) for index in range(6)]
    sizing = {"litert": {"sizes": [(64, 81)]}, "executorch": {"largest": (96, 97)}}.get(to, {})
    made = export_model(
        small_model(),
        to,
        tmp_path / "out",
        name="small",
        precision="int8",
        calibration=photos,
        allow=True,
        **sizing,
    )
    plain = export_model(small_model(), to, tmp_path / "plain", name="small", **sizing)
    sizes = {tuple(each["size"]) for each in made.description.parity["photos"]}
    # of one size photos are resized
    assert sizes == ({(64, 81)} if to == "litert" else {(64, 81), (68, 81)})
    assert made.description.calibration is not None
    assert made.megabytes < 0.6 * plain.megabytes
    assert made.description.parity["agreement"] > 0.7
    again = Segmenter(tmp_path / "out")(photos[0]).labels
    assert (again == Segmenter(small_model())(photos[0]).labels).mean() > 0.7


# --- wrong uses


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"to": "tensorrt"},
            "no target 'tensorrt'; allowed: onnx, openvino.*; fix: --to onnx is what TensorRT",
        ),
        ({"to": "onnx", "precision": "float16"}, "no precision 'float16'; allowed: float32, int8"),
        ({"to": "onnx", "precision": "int8"}, "and 0 are given; fix: --calibration FOLDER"),
        ({"to": "onnx", "sizes": [(65, 65)]}, "takes photos of any size; fix: leave --size away"),
        ({"to": "onnx", "largest": (65, 65)}, "has no largest photo; fix: leave --max-size away"),
        ({"to": "onnx", "opset": 17}, "opset 17; allowed: 18 to 23"),
        (
            {"to": "onnx", "layout": "hf"},
            "of a model's logits alone, and labels of semantic .* --output logits",
        ),
    ],
)
def test_wrong_uses_are_answered_in_a_sentence(tmp_path: Path, options: dict, sentence: str) -> None:
    needs("onnx")
    with pytest.raises(UserError, match=sentence):
        export_model(small_model(), options.pop("to"), tmp_path / "out", name="small", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    needs("onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already; fix: name another folder"):
        export_model(small_model(), "onnx", tmp_path / "out", name="small")


def test_a_full_disk_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs("onnx")

    def full(job: Job, path: Path) -> Description:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], write=full))
    with pytest.raises(UserError, match=r"out: cannot be written \(the disk is full\)"):
        export_model(small_model(), "onnx", tmp_path / "out", name="small")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_that_a_library_calls_otherwise_is_the_same_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    used = shutil.disk_usage(tmp_path)
    for free, sentence in (
        (4096, r"out: cannot be written \(the disk is full\)"),
        (used.free, r"cannot be converted to Core ML \(RuntimeError: stream error\)"),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: used._replace(free=free))
        with (
            pytest.raises(UserError, match=sentence),
            whole_folder(tmp_path / "out") as beside,
            converting("Core ML", beside / "small.mlpackage"),
        ):
            raise RuntimeError("stream error")
    assert list(tmp_path.iterdir()) == []


def test_a_converter_without_words_is_quoted_by_its_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"AssertionError: raise AssertionError \(test_export.py, line \d+\)"),
        converting("ExecuTorch", tmp_path / "small.pte"),
    ):
        raise AssertionError


@pytest.mark.parametrize("to", list(TARGETS))
def test_an_absent_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, to: str) -> None:
    target = TARGETS[to]
    for module in target.modules:
        monkeypatch.setitem(sys.modules, module, None)
    if target.modules:
        with pytest.raises(UserError, match=rf"deeplab-segmentation\[{target.extra}\]"):
            export_run.checked(
                to,
                precision="float32",
                sizes=[(65, 65)] if target.sizing == "named" else [],
                largest=(65, 65) if target.sizing == "up to" else None,
                calibration=[],
            )


@pytest.mark.parametrize("name", ["other.onnx", "other.xml", "other.pt2"])
def test_files_that_are_no_exports_are_refused_by_name(tmp_path: Path, name: str) -> None:
    for module in {"onnx": ["onnxruntime"], "xml": ["openvino"], "pt2": []}[name.split(".")[-1]]:
        pytest.importorskip(module)
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=rf"{name}: .* cannot read it"):
        Segmenter(tmp_path / name)


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_damage_is_seen_before_a_runtime_sees_the_file(exported: Export, to: str, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    for name in sorted(each.name for each in exported(to).glob("small.*")):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported(to), folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(
            UserError, match=rf"{name}: is not the file that export\.json beside it was written"
        ):
            Segmenter(folder)
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"{name}: (cannot be read|no such file)"):
            Segmenter(folder)
    named = f'{{"file": "{artefact_path(exported(to)).name}", "sha256": '
    for said in ("{}", f"{named}3}}", f'{named}{{"": "0"}}}}', "{"):
        shutil.copytree(exported(to), folder, dirs_exist_ok=True)
        (folder / "export.json").write_text(said)
        with pytest.raises(UserError, match=r"export\.json: "):
            open_artefact(folder / artefact_path(exported(to)).name)


def test_weights_that_are_a_pipe_are_not_waited_for(exported: Export, tmp_path: Path) -> None:
    shutil.copyfile(exported("openvino") / "small.xml", tmp_path / "small.xml")
    os.mkfifo(tmp_path / "small.bin")
    with pytest.raises(UserError, match=r"small\.bin: this is a pipe"):
        open_artefact(tmp_path / "small.xml")


def rewritten(path: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """A copy of a .pt2 with changed parts."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as out:
        for name in archive.namelist():
            changed = change(name, archive.read(name))
            if changed is not None:
                out.writestr(*changed)
    return target


def test_what_pytorch_would_run_while_it_opens_a_file_is_refused(exported: Export, tmp_path: Path) -> None:
    """Nothing of these is in what we write, and each ends in Python being run, or a library."""
    made = exported("torch-export") / "small.pt2"
    proof = tmp_path / "proof"
    call = f"__import__('os').mkdir('{proof}')"

    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.mkdir, (str(proof),)

    held, before = io.BytesIO(), io.BytesIO()
    torch.save([Trap()], held)
    torch.save([Trap()], before, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(made) as archive:
        (example,) = (archive.read(name) for name in archive.namelist() if name.endswith("inputs/model.pt"))

    def text(ending: str, old: str, new: str) -> Callable[[str, bytes], tuple[str, bytes]]:
        def change(name: str, data: bytes) -> tuple[str, bytes]:
            assert not name.endswith(ending) or old.encode() in data, old
            return name, data.replace(old.encode(), new.encode(), 1) if name.endswith(ending) else data

        return change

    def whole(ending: str, content: bytes) -> Callable[[str, bytes], tuple[str, bytes]]:
        return lambda name, data: (name, content if name.endswith(ending) else data)

    def renamed(name: str, data: bytes) -> tuple[str, bytes]:
        return name.replace("archive_version", "data/aotinductor/model/model.so"), data

    changes = {
        "a pickle": text("weights_config.json", '"use_pickle": false', '"use_pickle": true'),
        "an object": text("constants_config.json", '"tensor_0"', '"opaque_obj_0"'),
        "a call of": text("model.json", "torch.ops.aten.conv2d.default", "torch.os.system"),
        "the size": text("model.json", "Integer(-1)", call),
        "the name": text("model.json", '"photo"', json.dumps(f'photo")+{call}+("')),
        "the part": renamed,
        "9437184 bytes of JSON": whole("model.json", b" " * (9 << 20)),
    }
    for said, change in changes.items():
        with pytest.raises(UserError, match=rf"trap\.pt2: holds .*{said}") as caught:
            open_artefact(rewritten(made, tmp_path / "trap.pt2", change))
        assert caught.value.file is not None and not proof.exists(), said
    # the photo that it was traced with: pickles of today, of before, and of before with one of today behind
    for content in (held.getvalue(), before.getvalue(), before.getvalue() + example):
        artefact = open_artefact(rewritten(made, tmp_path / "trap.pt2", whole("inputs/model.pt", content)))
        assert artefact.run(picture((65, 97))[None]) and not proof.exists()
    same = rewritten(made, tmp_path / "same.pt2", lambda name, data: (name, data))
    assert open_artefact(same)
    # two archives in one file: the first is found by who trusts what the end says of its place, as PyTorch does
    trap = whole("inputs/model.pt", before.getvalue().ljust(len(example), b"\0"))
    first = rewritten(made, tmp_path / "first.pt2", trap).read_bytes()
    assert len(first) == same.stat().st_size
    (tmp_path / "two.pt2").write_bytes(first + same.read_bytes())
    with suppress(UserError):
        open_artefact(tmp_path / "two.pt2")
    assert not proof.exists()


def test_sizes_that_are_reckoned_for_ever_are_refused(exported: Export, tmp_path: Path) -> None:
    made = exported("torch-export") / "small.pt2"
    for bomb in (
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "Integer(9)**Integer(9)",
        f"Integer({'9' * 50})",
        "Pow(" * 9 + "Integer(2)" + ", Integer(4))" * 9,
        "Add(" + "Integer(1), " * 9000 + "Integer(1))",
        "Add(" * 3000 + ")" * 3000,
    ):

        def change(name: str, data: bytes, bomb: str = bomb) -> tuple[str, bytes]:
            return name, data.replace(b"Integer(-1)", bomb.encode(), 1) if name.endswith(
                "model.json"
            ) else data

        with pytest.raises(UserError, match=r"trap\.pt2: (holds the size|PyTorch cannot read it)"):
            open_artefact(rewritten(made, tmp_path / "trap.pt2", change))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("labels", "classes"), ["a", "b"], "2 classes need as many colours; found 4"),
        (("architecture", "num_classes"), 300, "labels.classes: 4 of them, and the architecture has 300"),
        (("output", "names"), [], "output.names: 0 of them, and the architecture has 1"),
        (("input", "channels"), 1, "input.channels: 1 of them, and the architecture has 3"),
        (("input", "sizes"), [[-1, -1]], "greater than 0"),
        (("input", "sizes"), [[1, 1]] * 65, "at most 64"),
        (("output_stride",), 0, "greater than 0"),
        (("format",), "f" * 5000, r"has format 'f+\.\.\."),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    exported: Export, tmp_path: Path, keys: tuple[str, ...], value: object, said: str
) -> None:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if not name.endswith("extra/deeplab"):
            return name, data
        about = json.loads(data)
        within = about
        for key in keys[:-1]:
            within = within[key]
        within[keys[-1]] = value
        return name, json.dumps(about).encode()

    with pytest.raises(UserError, match=rf"odd\.pt2: .*{said}") as caught:
        open_artefact(rewritten(exported("torch-export") / "small.pt2", tmp_path / "odd.pt2", change))
    assert len(str(caught.value)) < 1000


class Greedy(torch.nn.Module):
    def forward(self, photo: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.zeros(1 << 46, dtype=torch.uint8).sum().to(torch.uint8) + photo[..., 0],)


def test_a_program_that_takes_all_memory_ends_in_a_sentence_whatever_lies_beside_it(
    exported: Export, tmp_path: Path
) -> None:
    about = open_artefact(exported("torch-export") / "small.pt2").description.to_json()
    program = torch.export.export(Greedy(), (torch.zeros(1, 17, 18, 3, dtype=torch.uint8),))
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    path = tmp_path / "greedy.pt2"
    torch.export.save(program, path, extra_files={"deeplab": about})
    report = {"file": path.name, "sha256": {path.name: sha256(path.read_bytes()).hexdigest()}}
    (tmp_path / "export.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=r"^[^:]*greedy\.pt2: its runtime fails .*allocate memory.*; fix: "):
        Segmenter(tmp_path)(np.zeros((17, 18, 3), np.uint8))


class RuntimesOwn(Exception):
    pass


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            np.full((1, 17, 18), np.nan, np.float32),
            r"gives semantic of float32 \(1, 17, 18\).*; allowed: uint8",
        ),
        (np.ones((1, 17, 18), bool), "gives semantic of bool"),
        (np.zeros((1, 18, 17), np.uint8), r"gives semantic of uint8 \(1, 18, 17\)"),
        (np.full((1, 17, 18), 4, np.uint8), "this exported model gives labels 4 to 4; allowed: 0 to 3"),
        (RuntimesOwn("no such output"), r"its runtime fails \(no such output\)"),
    ],
)
def test_what_a_runtime_gives_is_looked_at(exported: Export, result: object, said: str) -> None:
    path = artefact_path(exported("torch-export"))
    assert path is not None

    def run(photos: np.ndarray) -> list[np.ndarray]:
        if isinstance(result, Exception):
            raise result
        return [result]

    predictor = predictor_of(Artefact(open_artefact(path).description, run), path, Labelling(device="cpu"))
    with pytest.raises(UserError, match=rf"small\.pt2: {said}"):
        predictor.label(np.zeros((17, 18, 3), np.uint8))


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_no_report_brings_a_file_into_this_process(exported: Export, to: str, tmp_path: Path) -> None:
    """Whoever wrote the file may have written that, too."""
    folder = exported(to)
    for each in folder.glob("small.*"):
        shutil.copy(each, tmp_path)
    path = artefact_path(folder)
    assert path is not None
    for place in (path, tmp_path / path.name):
        running = open_artefact(place).run.__self__
        assert isinstance(running, Apart) and running._process.pid != os.getpid()


# of what LiteRT's has; a photo's first number says what becomes of it
INTERPRETER = """
import numpy, os, time

class Interpreter:
    def __init__(self, model_path, num_threads):
        exec(open(model_path).read())

    def allocate_tensors(self):
        print("a line of its own", flush=True)

    def get_input_details(self):
        return [{"index": 0}]

    get_output_details = get_input_details

    def set_tensor(self, index, value):
        self.value = value

    def invoke(self):
        {1: lambda: 1 / 0, 2: os.abort, 3: lambda: time.sleep(300)}.get(self.value.flat[0], int)()

    def get_tensor(self, index):
        odd = {
            4: lambda: self.value.astype(object),
            7: lambda: self.value[:0],
            8: lambda: numpy.zeros(64 << 20, "uint8"),
            9: lambda: numpy.broadcast_to(self.value[..., 0], (1 << 20, 1 << 20, 2, 4)),
        }
        return odd.get(self.value.flat[0], lambda: self.value[..., 0])()
"""


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "ai_edge_litert" / "interpreter.py"
    place.parent.mkdir()
    place.write_text(INTERPRETER)
    (place.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "m.tflite").write_text("pass")
    return place


def test_a_runtime_that_ends_its_process_ends_no_other(
    interpreter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = np.arange(10, 34, dtype=np.uint8).reshape(1, 2, 4, 3)

    def opened() -> Apart:
        return Apart("LiteRT", tmp_path / "m.tflite", extra="litert", threads=1)

    running = opened()
    assert running.run(np.full_like(photo, 7))[0].shape == (0, 2, 4, 3)
    for wrong, said in (
        (4, r"gives no arrays \(object is no number"),
        (8, r"gives no arrays \(uint8 \[67108864\] is too large"),
        # before any of it is sent, or this process waits for it
        (9, "^MemoryError"),
        (1, "ZeroDivisionError"),
        (2, "LiteRT ended its process, with -6"),
    ):
        np.testing.assert_array_equal(running.run(photo)[0], photo[..., 0])
        with pytest.raises(RuntimeError, match=said):
            running.run(np.full_like(photo, wrong))
    np.testing.assert_array_equal(running.run(photo)[0], photo[..., 0])
    monkeypatch.setattr("deeplab.prediction.artefacts.apart.CLOCK", 0.02)
    with pytest.raises(RuntimeError, match="LiteRT took too long"):
        running.run(np.full_like(photo, 3))


def test_what_ends_a_terminal_or_a_service_leaves_the_photo_that_is_being_labelled(
    interpreter: Path, tmp_path: Path
) -> None:
    running = Apart("LiteRT", tmp_path / "m.tflite", extra="litert", threads=1)
    process, photo = running._process, np.full((1, 2, 4, 3), 50, np.uint8)
    for each in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(each)
    np.testing.assert_array_equal(running.run(photo)[0], photo[..., 0])
    assert running._process is process


def test_a_file_that_is_gone_when_it_is_opened_anew_is_named_once(
    exported: Export, tmp_path: Path, interpreter: Path
) -> None:
    path = tmp_path / "m.tflite"
    running = Apart("LiteRT", path, extra="litert", threads=1)
    about = open_artefact(artefact_path(exported("torch-export"))).description
    predictor = predictor_of(Artefact(about, running.run), path, Labelling(device="cpu"))
    path.write_text("1 / 0")
    for said in (
        "its runtime fails .LiteRT ended its process, with -6",
        "LiteRT cannot read it",
        "LiteRT cannot read it",
    ):
        with pytest.raises(UserError, match=rf"^[^:]*m\.tflite: {said}[^;]*; fix: [^;]*$"):
            predictor.label(np.full((17, 18, 3), 2, np.uint8))
    path.write_text("pass")
    running.text = "of another model"
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"m\.tflite: became another file while it was open; fix: open it"
        ):
            predictor.label(np.full((17, 18, 3), 50, np.uint8))


def test_an_interrupted_photo_does_not_answer_for_the_next(
    interpreter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Apart("LiteRT", tmp_path / "m.tflite", extra="litert", threads=1)
    first, second = (np.full((1, 2, 4, 3), value, np.uint8) for value in (50, 60))
    receive = apart._receive

    def interrupted(file: IO[bytes], most: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(apart, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run(first)
    monkeypatch.setattr(apart, "_receive", receive)
    np.testing.assert_array_equal(running.run(second)[0], second[..., 0])


@pytest.mark.parametrize(
    ("what_opening_does", "said"),
    [
        ("os.abort()", "ended its process, with -6"),
        ("time.sleep(300)", "took too long and was ended"),
        ("os.kill(os.getpid(), 24)", "took too long and was ended"),
        ("bytearray(3 << 30)", r"cannot read it \(MemoryError"),
    ],
)
def test_a_file_has_little_time_and_memory_to_open(
    interpreter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what_opening_does: str, said: str
) -> None:
    (tmp_path / "m.tflite").write_text(what_opening_does)
    if "sleep" in what_opening_does:
        monkeypatch.setattr("deeplab.prediction.artefacts.apart.CLOCK", 0.1)
    with pytest.raises(UserError, match=rf"m\.tflite: LiteRT {said}.*; fix: "):
        Apart("LiteRT", tmp_path / "m.tflite", extra="litert", threads=1)


def test_whoever_computes_on_and_on_is_ended() -> None:
    limited = f"import runpy; runpy.run_path({apart.__file__!r})['_limit'](0, 0)\nwhile True: pass"
    ended = subprocess.run([sys.executable, "-c", limited], timeout=300).returncode
    assert ended == -signal.SIGXCPU


def test_a_photo_may_take_as_long_as_it_is_large() -> None:
    small, large = (np.zeros((1, side, side, 3), np.uint8) for side in (16, 2048))
    assert apart._seconds(small) < 11 and apart._seconds(large) > 3600


def test_a_runtime_that_opens_nothing_says_so(interpreter: Path, tmp_path: Path) -> None:
    interpreter.write_text("1 / 0")
    with pytest.raises(UserError, match=r"module 'ai_edge_litert.interpreter', .*segmentation\[litert\]"):
        Apart("LiteRT", tmp_path / "m.tflite", extra="litert", threads=1)


def test_predict_and_eval_take_the_folder(
    exported: Export, tmp_path: Path, deeplab: Callable[..., tuple[int, str, str]]
) -> None:
    Image.fromarray(picture((65, 97))).save(tmp_path / "photo.png")
    code, _, err = deeplab(
        "predict", tmp_path / "photo.png", "-m", exported("onnx"), "-o", tmp_path / "found"
    )
    assert code == 0, err
    labels = np.asarray(Image.open(tmp_path / "found" / "photo_labels.png"))
    np.testing.assert_array_equal(labels, Segmenter(small_model())(picture((65, 97))).labels)


def test_eval_of_an_export_is_that_of_the_model(
    squares: Path, squares_model: Path, tmp_path: Path, deeplab: Callable[..., tuple[int, str, str]]
) -> None:
    needs("onnx")
    data = ("--split", "train", "--classes", *CLASSES)
    words = ("export", squares_model, "--to", "onnx", "-o", tmp_path / "out", "--eval", squares)
    code, out, err = deeplab(*words, *data)
    assert code == 0, err
    before, after = (
        line.split("│")[2].strip() for line in out.splitlines() if "before" in line or "after" in line
    )
    assert before == after and float(before) > 0
    code, out, err = deeplab("eval", squares, "-m", tmp_path / "out", *data)
    assert code == 0 and after in out, err


def test_a_file_of_one_size_is_evaluated_at_it_before_and_after(
    squares: Path, squares_model: Path, tmp_path: Path, deeplab: Callable[..., tuple[int, str, str]]
) -> None:
    needs("litert")
    words = ("export", squares_model, "--to", "litert", "--size", 41, 49, "-o", tmp_path / "out")
    code, out, err = deeplab(*words, "--eval", squares, "--split", "train", "--classes", *CLASSES)
    # the table wraps its title
    assert code == 0 and "3 photos" in out, err
    before, after = (
        line.split("│")[2].strip() for line in out.splitlines() if "before" in line or "after" in line
    )
    assert before == after and float(before) > 0


def test_masks_go_with_photos_to_the_size_that_is_taken() -> None:
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    taken = PhotoInput(channels=3, sizes=((4, 6),))
    photo, labels = fitted(picture((2, 2)), mask, taken)
    assert photo.shape == (4, 6, 3)
    np.testing.assert_array_equal(labels, mask.repeat(2, 0).repeat(3, 1))
    anything = PhotoInput(channels=3)
    assert fitted(photo, labels, anything)[1] is labels


def test_triton_finds_the_file_by_its_inputs_and_outputs(tmp_path: Path) -> None:
    needs("onnx")
    export_model(small_model(), "onnx", tmp_path / "out", name="small", layout="triton")
    place = tmp_path / "out" / "model_repository" / "small"
    session = pytest.importorskip("onnxruntime").InferenceSession(place / "1" / "model.onnx")
    text = (place / "config.pbtxt").read_text()
    for each in (*session.get_inputs(), *session.get_outputs()):
        assert f'name: "{each.name}", data_type: TYPE_UINT8' in text and each.type == "tensor(uint8)"
    with pytest.raises(UserError, match="--layout triton goes with --to onnx, not openvino"):
        needs("openvino")
        export_model(small_model(), "openvino", tmp_path / "other", name="small", layout="triton")


def test_transformers_js_and_optimum_get_floats_and_logits(tmp_path: Path) -> None:
    needs("onnx")
    model = small_model()
    export_model(model, "onnx", tmp_path / "out", name="small", output="logits", layout="hf")
    place = tmp_path / "out" / "hf"
    session = pytest.importorskip("onnxruntime").InferenceSession(place / "onnx" / "model.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == (
        "pixel_values",
        "tensor(float)",
        ["batch", 3, "height", "width"],
    )
    assert given.name == "logits"
    steps = json.loads((place / "preprocessor_config.json").read_text())
    assert not any(value for key, value in steps.items() if key.startswith("do_"))
    assert list(json.loads((place / "config.json").read_text())["label2id"]) == list(model.labels.classes)
    for size in SIZES:
        pixels = picture(size).transpose(2, 0, 1)[None].astype(np.float32)
        (logits,) = session.run(None, {"pixel_values": pixels})
        assert (logits[0].argmax(0) == Segmenter(model)(picture(size)).labels).mean() >= 0.9998
    with pytest.raises(UserError, match="--layout hf goes with --to onnx, not openvino"):
        needs("openvino")
        export_model(model, "openvino", tmp_path / "other", name="small", output="logits", layout="hf")


def test_executorch_takes_any_size_up_to_the_one_it_was_planned_for(tmp_path: Path) -> None:
    needs("executorch")
    made = export_model(small_model(), "executorch", tmp_path / "out", name="small", largest=(140, 170))
    ours, theirs = Segmenter(small_model()), Segmenter(tmp_path / "out")
    # from small to large and back: nothing of one photo may stay for the next
    for size in ((40, 161), (131, 36), (140, 170), (33, 33), (64, 81)):
        assert (theirs(picture(size)).labels == ours(picture(size)).labels).mean() >= 0.9998
    with pytest.raises(UserError, match=r"the photo is 141 x 64, .* any size from 33 x 33 up to 140 x 170"):
        theirs(picture((141, 64)))
    assert {tuple(each["size"]) for each in made.description.parity["photos"]} >= {(33, 33), (140, 170)}
    with pytest.raises(UserError, match="--max-size 33 40 is too small for ExecuTorch; allowed: sides above"):
        export_model(small_model(), "executorch", tmp_path / "small", name="small", largest=(33, 40))


def test_core_ml_is_written_and_said_not_to_be_run(tmp_path: Path) -> None:
    needs("coreml")
    import coremltools

    made = export_model(small_model(), "coreml", tmp_path / "one", name="small", sizes=[(65, 97)])
    assert made.description.parity is None and any("not run" in note for note in made.description.notes)
    several = [(65, 97), (64, 80)]
    both = export_model(small_model(), "coreml", tmp_path / "two", name="small", sizes=several)
    assert both.megabytes < 1.3 * made.megabytes, "weights are shared"
    model = coremltools.models.MLModel(str(both.path), skip_model_load=True)
    assert [each.name for each in model.get_spec().description.functions] == ["size_65x97", "size_64x80"]
    assert Description.model_validate_json(model.user_defined_metadata["deeplab"]) == both.description
    shown = json.loads(model.user_defined_metadata["com.apple.coreml.model.preview.params"])
    assert shown["labels"] == list(small_model().labels.classes) and len(shown["colors"]) == 4
    for place in (tmp_path / "one", made.path):
        with pytest.raises(
            UserError, match=r"small.mlpackage: Core ML's packages run on Apple's systems alone"
        ):
            Segmenter(place)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"to": "litert"}, "no sizes that follow the photo.* fix: --size HEIGHT WIDTH"),
        ({"to": "litert", "sizes": [(9, 9), (8, 8)]}, "takes one size, 2 are given"),
        ({"to": "coreml", "sizes": [(9, 9)] * 65}, "65 sizes are given; allowed: 64 at most"),
        ({"to": "coreml", "sizes": [(0, 9)]}, "size 0 x 9 cannot be; allowed: sides of 1 or more"),
        ({"to": "executorch"}, "plans its memory for the largest photo; fix: --max-size"),
        (
            {"to": "executorch", "precision": "int8", "largest": (65, 65)},
            "and 0 are given; fix: --calibration",
        ),
        ({"to": "torch-export", "precision": "int8"}, "no precision 'int8'; allowed: float32"),
    ],
)
def test_what_a_target_cannot_be_asked_is_said_first(tmp_path: Path, options: dict, sentence: str) -> None:
    """Also where its libraries are not installed."""
    with pytest.raises(UserError, match=sentence):
        export_model(small_model(), options.pop("to"), tmp_path / "out", name="small", **options)


def test_a_target_of_stated_sizes_keeps_to_them(tmp_path: Path) -> None:
    needs("litert")
    made = export_model(small_model(), "litert", tmp_path / "out", name="small", sizes=[(65, 97)])
    assert open_artefact(made.path).description.labels == small_model().labels
    expected = Segmenter(small_model())(picture((65, 97))).labels
    assert (Segmenter(tmp_path / "out")(picture((65, 97))).labels == expected).mean() >= 0.9998
    with pytest.raises(UserError, match=r"the photo is 66 x 98, .* takes 65 x 97"):
        Segmenter(tmp_path / "out")(picture((66, 98)))

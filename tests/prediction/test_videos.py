"""Clips: every picture, its time, the sound, what smoothing does, and clips that are none."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from deeplab.errors import UserError
from deeplab.model.checkpoint import load
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.videos import PictureLabeller
from deeplab.prediction.windows import Window

av = pytest.importorskip("av", reason="clips are read by the extra video")
TICK = Fraction(1, 600)
# of changing rates, as telephones make them
TIMES = (0, 20, 41, 60, 85, 100, 120, 150)


def picture(number: int, *, noise: int = 0, size: tuple[int, int] = (66, 82)) -> np.ndarray:
    random = np.random.default_rng(number if noise else 0)
    coarse = np.random.default_rng(9).integers(0, 256, (-(-size[0] // 11), -(-size[1] // 11), 3))
    pixels = coarse.repeat(11, 0).repeat(11, 1)[: size[0], : size[1]]
    return (pixels + random.integers(-noise, noise + 1, pixels.shape)).clip(0, 255).astype(np.uint8)


def clip(path: Path, *, sound: str | None = "aac", times: tuple[int, ...] = TIMES) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.height, video.width, video.pix_fmt = 66, 82, "yuv420p"
        video.codec_context.time_base = TICK
        voice = container.add_stream(sound, rate=48000) if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = time, TICK
            container.mux(video.encode(frame))
        if voice is not None:
            layout, kind = voice.codec_context.layout, voice.codec_context.format.name
            stored = {"s16": np.int16, "s16p": np.int16, "s32p": np.int32, "fltp": np.float32}[kind]
            for number in range(12):
                wave = np.sin(np.arange(1024) / 9 + number) * (0.3 if stored == np.float32 else 9000)
                values = np.repeat(wave.astype(stored)[None], layout.nb_channels, 0)
                values = values if kind.endswith("p") else values.T.reshape(1, -1)
                part = av.AudioFrame.from_ndarray(values, format=kind, layout=layout.name)
                part.sample_rate, part.pts, part.time_base = 48000, 1024 * number, Fraction(1, 48000)
                container.mux(voice.encode(part))
            container.mux(voice.encode())
        container.mux(video.encode())
    return path


def pictures(path: Path, kind: str = "rgb24") -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.to_ndarray(format=kind) for frame in frames], [frame.time for frame in frames]


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.fixture
def predict(deeplab, squares_model, tmp_path: Path):
    def run(source: object, *words: object) -> tuple[int, str, dict]:
        code, _, err = deeplab(
            "predict", source, "-m", squares_model, "-o", tmp_path / "out", "--device", "cpu", *words
        )
        index = tmp_path / "out" / "predictions.json"
        return code, err, json.loads(index.read_text())[0] if index.exists() else {}

    return run


def test_labels_times_and_sound_are_the_clips_own(predict, squares_model, tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.mp4")
    code, err, entry = predict(source)
    assert code == 0, err
    seen, times = pictures(source)
    labels, label_times = pictures(tmp_path / "out" / "clip_labels.mkv", "gray")
    predictor = Predictor.of(load(squares_model), Labelling(device="cpu"))
    assert len(labels) == entry["pictures"] == entry["labelled"] == len(TIMES)
    for pixels, found in zip(seen, labels, strict=True):
        assert (found == predictor.labels_of(pixels).numpy()).all()
    # Matroska's times are milliseconds
    assert label_times == pytest.approx(times, abs=1e-3)
    drawn, drawn_times = pictures(tmp_path / "out" / entry["overlay"])
    assert entry["overlay"] == "clip_overlay.mp4" and len(drawn) == len(TIMES)
    assert drawn_times == pytest.approx(times, abs=1e-3)
    assert drawn[0].shape[0] > 66 and drawn[0].shape[0] % 2 == drawn[0].shape[1] % 2 == 0
    assert packets(tmp_path / "out" / entry["overlay"]) == packets(source)
    with av.open(str(tmp_path / "out" / "clip_labels.mkv")) as container:
        assert tuple(json.loads(container.metadata["CLASSES"])) == predictor.labels.classes
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_without_overlays_the_labels_are_the_same(predict, tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.mp4")
    assert predict(source)[0] == 0
    labels = pictures(tmp_path / "out" / "clip_labels.mkv", "gray")[0]
    (tmp_path / "out" / "clip_overlay.mp4").unlink()
    code, err, entry = predict(source, "--no-overlay")
    assert code == 0 and "overlay" not in entry, err
    assert not list((tmp_path / "out").glob("*overlay*"))
    for one, other in zip(labels, pictures(tmp_path / "out" / "clip_labels.mkv", "gray")[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_sound_that_is_not_for_mp4_and_none(predict, tmp_path: Path) -> None:
    code, err, entry = predict(clip(tmp_path / "raw.mkv", sound="pcm_s16le"))
    assert code == 0 and entry["overlay"] == "raw_overlay.mkv", err
    assert packets(tmp_path / "out" / "raw_overlay.mkv") == packets(tmp_path / "raw.mkv")
    # whose decoder has another name
    code, err, entry = predict(clip(tmp_path / "song.mkv", sound="mp3"))
    assert code == 0 and entry["overlay"] == "song_overlay.mp4", err
    code, err, entry = predict(clip(tmp_path / "silent.mp4", sound=None))
    assert code == 0, err
    with av.open(str(tmp_path / "out" / entry["overlay"])) as container:
        assert not container.streams.audio


def test_what_a_killed_process_left_goes_and_a_second_one_is_refused(predict, tmp_path: Path) -> None:
    source, work = clip(tmp_path / "clip.mp4"), tmp_path / "out/.clip_labels.mkv.work"
    work.mkdir(parents=True)
    (work / ".clip_overlay.mp4.tmp").write_bytes(b"half of one")
    holds = "import sys; from pathlib import Path; from deeplab.system.writing import hold_folder\n"
    holds += (
        "with hold_folder(Path(sys.argv[1]), 'labelling into'): print('held', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holds, str(work)], env=environment, **pipes) as other:
        other.stdout.readline()
        code, err, _ = predict(source)
        assert code == 1 and "another process is labelling into" in err and work.is_dir()
        other.stdin.close()
    code, err, _ = predict(source)
    assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "clip_labels.mkv",
        "clip_overlay.mp4",
        "predictions.json",
    }


def test_every_third_picture_is_labelled_and_all_are_shown(predict, tmp_path: Path) -> None:
    code, err, entry = predict(clip(tmp_path / "clip.mp4"), "--every", 3)
    assert code == 0, err
    assert (entry["pictures"], entry["labelled"]) == (8, 3)
    assert len(pictures(tmp_path / "out" / "clip_overlay.mp4")[0]) == 8
    assert pictures(tmp_path / "out" / "clip_labels.mkv")[1] == pytest.approx([0, 0.1, 0.2], abs=1e-3)


def test_it_stops_after_so_many_seconds(predict, tmp_path: Path) -> None:
    assert predict(clip(tmp_path / "clip.mp4"), "--seconds", 0.11)[2]["pictures"] == 4


def test_a_camera_is_a_clip_without_end(predict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("deeplab.imaging.videos.CAMERAS", {sys.platform: ("lavfi", "{}")})
    code, err, entry = predict("camera:testsrc=size=64x48:rate=10", "--seconds", 0.75)
    assert code == 0, err
    assert entry["pictures"] == 8 and entry["overlay"] == "testsrc_size_64x48_rate_10_overlay.mp4"
    code, err, _ = predict("camera:none of these", "--seconds", 1)
    assert code == 1 and "cannot be opened as a camera" in err


def test_smoothing_halves_flicker_and_forgets_at_a_cut(squares_model) -> None:
    predictor = Predictor.of(load(squares_model), Labelling(device="cpu"))
    plain, smooth = PictureLabeller(predictor), PictureLabeller(predictor, smooth=0.8)
    for number in range(12):
        for label in (plain, smooth):
            label(picture(number, noise=4))
    assert plain.flicker.still > 0 and 0 < smooth.flicker.share < plain.flicker.share / 2
    another = 255 - picture(0)
    assert (smooth(another) == predictor.labels_of(another).numpy()).all()


def test_flicker_by_hand(squares_model, monkeypatch) -> None:
    predictor = Predictor.of(load(squares_model), Labelling(device="cpu"))
    label = PictureLabeller(predictor)
    given = iter([np.zeros((2, 3), np.uint8), np.array([[0, 1, 1], [0, 0, 0]], np.uint8)])
    monkeypatch.setattr(PictureLabeller, "_labels", lambda self, pixels, begins: next(given))
    first = np.full((2, 3, 3), 100, np.uint8)
    second = first.copy()
    second[0, 1] = 109
    second[1] = 92
    label(first)
    label(second)
    # one of the two pixels that changed their label has moved by 9 levels
    assert (label.flicker.still, label.flicker.changed) == (5, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--every", 0], "--every 0; allowed: from 1; fix"),
        (["--seconds", 0], "--seconds 0.0; allowed: above 0; fix"),
        (["--smooth", 1], "--smooth 1.0; allowed: 0 to below 1"),
        (["--smooth", 0.5, "--flip"], "leave out --smooth"),
    ],
)
def test_what_cannot_be_is_named(predict, tmp_path: Path, words, message) -> None:
    code, err, _ = predict(clip(tmp_path / "clip.mp4"), *words)
    assert code == 1 and message in err and "None" not in err


def test_clips_that_are_none(predict, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no clip")
    # lists of other files, which FFmpeg knows by their content
    clip(tmp_path / "whole.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    for name in ("empty.mp4", "text.mp4", "list.mp4"):
        code, err, _ = predict(tmp_path / name)
        assert code == 1 and name in err and "cannot be opened as a video" in err
        assert "get it again" in err and "Errno" not in err
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        voice = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        part.sample_rate = 8000
        container.mux(voice.encode(part))
        container.mux(voice.encode())
    code, err, _ = predict(tmp_path / "sound.mkv")
    assert code == 1 and "holds no video" in err
    assert not list((tmp_path / "out").glob("*.mkv"))


def mpeg2(path: Path, *, size: tuple[int, int] = (66, 82), pictures: int = 12) -> bytes:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=30)
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(picture(number, size=size), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path.read_bytes()


def remuxed(source: Path, path: Path, change) -> Path:
    """The same packets of pictures, each as `change` gives it."""
    with av.open(str(source)) as old, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(old.streams.video[0])
        whole = [packet for packet in old.demux(video=0) if packet.size]
        for number, packet in enumerate(whole):
            changed = change(packet, number - len(whole))
            changed.stream = video
            container.mux(changed)
    return path


def test_clips_that_were_cut_off_are_refused_before_they_are_labelled(predict, tmp_path: Path) -> None:
    whole = clip(tmp_path / "whole.mkv", times=tuple(range(0, 1200, 20))).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) // 2])
    code, err, _ = predict(cut)
    assert code == 1 and f"{cut}: ends after" in err and "of 2.00 seconds" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]
    code, err, entry = predict(cut, "--seconds", 0.11)
    # of which some that lie between others are lost
    assert code == 0 and 1 < entry["pictures"] <= 4, err


def test_a_last_packet_that_is_damaged(predict, tmp_path: Path) -> None:
    """Which a decoder of several threads keeps to itself."""

    def change(packet, place: int):
        if place != -1:
            return packet
        damaged = av.Packet(bytes(packet.size))
        damaged.pts, damaged.dts, damaged.time_base = packet.pts, packet.dts, packet.time_base
        return damaged

    source = remuxed(clip(tmp_path / "whole.mkv", sound=None), tmp_path / "clip.mkv", change)
    code, err, _ = predict(source)
    assert code == 1 and "is damaged behind picture" in err and "--seconds" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_times_begin_at_zero_and_go_on_where_clips_were_joined(predict, tmp_path: Path) -> None:
    """As cameras' clocks and broadcasts do not."""
    late = clip(tmp_path / "late.mkv", sound=None, times=tuple(3_600_000 + time for time in TIMES))
    code, err, entry = predict(late, "--seconds", 0.11)
    assert code == 0 and entry["pictures"] == 4, err
    one = mpeg2(tmp_path / "one.ts", pictures=45)
    (tmp_path / "joined.ts").write_bytes(one + one)
    code, err, entry = predict(tmp_path / "joined.ts", "--every", 5)
    assert code == 0 and entry["pictures"] == 90, err
    _, times = pictures(tmp_path / "out" / entry["overlay"])
    assert np.diff(times) == pytest.approx([1 / 30] * 89, abs=2e-3)


@pytest.mark.parametrize(("across", "turns"), [((0, 1, -1, 0, 66, 0), 3), ((0, -1, 1, 0, 0, 82), 1)])
def test_telephones_clips_come_upright(predict, squares_model, tmp_path: Path, across, turns: int) -> None:
    """Whose pictures lie, and say so in the matrix of their track."""
    source = clip(tmp_path / "clip.mp4", sound=None)
    seen, _ = pictures(source)
    content = bytearray(source.read_bytes())
    a, b, c, d, x, y = (value << 16 for value in across)
    place = content.index(
        struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd")
    )
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, x, y, 1 << 30)
    source.write_bytes(content)
    code, err, _ = predict(source)
    assert code == 0, err
    labels, _ = pictures(tmp_path / "out" / "clip_labels.mkv", "gray")
    predictor = Predictor.of(load(squares_model), Labelling(device="cpu"))
    for pixels, found in zip(seen, labels, strict=True):
        upright = np.ascontiguousarray(np.rot90(pixels, turns))
        np.testing.assert_array_equal(found, predictor.labels_of(upright).numpy())


def test_pictures_of_two_sizes_are_refused(predict, tmp_path: Path) -> None:
    small = mpeg2(tmp_path / "small.ts", size=(48, 64))
    (tmp_path / "both.ts").write_bytes(mpeg2(tmp_path / "large.ts") + small)
    code, err, _ = predict(tmp_path / "both.ts")
    assert code == 1 and "changes from 82 x 66 pixels to 64 x 48 behind picture" in err


def test_the_cover_of_a_song_is_no_clip(predict, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 66, 82, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode())
    code, err, _ = predict(tmp_path / "song.mp4")
    assert code == 1 and "holds no video" in err


def test_logits_hold_nothing_of_how_they_came(squares_model) -> None:
    predictor = Predictor.of(load(squares_model), Labelling(device="cpu"))
    # or each picture would keep all that was computed for those before
    assert not predictor.logits_of(np.zeros((40, 48, 3), np.uint8)).requires_grad


def test_windows_are_not_smoothed(squares_model) -> None:
    predictor = Predictor.of(load(squares_model), Labelling(window=Window(32, 32), device="cpu"))
    with pytest.raises(UserError, match="one pass over the whole picture"):
        PictureLabeller(predictor, smooth=0.5)

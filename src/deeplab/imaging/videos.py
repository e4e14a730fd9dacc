"""Clips and cameras: pictures in, overlays with the clip's own sound and label maps out (extra `video`).

Pictures keep their times, so that clips of changing rates stay in step with their sound, which is copied as it is.
Label maps are a lossless grey video (FFV1 in Matroska), a value a class, that every common player's library reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deeplab.errors import UserError, require
from deeplab.system.writing import ENDING, cannot_write, put_in_place

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv"}
)
# as FFmpeg calls them; without those that are lists of other files and addresses, whatever they are called
FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg"
CAMERA = "camera:"
# the system's interface to cameras, and how it wants them named
CAMERAS = {"linux": ("v4l2", "/dev/{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
# of H.264, from 0, which is lossless, to 51
QUALITY = "20"
# a last picture that is shown for long has no end in some files
SHORT_OF, SHARE_SHORT_OF = Fraction(1, 2), Fraction(1, 50)
# seconds back, more than any jitter
JUMP = Fraction(1)
# what players expect in an .mp4; clips with other sound become .mkv
MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac"})


class Picture(NamedTuple):
    """One frame.

    Attributes:
        pixels: uint8 [H, W, 3], RGB, upright.
        time: since the clip began, in `Clip.tick`.
    """

    pixels: np.ndarray
    time: int


def is_camera(name: str) -> bool:
    """Whether a name stands for a camera: camera:NAME, or a device of Linux."""
    return name.startswith((CAMERA, "/dev/video"))


class Clip:
    """A clip or a camera that is open.

    Attributes:
        name: what it is called.
        tick: of its pictures' times, in seconds.
        rate: pictures a second, on average.
        frames: how many there are, as the file says; 0 where it does not.
    """

    def __init__(self, name: str, container: Any) -> None:
        av: Any = require("av", extra="video")
        self.name, self._container = name, container
        # the cover of a song is a stream of one picture
        cover = av.stream.Disposition.attached_pic
        streams = [each for each in container.streams.video if not each.disposition & cover]
        if not streams:
            raise UserError("holds no video", file=name)
        self._video = streams[0]
        self._video.thread_type = "AUTO"
        self.tick: Fraction = self._video.time_base
        self.rate: Fraction = self._video.average_rate or Fraction(25)
        self.frames = int(self._video.frames)
        # cameras' clocks and broadcasts have begun long before
        self._begins = Fraction(container.start_time or 0, av.time_base)

    @property
    def sound(self) -> Any:
        """Its first stream of sound, or None."""
        return next(iter(self._container.streams.audio), None)

    def parts(self, *, seconds: float | None = None) -> Iterator[Picture | Any]:
        """Pictures, and packets of sound, in the file's order; times rise.

        Args:
            seconds: leave out what comes behind them; without it a clip that was cut off is refused before it begins.

        Raises:
            UserError: the clip is damaged, or its pictures change their size.
        """
        av = require("av", extra="video")
        if seconds is None and not is_camera(self.name):
            self._refuse_cut_off()
        seen, last, due, shift = 0, -1, -1, round(self._begins / self.tick)
        heard: int | None = None
        size: tuple[int, ...] | None = None
        streams = [each for each in (self._video, self.sound) if each is not None]
        try:
            for packet in self._container.demux(*streams):
                if packet.stream is not self._video:
                    moved = round(shift * self.tick / packet.time_base)
                    if packet.dts is not None and (heard is None or packet.dts - moved > heard):
                        heard = packet.dts = packet.dts - moved
                        packet.pts = heard if packet.pts is None else packet.pts - moved
                        yield packet
                    continue
                if packet.pts is not None and not packet.is_discard:
                    due = max(due, packet.pts - shift)
                for frame in packet.decode():
                    # of frames without a time each follows the one before
                    usual = max(1, round(1 / self.rate / self.tick)) if seen else 1
                    time = last + usual if frame.pts is None else frame.pts - shift
                    if last - time > JUMP / self.tick:
                        # where clips were joined, times begin anew
                        shift -= last + usual - time
                        due = time = last + usual
                    time = max(time, last + 1)
                    if seen and seconds is not None and time * self.tick > seconds:
                        return
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
                    size = size or pixels.shape
                    if pixels.shape != size:
                        sizes = f"{size[1]} x {size[0]} pixels to {pixels.shape[1]} x {pixels.shape[0]}"
                        raise self._stops(last, f"changes from {sizes} behind picture {seen}")
                    seen, last = seen + 1, time
                    yield Picture(np.ascontiguousarray(pixels), time)
        except av.error.FFmpegError as error:
            raise self._stops(last, f"is damaged behind picture {seen} ({error.strerror})") from error
        if not seen:
            raise UserError("holds no picture", file=self.name)
        # threads of a decoder keep to themselves that the last packets are damaged
        if (due - last) * self.tick > Fraction(3, 4) / self.rate:
            raise self._stops(last, f"is damaged behind picture {seen}")

    def _stops(self, last: int, what: str) -> UserError:
        before = f"--seconds {float(max(last, 0) * self.tick):.3f} labels what comes before"
        return UserError(what, fix=f"mend it, or {before}", file=self.name)

    def _refuse_cut_off(self) -> None:
        """Read all of the clip, decoding nothing, and see that it is as long as it says."""
        av: Any = require("av", extra="video")
        with av.open(self.name, options={"format_whitelist": FORMATS}) as container:
            said = Fraction((container.duration or 0) + (container.start_time or 0), av.time_base)
            ends = Fraction(0)
            for packet in container.demux():
                begins = packet.pts if packet.pts is not None else packet.dts
                if begins is not None:
                    ends = max(ends, (begins + (packet.duration or 0)) * packet.time_base)
        if ends and said - ends > max(SHORT_OF, said * SHARE_SHORT_OF):
            raise UserError(
                f"ends after {float(ends):.2f} of {float(said):.2f} seconds: it was cut off, or is damaged",
                fix=f"get it again, or --seconds {float(ends):.2f} labels what is there",
                file=self.name,
            )


@contextmanager
def open_clip(name: str) -> Iterator[Clip]:
    """A clip by its path, or a camera.

    Raises:
        UserError: the extra is not installed, or it cannot be opened.
    """
    av: Any = require("av", extra="video")
    options: dict[str, Any] = {"options": {"format_whitelist": FORMATS}}
    if is_camera(name):
        kind, place = CAMERAS.get(sys.platform, CAMERAS["linux"])
        device = name.removeprefix(CAMERA)
        options = {"file": device if device.startswith("/") else place.format(device), "format": kind}
    try:
        with av.open(**{"file": name, **options}) as container:
            yield Clip(name, container)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        if is_camera(name):
            raise UserError(f"cannot be opened as a camera ({reason})", file=name) from error
        again = "it is no clip, is damaged or was cut off where it was copied: get it again"
        raise UserError(f"cannot be opened as a video ({reason})", fix=again, file=name) from error


class ClipWriter:
    """A video that is written under another name until `clip_writer` ends."""

    def __init__(self, container: Any, video: Any, sound: Any) -> None:
        self._container, self._video, self._sound = container, video, sound
        self._av: Any = require("av", extra="video")

    def add(self, pixels: np.ndarray, time: int) -> None:
        """One more picture, uint8 [H, W, 3] or labels [H, W], of a later time."""
        kind = {3: "rgb24"}.get(pixels.ndim, "gray16le" if pixels.dtype == np.uint16 else "gray")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
        frame.pts, frame.time_base = time, self._video.codec_context.time_base
        self._container.mux(self._video.encode(frame))

    def add_sound(self, packet: Any) -> None:
        """One more packet of the clip's sound."""
        if self._sound is not None:
            packet.stream = self._sound
            self._container.mux(packet)

    def finish(self) -> None:
        """Write what the encoder holds."""
        self._container.mux(self._video.encode())


@contextmanager
def clip_writer(
    path: Path,
    clip: Clip,
    size: tuple[int, int],
    *,
    drafts: Path,
    labels: np.dtype | None = None,
    tags: dict[str, str] | None = None,
) -> Iterator[ClipWriter]:
    """A video of pictures at the times of `clip`, at `path` once the block has ended without an error.

    Args:
        path: target, .mp4 or .mkv.
        clip: what it is made from, and whose sound it gets.
        size: height and width of the pictures, even ones for overlays.
        drafts: a folder on the same disk for what is not whole yet.
        labels: their type, uint8 or uint16, for label maps, which are lossless and have no sound.
        tags: what the file says of itself.

    Raises:
        UserError: it cannot be written.
    """
    av: Any = require("av", extra="video")
    beside = drafts / f".{path.name}{ENDING}"
    try:
        with av.open(str(beside), "w", format={".mp4": "mp4"}.get(path.suffix, "matroska")) as container:
            container.metadata.update(tags or {})
            codec = "ffv1" if labels is not None else "libx264"
            video = container.add_stream(codec, rate=clip.rate)
            video.height, video.width = size
            video.codec_context.time_base = clip.tick
            if labels is None:
                video.pix_fmt, video.options = "yuv420p", {"crf": QUALITY, "preset": "veryfast"}
            else:
                video.pix_fmt = "gray16le" if labels == np.uint16 else "gray"
            sound = None
            if labels is None and clip.sound is not None:
                sound = container.add_stream_from_template(clip.sound)
            writer = ClipWriter(container, video, sound)
            yield writer
            writer.finish()
        put_in_place(beside, path)
    except av.error.FFmpegError as error:
        raise cannot_write(path, OSError(error.errno, error.strerror)) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def overlay_suffix(clip: Clip) -> str:
    """.mp4, or .mkv where players do not expect the clip's sound in one."""
    return (
        ".mp4" if clip.sound is None or clip.sound.codec_context.codec.canonical_name in MP4_SOUND else ".mkv"
    )

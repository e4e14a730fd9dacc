"""What `deeplab predict` does with clips and cameras."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from deeplab.errors import UserError
from deeplab.system.writing import hold_folder

if TYPE_CHECKING:
    import numpy as np

    from deeplab.config.labels import LabelSpec
    from deeplab.prediction.predictor import Predictor


@Parameter(name="*")
@dataclass(frozen=True)
class VideoOptions:
    """How clips and cameras are labelled.

    Parameters
    ----------
    every:
        Of a clip: label every so manieth picture, and show the last labels between them.
    smooth:
        Of a clip: share of the logits so far in those of each picture, 0 to below 1, such as 0.6.
    seconds:
        Of a clip or a camera: stop after so many; a camera goes on until Ctrl-C otherwise.
    """

    every: int = 1
    smooth: float = 0.0
    seconds: float | None = None


def predict_video(
    predictor: Predictor, source: str, output: Path, *, name: str, options: VideoOptions, overlay: bool
) -> tuple[dict[str, Any], str]:
    """Label a clip or what a camera sees; its line in the index, and what was found, in words.

    Raises:
        UserError: options out of range, or see `open_clip`, `clip_writer` and `PictureLabeller`.
    """
    import numpy as np

    from deeplab.cli.tables import photo_progress
    from deeplab.imaging.overlay import class_shares
    from deeplab.imaging.videos import Picture, clip_writer, is_camera, open_clip, overlay_suffix
    from deeplab.prediction.videos import PictureLabeller

    if options.every < 1:
        raise UserError(
            f"--every {options.every}", allowed="from 1", fix="--every 5 labels every fifth picture"
        )
    if options.seconds is not None and not options.seconds > 0:
        raise UserError(
            f"--seconds {options.seconds}", allowed="above 0", fix="leave it out for the whole clip"
        )
    spec, label = predictor.labels, PictureLabeller(predictor, smooth=options.smooth)
    pictures = labelled = 0
    shares, network_seconds, began = np.zeros(len(spec.classes)), 0.0, time.perf_counter()
    work = output / f".{name}_labels.mkv.work"
    with open_clip(source) as clip, _drafts(work) as drafts, ExitStack() as writers:
        tinted, labels = output / f"{name}_overlay{overlay_suffix(clip)}", output / f"{name}_labels.mkv"
        progress = writers.enter_context(photo_progress(clip.frames, "labelling"))
        drawn = stored = last = panel = None
        waiting: list[Any] = []
        try:
            for part in clip.parts(seconds=options.seconds):
                if not isinstance(part, Picture):
                    if overlay:
                        # before the first picture says how large it is, nobody writes
                        waiting.append(part)
                else:
                    if last is None or pictures % options.every == 0:
                        started = time.perf_counter()
                        last = label(part.pixels)
                        network_seconds += time.perf_counter() - started
                        shares += class_shares(last, len(spec.classes), ignore_label=spec.ignore_label)
                        labelled += 1
                        if stored is None:
                            tags = {"CLASSES": json.dumps(list(spec.classes), ensure_ascii=False)}
                            stored = writers.enter_context(
                                clip_writer(
                                    labels, clip, last.shape, drafts=drafts, labels=last.dtype, tags=tags
                                )
                            )
                        stored.add(last, part.time)
                    if overlay:
                        if panel is None:
                            panel = _panel(spec, part.pixels.shape[1], part.pixels.shape[0])
                        shown = _drawn(part.pixels, last, spec, panel)
                        if drawn is None:
                            drawn = writers.enter_context(
                                clip_writer(tinted, clip, shown.shape[:2], drafts=drafts)
                            )
                        drawn.add(shown, part.time)
                    pictures += 1
                    progress.advance()
                if drawn is not None:
                    for packet in waiting:
                        drawn.add_sound(packet)
                    waiting = []
        except KeyboardInterrupt:
            # how one ends what has no end
            if not is_camera(source) or stored is None:
                raise
    seconds = time.perf_counter() - began
    order = np.argsort(-shares)
    found = {
        spec.classes[index]: round(float(shares[index] / labelled), 6) for index in order if shares[index]
    }
    entry = {
        "labels": labels.name,
        **({"overlay": tinted.name} if overlay else {}),
        "pictures": pictures,
        "labelled": labelled,
        "flicker": round(label.flicker.share, 6),
        "pictures a second": round(pictures / seconds, 2),
        "labelled a second by the network": round(labelled / network_seconds, 2),
        "shares": found,
    }
    words = ", ".join(f"{each} {share:.1%}" for each, share in found.items() if share >= 0.0005)
    return entry, f"{pictures} pictures, {pictures / seconds:.1f} a second; {words}"


@contextmanager
def _drafts(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet, which this process holds; what one that was killed left goes with it.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    with hold_folder(folder, "labelling into"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _panel(spec: LabelSpec, width: int, height: int) -> np.ndarray:
    """A legend of all classes, the same beneath every picture."""
    import numpy as np

    from deeplab.imaging.legend import Entry, draw_legend, text_height

    entries = [
        Entry(name=each, share=None, colour=colour)
        for each, colour in zip(spec.classes, spec.palette, strict=True)
        if each != "background"
    ]
    return np.asarray(draw_legend(entries, width=width, text_size=text_height(width, height)))


def _drawn(pixels: np.ndarray, labels: np.ndarray, spec: LabelSpec, panel: np.ndarray) -> np.ndarray:
    """The picture tinted, and the panel beneath, uint8 [H, W, 3] with the even sides that players want."""
    import numpy as np

    from deeplab.imaging.overlay import draw_overlay

    tinted = np.asarray(
        draw_overlay(
            pixels,
            labels,
            class_names=spec.classes,
            palette=np.array(spec.palette, np.uint8),
            legend=False,
            ignore_label=spec.ignore_label,
        )
    )
    width = max(tinted.shape[1], panel.shape[1])
    rows = [np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in (tinted, panel)]
    whole = np.concatenate(rows)
    return np.pad(whole, ((0, whole.shape[0] % 2), (0, whole.shape[1] % 2), (0, 0)), mode="edge")

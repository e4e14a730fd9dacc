"""`deeplab predict`."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from deeplab.cli.cluster import ClusterOptions, predict_on_cluster
from deeplab.cli.labelling import ONE_PASS, USUAL, Passes, Runtime, labelling, refuse_idle
from deeplab.cli.scenes import SceneOptions, predict_scene
from deeplab.cli.videos import VideoOptions, predict_video
from deeplab.errors import UserError
from deeplab.system.writing import cannot_write, write_whole

if TYPE_CHECKING:
    import numpy as np

    from deeplab.prediction.predictor import Predictor
    from deeplab.prediction.segmenter import Segmentation, Segmenter
    from deeplab.system.pipeline import Lanes

# a line of the index, and what was found, in words
Made = tuple[dict[str, Any], str]
INDEX_NAME = "predictions.json"
SPELL_OUT = 20
# photos labelled side by side, and pixels of the largest of these: together not many more than a large photo's
MOST_LANES, LARGEST_BESIDE = 4, 1 << 19
# what holds or names photos and is none
PACKED = (".tar", ".parquet", ".txt")
ALL_BANDS, EVERY_PICTURE, ALONE = SceneOptions(), VideoOptions(), ClusterOptions()


def predict(
    *inputs: str,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "animals",
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("predictions"),
    overlay: bool | None = None,
    passes: Passes = ONE_PASS,
    runtime: Runtime = USUAL,
    scenes: SceneOptions = ALL_BANDS,
    videos: VideoOptions = EVERY_PICTURE,
    many: ClusterOptions = ALONE,
) -> int:
    """Label every pixel of photos: files, folders, globs.

    For each photo NAME: NAME_labels.png (class indices, with a palette), NAME_overlay.png (the photo
    tinted, with a legend) and a line in predictions.json (share of each class). A photo that cannot be
    read is reported and skipped, and the exit code is then 1.

    GeoTIFFs, slides and TIFFs beyond 64 megapixels are read and written window by window: their labels are a GeoTIFF,
    NAME_labels.tif, and the overlay an overview. A run that was stopped goes on where it was.

    Of clips, and of a camera (camera:NAME, /dev/video0), the overlay is a clip with the same sound, and the labels a
    lossless grey one, NAME_labels.mkv.

    Parameters
    ----------
    inputs:
        Photos, folders or glob patterns; scenes, clips and cameras by name. With --cluster also lists, shards, and
        addresses of stores.
    model:
        An embedded model's name, a folder made by train or import, a .safetensors file, or hf:owner/name.
    output:
        Folder to write into, made if missing.
    overlay:
        Whether overlays are drawn and written; without, labelling takes less time and a fraction of the disk. Default:
        they are, but by a cluster, which draws none.
    """
    from deeplab.imaging.photos import find_photos
    from deeplab.imaging.scenes import SLIDE_SUFFIXES, is_scene
    from deeplab.imaging.videos import VIDEO_SUFFIXES, is_camera
    from deeplab.prediction.segmenter import Segmenter
    from deeplab.system.memory import keep_freed_memory
    from deeplab.system.processor import has_bfloat16
    from deeplab.system.stores import address_of

    if not inputs:
        raise UserError("no photos given; like: deeplab predict photos/ -o predictions")
    cameras = [each for each in inputs if is_camera(each)]
    files = [each for each in inputs if each not in cameras]
    if many.cluster is not None:
        # workers refuse what is no photo
        if cameras:
            raise UserError(
                f"{cameras[0]} is a camera, and a cluster labels photos", fix="leave out --cluster"
            )
        if overlay is not None:
            raise UserError(
                f"--{'no-' * (not overlay)}overlay would change nothing",
                allowed="without --cluster",
                fix="leave it out",
            )
        refuse_idle(videos, "every", "smooth", "seconds", needs="a clip or a camera, without --cluster")
        _refuse_idle_of_scenes(scenes, pictures=set(), slides=set())
        return predict_on_cluster(files, output, model=model, how=labelling(runtime, passes), options=many)
    refuse_idle(many, "shard_size", "label_maps", "workers", needs="--cluster")
    overlay = overlay is not False
    remote = next(filter(None, map(address_of, [*files, str(output)])), None)
    if remote is not None:
        raise UserError("lies in a store", fix="--cluster ray reads and writes there", file=remote)
    packed = next((each for each in files if each.lower().endswith(PACKED)), None)
    if packed is not None:
        raise UserError(
            "is a shard or a list of photos", fix="--cluster ray reads what it holds", file=packed
        )
    photos = [photo for photo in find_photos(files) if not _inside(photo, output)] if files else []
    if not photos and not cameras:
        raise UserError(f"all photos found lie inside the output folder {output}; give another with -o")
    clips = {photo for photo in photos if photo.suffix.lower() in VIDEO_SUFFIXES}
    pictures = {photo for photo in photos if is_scene(photo)}
    slides = {photo for photo in pictures if photo.suffix.lower() in SLIDE_SUFFIXES}
    if not clips and not cameras:
        refuse_idle(videos, "every", "smooth", "seconds", needs="a clip or a camera, without --cluster")
    _refuse_idle_of_scenes(scenes, pictures=pictures, slides=slides)
    how = labelling(runtime, passes, scenes=bool(pictures))
    keep_freed_memory()
    segmenter = Segmenter(model, how)
    device = segmenter.predictor.device
    if how.precision == "bfloat16" and not has_bfloat16(device):
        print(
            f"{device} has no instructions for bfloat16 and imitates it, slower than float32; "
            "fix: leave --precision away",
            file=sys.stderr,
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(output, error) from error
    names = dict(zip(photos, unique_names(photos), strict=True))
    large: list[tuple[str, Callable[..., Made]]] = []
    small = {}
    film = partial(predict_video, options=videos, overlay=overlay)
    for photo, name in names.items():
        if photo in clips:
            large.append((str(photo), partial(film, source=str(photo), name=name)))
        elif photo in pictures:
            work = partial(predict_scene, path=photo, name=name, options=scenes, overlay=overlay)
            large.append((str(photo), work))
        else:
            small[photo] = name
    for each in cameras:
        large.append((each, partial(film, source=each, name=camera_name(each))))
    entries = [
        *_predict_all(segmenter, small, output, overlay=overlay),
        *_one_by_one(segmenter, large, output),
    ]
    _write_index(entries, output / INDEX_NAME)
    failed = sum("error" in entry for entry in entries)
    labelled = len(entries) - failed
    drawn = overlay and labelled
    seen = f"look at {output}/*_overlay.{'*' if clips or cameras else 'png'}; " if drawn else ""
    print(f"{labelled} photos labelled: {seen}shares are in {output / INDEX_NAME}")
    if failed:
        print(f"{failed} photos failed, see above", file=sys.stderr)
    return 1 if failed else 0


def _refuse_idle_of_scenes(options: SceneOptions, *, pictures: set[Path], slides: set[Path]) -> None:
    if not pictures:
        needs = "a scene (a TIFF or JPEG 2000 on the ground or a large one, or a slide), without --cluster"
        refuse_idle(options, "polygons", needs=needs)
    if not slides:
        refuse_idle(options, "level", needs="a slide, without --cluster")
    if pictures == slides:
        refuse_idle(
            options, "bands", needs="a TIFF or JPEG 2000 on the ground or a large one, without --cluster"
        )


def _one_by_one(
    segmenter: Segmenter, large: list[tuple[str, Callable[..., Made]]], output: Path
) -> list[dict[str, Any]]:
    """Entries of the index, of what is too large for a pipeline of photos; each has a bar of its own."""
    entries = []
    for place, work in large:
        entry: dict[str, Any] = {"photo": place}
        try:
            written, found = work(segmenter.predictor, output=output)
            entry |= written
            print(f"{Path(place).name}: {found}", file=sys.stderr)
        except UserError as error:
            entry["error"] = str(error.within(place))
            print(f"skipped: {entry['error']}", file=sys.stderr)
        entries.append(entry)
    return entries


def _predict_all(
    segmenter: Segmenter, photos: dict[Path, str], output: Path, *, overlay: bool
) -> list[dict[str, Any]]:
    """Entries of the index, of photos by the names of their results."""
    import torch

    from deeplab.cli.tables import photo_progress
    from deeplab.system.pipeline import pipelined

    def save(place: tuple[Path, str], result: Segmentation) -> Made:
        labels, drawn = result.save(output, name=place[1], overlay=overlay)
        return _entry(result, labels, drawn), _found(result)

    entries = []
    threads = torch.get_num_threads()
    done = pipelined(
        photos.items(),
        read=lambda place: segmenter.predictor.photo(place[0]),
        compute=segmenter,
        write=save,
        lanes=_lanes(segmenter.predictor, threads),
    )
    with photo_progress(len(photos), "predicting") as progress, closing(done):
        for photo, outcome in zip(photos, done, strict=True):
            entry: dict[str, Any] = {"photo": str(photo)}
            try:
                written, found = outcome.result()
                entry |= written
                if len(photos) <= SPELL_OUT or not progress.is_terminal:
                    progress.line(f"{photo.name}: {found}")
            except UserError as error:
                entry["error"] = str(error.within(photo))
                progress.line(f"skipped: {entry['error']}")
            entries.append(entry)
            progress.advance()
    # lanes have their own number, which torch tells every new thread
    torch.set_num_threads(threads)
    return entries


def _lanes(predictor: Predictor, threads: int) -> Lanes[np.ndarray] | None:
    """Small photos side by side: threads that share one wait for each other at every layer, and for who writes."""
    import torch

    from deeplab.system.pipeline import Lanes

    count = min(threads, MOST_LANES)
    by_torch = predictor.engine == "torch" and predictor.device.type == "cpu"
    if count < 2 or not by_torch or not predictor.how.one_pass:
        return None
    # one more, as some of them wait for files
    return Lanes(
        count + 1,
        begin=partial(torch.set_num_threads, threads // count),
        alone=lambda photo: photo.shape[0] * photo.shape[1] > LARGEST_BESIDE,
    )


def camera_name(camera: str) -> str:
    """A file name for what a camera sees."""
    return re.sub(r"[^\w.-]+", "_", camera.removeprefix("camera:")).strip("_") or "camera"


def unique_names(photos: Sequence[Path]) -> list[str]:
    """A file name for each photo's results: its stem, with as much of the path as tells it from others."""
    names = [photo.stem for photo in photos]
    for depth in range(1, max((len(photo.parts) for photo in photos), default=0) + 1):
        repeated = {name for name, count in Counter(names).items() if count > 1}
        if not repeated:
            break
        names = [
            "_".join([*photo.parts[-depth:-1], photo.name.replace(".", "_")]).strip("/")
            if name in repeated
            else name
            for photo, name in zip(photos, names, strict=True)
        ]
    return names


def _entry(result: Segmentation, labels: Path, overlay: Path | None) -> dict[str, Any]:
    height, width = result.labels.shape
    shares = {name: round(share, 6) for name, share in result.shares.items()}
    drawn = {} if overlay is None else {"overlay": overlay.name}
    return {"labels": labels.name, **drawn, "height": height, "width": width, "shares": shares}


def _found(result: Segmentation) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in result.shares.items() if share >= 0.0005)


def _inside(photo: Path, folder: Path) -> bool:
    return Path(realpath(photo)).is_relative_to(realpath(folder))


def _write_index(entries: list[dict[str, Any]], path: Path) -> None:
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    write_whole(path, f"[\n{lines}\n]\n")

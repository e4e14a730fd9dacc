"""A scene labelled window by window into a raster: memory is that of a window, and a run that was killed goes on.

Beside the raster, under a hidden name, a folder keeps what is done: labels by block, compressed, one after another, a
line each in a ledger, and means over the whole scene. It is removed when the raster is whole.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from deeplab.errors import UserError
from deeplab.imaging.label_rasters import write_label_raster
from deeplab.imaging.scenes import Scene, identity
from deeplab.model.checkpoint import version_of
from deeplab.model.network import DeepLab
from deeplab.prediction.predictor import Predictor
from deeplab.prediction.runtimes.program import RuntimeNetwork
from deeplab.prediction.tiles import Gathered, Tiles
from deeplab.prediction.windows import Place
from deeplab.system.reading import beginning, foreign, plain_file, read_bytes
from deeplab.system.writing import Appended, cannot_write, hold_folder, whole_file, write_whole

# labels of more classes have no room for a value that is none
MOST_NARROW, NO_CLASS = 255, 65535
# columns of a block whose masks, one for each band, are held at once
MASKED_TOGETHER = 2048
OTHERS, AFRESH = "holds what no scene left that was being labelled", "remove it"


class Progress(NamedTuple):
    """What is being done, and pixels of it that are."""

    what: str
    pixels: int
    of: int


def label_scene(
    predictor: Predictor,
    scene: Scene,
    target: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> np.ndarray:
    """Label every pixel of a scene that has data.

    Args:
        predictor: what `predictor.how` says of the window may be None, for the usual one.
        scene: opened.
        target: GeoTIFF to write: class indices, and the model's ignore label where there is no data (65535 where it
            has more than 255 classes).
        on_progress: called often.

    Returns:
        int64, pixels by label.

    Raises:
        UserError: a CRF; bands that the model does not take; or the file cannot be written.
    """
    if predictor.how.crf is not None:
        raise UserError(
            "the CRF needs the probabilities of the whole photo, and scenes are larger than memory",
            fix="leave out the CRF",
            file=scene.path,
        )
    spec = predictor.labels
    narrow = len(spec.classes) <= MOST_NARROW
    nodata, dtype = (spec.ignore_label, "uint8") if narrow else (NO_CLASS, "uint16")
    way = predictor.sliding(scene.size)
    read = _reader(predictor, scene)
    everything = scene.size[0] * scene.size[1]
    folder = target.parent / f".{target.name}.work"
    with hold_folder(folder, "labelling into"), closing(Ledger(folder, _key(predictor, scene))) as ledger:
        if isinstance(way, Tiles):
            way.gathered = ledger.gathered()
            seen = sum(place.height * place.width for place in way.places[: way.gathered.following])
            # the means of the whole image are of places without data, too
            for place in way.gather(partial(read, all_of_it=predictor.how.seams == "exact")):
                ledger.keep(way.gathered)
                seen = seen % everything + place.height * place.width
                on_progress(Progress("looking", seen, everything))
        done = sum(place.height * place.width for place in way.places[: ledger.done])
        on_progress(Progress("labelling", done, everything))
        for place, found, _ in way.blocks(read, first=ledger.done):
            labels = found.cpu().numpy().astype(dtype, copy=False)
            for left in range(0, place.width, MASKED_TOGETHER):
                part = labels[:, left : left + MASKED_TOGETHER]
                mask = scene.mask(place.top, place.left + left, place.height, part.shape[1])
                if mask is not None:
                    part[~mask] = nodata
            ledger.add(labels)
            done += labels.size
            on_progress(Progress("labelling", done, everything))
        parts = (
            (place.top, place.left, np.frombuffer(content, dtype).reshape(place.height, place.width))
            for place, content in zip(way.places, ledger.contents(), strict=True)
        )
        counts = write_label_raster(
            target,
            parts,
            size=scene.size,
            dtype=dtype,
            place=scene.placed(),
            nodata=nodata,
            palette=np.array(spec.palette, np.uint8),
            classes=spec.classes,
            drafts=folder,
        )
        ledger.remove()
    return counts


def _reader(predictor: Predictor, scene: Scene) -> Callable[..., torch.Tensor | None]:
    """The scene as the network takes it, see `Read`; `all_of_it=True` reads windows without data, too.

    Raises:
        UserError: bands that the model does not take; which are only known when they are read, raise it then.
    """
    pixels = predictor.network.config.pixels
    wanted = pixels.read_as()
    if wanted is None and len(scene.bands) not in (1, 3):
        raise UserError(
            f"has {len(scene.bands)} bands ({', '.join(scene.bands)}), and the model takes RGB",
            allowed="three, or a grey one",
            fix="--bands names those to read",
            file=scene.path,
        )

    def read(place: Place, *, all_of_it: bool = False) -> torch.Tensor | None:
        mask = scene.mask(*place)
        if mask is not None and not mask.any() and not all_of_it:
            return None
        values = scene.read(*place)
        if mask is not None and wanted is not None and values.shape[2] == len(wanted.names):
            # what stands for no data may be out of any range; the mean says nothing
            values[~mask] = np.asarray(pixels.mean).astype(values.dtype)
        try:
            return predictor.images(predictor.photo(values))
        except UserError as error:
            raise UserError(
                f"its bands ({', '.join(scene.bands)}; {values.dtype}) are not what the model takes: {error.what}",
                allowed=error.allowed,
                fix=f"--bands names those to read{'' if wanted else ', gdal_translate -ot Byte -scale makes 8 bits'}",
                file=scene.path,
            ) from error

    return read


class Ledger:
    """Blocks that are done, in a folder that a run leaves to the one after it.

    Args:
        folder: is there; what it keeps of another key is thrown away.
        key: what the blocks depend on.

    Attributes:
        done: how many blocks there are.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._labels, self._lines = folder, folder / "labels", folder / "ledger"
        self._means = folder / "means.npz"
        self._sizes: list[int] = []
        try:
            if beginning(folder / "key", len(key) + 1) == key.encode():
                self._take_over()
            else:
                for kept in (self._labels, self._lines, self._means):
                    kept.unlink(missing_ok=True)
                write_whole(folder / "key", key)
        except OSError as error:
            raise cannot_write(folder, error) from error
        self._label_file, self._line_file = Appended(self._labels), Appended(self._lines)

    @property
    def done(self) -> int:
        return len(self._sizes)

    def _take_over(self) -> None:
        """Keep the blocks whose line and content are whole."""
        kept = 0
        if self._lines.exists() and self._labels.exists():
            with foreign(self._folder, OTHERS, fix=AFRESH), plain_file(self._labels) as file:
                # what stands behind the last line break was cut off
                for line in read_bytes(self._lines).split(b"\n")[:-1]:
                    size, check = map(int, line.split())
                    if zlib.crc32(file.read(size)) != check:
                        break
                    self._sizes.append(size)
                    kept += len(line) + 1
            with self._labels.open("rb+") as file:
                file.truncate(sum(self._sizes))
            with self._lines.open("rb+") as file:
                file.truncate(kept)

    def add(self, labels: np.ndarray) -> None:
        """Keep one more block."""
        content = zlib.compress(labels.tobytes(), 1)
        self._label_file.write(content)
        self._line_file.write(f"{len(content)} {zlib.crc32(content)}\n")
        self._sizes.append(len(content))

    def contents(self) -> Iterator[bytes]:
        """The blocks' bytes, in order."""
        with self._labels.open("rb") as file:
            for size in self._sizes:
                yield zlib.decompress(file.read(size))

    def keep(self, gathered: Gathered) -> None:
        """Keep how far the passes before have come."""
        arrays = {f"mean {index:03}": mean.cpu().numpy() for index, mean in enumerate(gathered.means)}
        if gathered.total is not None:
            arrays["total"] = gathered.total.cpu().numpy()
        arrays["counted"] = np.array([gathered.positions, gathered.following])
        with whole_file(self._means) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for options

    def gathered(self) -> Gathered:
        """What `keep` kept last."""
        if not self._means.exists():
            return Gathered()
        with (
            foreign(self._folder, OTHERS, fix=AFRESH),
            plain_file(self._means) as file,
            np.load(file) as kept,
        ):
            means = tuple(
                torch.from_numpy(kept[name]) for name in sorted(kept.files) if name.startswith("mean")
            )
            total = torch.from_numpy(kept["total"]) if "total" in kept.files else None
            return Gathered(means, total, *map(int, kept["counted"]))

    def close(self) -> None:
        """Close its files; where nothing is done, none is left."""
        self._label_file.close()
        self._line_file.close()
        if not self._sizes and not self._means.exists():
            self.remove()

    def remove(self) -> None:
        """Nobody needs it any more."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _key(predictor: Predictor, scene: Scene) -> str:
    """Changes with the scene, the model and how it labels."""
    network = predictor.network
    if isinstance(network, RuntimeNetwork):
        version = network.version
    else:
        assert isinstance(network, DeepLab)
        version = version_of(network)
    about = {
        "scene": identity(scene.path),
        "size": scene.size,
        "bands": list(scene.bands),
        "how": repr(replace(predictor.how, calibration=())),
        "config": network.config.model_dump_json(),
        "engine": predictor.engine,
        "stride": predictor.output_stride,
        "weights": version,
    }
    return json.dumps(about)

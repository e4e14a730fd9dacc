"""A job in parts: what is done, and what is written, in a folder here or in a store. No engine is asked for here.

    TARGET/labels-00000.tar      label maps of part 0, indexed PNGs named by number and photo; or a folder of them
    TARGET/labels-00000.jsonl    a line for each of its photos: where its labels are, or why it has none
    TARGET/.job/                 which job it is, and what its workers have done so far; gone when all is done

A part is done when its .jsonl is there, which is written last. Photos are labelled in batches: one at a time where
all lies on disks, many where each file costs a request. A batch is marked before it begins, and written when it is
done; of one that was begun and not done each photo is marked and tried alone, so that one which takes its process with
it again is known. Work may be done twice, by a worker that was thought dead: both write the same, and whole files alone
are looked at.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple

from deeplab.cluster.inputs import Content, Part, Photos, digest_of, is_shard, open_part
from deeplab.errors import UserError
from deeplab.system.reading import foreign
from deeplab.system.stores import WRITABLE, Folder, address_of
from deeplab.system.writing import NO_UTF8, remove_remains

LabelMaps = Literal["tar", "png"]
# with a number before it, and four bytes a character, what file systems take
LONGEST_STEM = 60
# of photos, where each file costs a request
BATCH = 32
MOST_TRIES = 2
AFRESH = "remove it and its folder .job, or name another folder"
KILLER = "its process was killed twice while it was labelled"
STATE, KEY, STOPPED, LINES = ".job", ".job/key", ".job/stopped", "lines.jsonl"


class Done(NamedTuple):
    """A part: its number, how many photos it has, and the lines of those that failed."""

    number: int
    photos: int
    dead: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Job:
    """Photos, cut into parts, and the folder where their labels go.

    Attributes:
        target: where everything is written.
        label_maps: "tar" for one a part, "png" for a folder a part.
        batch: photos that are written down together.
    """

    target: Folder
    label_maps: LabelMaps = "tar"
    batch: int = 1

    @classmethod
    def planned(
        cls, parts: Sequence[Part], target: str, *, about: dict[str, Any], label_maps: LabelMaps = "tar"
    ) -> Job:
        """The job of these parts, begun anew or gone on with.

        Args:
            parts: in an order that stays the same.
            target: address of a folder, made if missing.
            about: the model and how it labels, JSON values; with other ones nothing can be gone on with.
            label_maps: see `Job`.

        Raises:
            UserError: there is another job in the folder, or it cannot be written.
        """
        address = address_of(target)
        if address is not None and not address.startswith(tuple(f"{each}://" for each in WRITABLE)):
            raise UserError(
                "is a place to read from",
                allowed=f"a folder, or {', '.join(f'{each}://' for each in WRITABLE)}",
                fix="name another with -o",
                file=target,
            )
        folder = Folder(address or target)
        on_disks = not folder.is_remote and all(address_of(part[0]) is None for part in parts)
        job = cls(folder, label_maps, 1 if on_disks else BATCH)
        key = json.dumps({"parts": digest_of(parts), "label maps": label_maps, **about}, sort_keys=True)
        state = folder.names(STATE)
        kept = next(folder.read([KEY])) if "key" in state else None
        if kept is not None and kept != key.encode():
            raise UserError(
                "holds a job that is not finished, of other photos, another model or other options",
                fix="finish it with those, remove its folder .job, or name another folder",
                file=target,
            )
        if kept is None:
            # an earlier one's, which would be taken for this one's
            results = [name for name in folder.names() if _is_result(name)]
            folder.remove(results)
            # of label maps that are files of their own
            folder.remove([STATE, *sorted({name.partition(".")[0] for name in results})], folder=True)
            folder.write(KEY, key.encode())
        elif "stopped" in state:
            with foreign(folder.place(STOPPED), fix=AFRESH):
                stopped = [int(number) for number in json.loads(next(folder.read([STOPPED])))]
            for work in (f"{STATE}/{number:05}" for number in stopped):
                folder.remove([f"{work}/{name}" for name in folder.names(work) if ".try" in name])
            folder.remove([STOPPED])
        return job

    def stop(self, numbers: Iterable[int]) -> None:
        """Write down which parts were under way when somebody stopped the job: no photo killed their processes."""
        self.target.write(STOPPED, json.dumps(sorted(numbers)).encode())

    def open_parts(self, count: int) -> list[int]:
        """Numbers of those that are not done, of so many."""
        there = self.target.names()
        return [number for number in range(count) if _index(number) not in there]

    def lines(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Of parts that are done, one at a time."""
        names = [_index(number) for number in numbers]
        for name, content in zip(names, self.target.read(names), strict=True):
            with foreign(f"{self.target.address}/{name}", fix=AFRESH):
                yield from map(json.loads, content.splitlines())

    def finish(self) -> None:
        """Nothing of it is open: forget the way there."""
        self.target.remove([STATE], folder=True)
        if not self.target.is_remote:
            remove_remains(Path(self.target.address))

    def label_part(self, number: int, part: Part, label: Callable[[str, Path | bytes], bytes]) -> Done:
        """Label a part's photos, from where a worker before stopped.

        A photo that cannot be read has its reason in its line. One that kills its process is tried again once, as the
        process may have been killed for something else.

        Args:
            number: of the part.
            part: its photos.
            label: makes a label map's PNG of a photo's name and its file or bytes.

        Raises:
            UserError: a store does not answer, or the target cannot be written.
        """
        work = f"{STATE}/{number:05}"
        there = self.target.names(work)
        photos = self._opened(part, work, there)
        written: list[str] = []
        try:
            for start in range(0, len(photos.names), self.batch):
                places = range(start, min(start + self.batch, len(photos.names)))
                if f"{start:05}.try" in there and f"{start:05}.tar" not in there:
                    batches = [(f"{place:05}-alone", [place]) for place in places]
                else:
                    batches = [(f"{start:05}", list(places))]
                for name, few in batches:
                    if f"{name}.tar" not in there:
                        # as far as it is known which photo it was
                        killed = sum(f"{name}.try{again}" in there for again in ("", "2"))
                        killed += self.batch == 1 and name.endswith("-alone")
                        with self._tried(f"{work}/{name}.try{'2' * (f'{name}.try' in there)}"):
                            reached = killed < MOST_TRIES
                            contents = photos.read(few) if reached else [UserError(KILLER)]
                            self._label_batch(number, f"{work}/{name}.tar", photos, few, contents, label)
                    written.append(f"{work}/{name}.tar")
        finally:
            photos.files.close()
        try:
            lines = self._gathered(number, written)
        except UserError:
            # by another, who was thought dead
            if _index(number) not in self.target.names():
                raise
            lines = list(self.lines([number]))
        else:
            self.target.write(_index(number), b"".join(map(_line, lines)))
        self.target.remove([work], folder=True)
        return Done(number, len(lines), tuple(line for line in lines if "error" in line))

    def _opened(self, part: Part, work: str, there: set[str]) -> Photos:
        """The part's photos; a shard that killed its process twice while it was opened is none's."""
        if is_shard(part[0]) and there <= {"open-1.try", "open-2.try"}:
            if len(there) == 2:
                reason = UserError("its process was killed twice while it was opened", file=part[0])
                return Photos.none(part[0], reason)
            with self._tried(f"{work}/open-{len(there) + 1}.try"):
                return open_part(part)
        return open_part(part)

    @contextmanager
    def _tried(self, mark: str) -> Iterator[None]:
        """A block that leaves a mark where its process is killed, or it ends well."""
        self.target.mark(mark)
        try:
            yield
        except Exception:
            # a store or a disk: nothing is wrong with the photos
            with suppress(UserError):
                self.target.remove([mark])
            raise

    def _label_batch(
        self,
        number: int,
        name: str,
        photos: Photos,
        places: list[int],
        contents: Sequence[Content],
        label: Callable[[str, Path | bytes], bytes],
    ) -> None:
        """Write a tar of the batch's label maps and lines."""
        lines, maps = [], []
        for place, content in zip(places, contents, strict=True):
            line = {"photo": photos.names[place]}
            try:
                if isinstance(content, UserError):
                    raise content
                png = label(line["photo"], content)
            except UserError as error:
                line["error"] = str(error)
            else:
                # where this cannot be written, no other photo's labels can: nothing is wrong with the photo
                stem = PurePosixPath(line["photo"].rpartition("::")[2]).stem[:LONGEST_STEM]
                line["labels"] = f"{place:05}_{stem}.png"
                maps.append((line["labels"], png))
                if self.label_maps == "tar":
                    line["tar"] = f"labels-{number:05}.tar"
                else:
                    line["labels"] = f"labels-{number:05}/{line['labels']}"
                    self.target.write(line["labels"], png)
            lines.append(line)
        with self.target.whole(name) as file, _tar(file) as tar:
            for each, png in maps if self.label_maps == "tar" else []:
                _add(tar, each, png)
            _add(tar, LINES, b"".join(map(_line, lines)))

    def _gathered(self, number: int, batches: list[str]) -> list[dict[str, Any]]:
        """The lines of a part; its label maps are brought into one tar."""
        lines: list[dict[str, Any]] = []

        def members() -> Iterator[tuple[str, bytes]]:
            for name, content in zip(batches, self.target.read(batches), strict=True):
                with (
                    foreign(f"{self.target.address}/{name}", fix=AFRESH),
                    tarfile.open(fileobj=BytesIO(content)) as batch,
                ):
                    for member in batch:
                        file = batch.extractfile(member)
                        assert file is not None
                        if member.name == LINES:
                            lines.extend(map(json.loads, file.read().splitlines()))
                        else:
                            yield member.name, file.read()

        if self.label_maps == "tar":
            with self.target.whole(f"labels-{number:05}.tar") as file, _tar(file) as tar:
                for name, png in members():
                    _add(tar, name, png)
        else:
            # the label maps lie in the folder already
            for name, _ in members():
                raise AssertionError(name)
        return lines


def _index(number: int) -> str:
    return f"labels-{number:05}.jsonl"


def _is_result(name: str) -> bool:
    return re.fullmatch(r"labels-\d{5,}\.(jsonl|tar)", name) is not None


def _line(line: dict[str, Any]) -> bytes:
    return f"{json.dumps(line, ensure_ascii=False)}\n".encode(errors=NO_UTF8)


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, BytesIO(content))

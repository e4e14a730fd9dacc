"""A job in shards: which photos each has, what is done, and what is written. No engine is asked for here.

    TARGET/labels-00000.tar      label maps of shard 0, indexed PNGs named by number and photo
    TARGET/labels-00000.jsonl    a line for each of its photos: where its labels are, or why it has none
    TARGET/.job/                 the photos of each shard, and what its worker has done so far; gone when all is done

A shard is done when its .jsonl is there, which is written last. Work may be done twice, by a worker that was thought
dead: both write the same, and whole files alone are looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab.errors import UserError
from deeplab.system.reading import beginning, foreign, plain_file, read_bytes
from deeplab.system.writing import Appended, remove_remains, whole_file, write_whole

# of a photo that takes its process with it
MOST_TRIES = 2
# with a number before it, and four bytes a character, what file systems take
LONGEST_STEM = 60
AFRESH = "remove it and its folder .job, or name another folder"
KILLER = f"its process was killed {MOST_TRIES} times while it was labelled"


@dataclass(frozen=True)
class Job:
    """Photos, cut into shards, in a target folder.

    Attributes:
        target: where everything is written.
        count: of shards.
    """

    target: Path
    count: int

    @classmethod
    def planned(cls, photos: Sequence[Path], target: Path, *, shard_size: int, about: dict[str, Any]) -> Job:
        """The job of these photos, begun anew or gone on with.

        Args:
            photos: in an order that stays the same.
            target: made if missing.
            shard_size: photos a shard.
            about: the model and how it labels, JSON values; with other ones nothing can be gone on with.

        Raises:
            UserError: there is another job in the folder, or it cannot be written.
        """
        if shard_size < 1:
            raise UserError(f"--shard-size {shard_size}", allowed="from 1", fix="some thousand")
        digest = hashlib.blake2b(b"\n".join(map(os.fsencode, photos)), digest_size=16).hexdigest()
        key = json.dumps({"photos": digest, "shard size": shard_size, **about}, sort_keys=True)
        job = cls(target, -(-len(photos) // shard_size))
        kept = job._folder / "key"
        if kept.exists() and beginning(kept, len(key) + 1) != key.encode():
            raise UserError(
                "holds a job that is not finished, of other photos, another model or other options",
                fix="finish it with those, remove its folder .job, or name another folder",
                file=target,
            )
        if not kept.exists():
            for number in range(job.count):
                part = photos[number * shard_size : (number + 1) * shard_size]
                write_whole(job._folder / f"{number:05}.json", json.dumps([str(photo) for photo in part]))
                job.index(number).unlink(missing_ok=True)
            write_whole(kept, key)
        return job

    @property
    def _folder(self) -> Path:
        return self.target / ".job"

    def index(self, number: int) -> Path:
        """The lines of a shard; the shard is done if they are there."""
        return self.target / f"labels-{number:05}.jsonl"

    def open_shards(self) -> list[int]:
        """Those that are not done."""
        return [number for number in range(self.count) if not self.index(number).exists()]

    def photos(self, number: int) -> list[Path]:
        """Of a shard."""
        path = self._folder / f"{number:05}.json"
        with foreign(path, fix=AFRESH):
            return [Path(name) for name in json.loads(read_bytes(path))]

    def lines(self) -> Iterator[dict[str, Any]]:
        """Of all shards that are done, one at a time."""
        for number in range(self.count):
            if self.index(number).exists():
                with foreign(self.index(number), fix=AFRESH), plain_file(self.index(number)) as file:
                    yield from map(json.loads, file)

    def finish(self) -> None:
        """Nothing of it is open: forget the way there."""
        shutil.rmtree(self._folder, ignore_errors=True)
        remove_remains(self.target)

    def label_shard(self, number: int, label: Callable[[Path], bytes]) -> None:
        """Label a shard's photos, from where a worker before stopped.

        A photo that cannot be read has its reason in its line. One that kills its process is tried again once, as the
        process may have been killed for something else.

        Args:
            number: of the shard.
            label: makes a label map's PNG of a photo.
        """
        work = self._folder / f"{number:05}"
        work.mkdir(exist_ok=True)
        with foreign(work / "ledger", fix=AFRESH):
            done, tries = _kept(work / "ledger")
        ledger = Appended(work / "ledger")
        try:
            for place, photo in enumerate(self.photos(number)):
                if place in done:
                    continue
                line: dict[str, Any] = {"place": place, "photo": str(photo)}
                if tries[place] >= MOST_TRIES:
                    line["error"] = KILLER
                else:
                    # a line begins behind one that was cut off
                    ledger.write(f'\n{{"trying": {place}}}\n')
                    try:
                        content = label(photo)
                    except UserError as error:
                        line["error"] = str(error)
                    else:
                        # where this cannot be written, no other photo's labels can: nothing is wrong with the photo
                        name = f"{place:05}_{photo.stem[:LONGEST_STEM]}.png"
                        write_whole(work / name, content)
                        line |= {"labels": name, "tar": f"labels-{number:05}.tar"}
                ledger.write(f"\n{json.dumps(line, ensure_ascii=False)}\n")
                done[place] = line
        finally:
            ledger.close()
        lines = [done[place] for place in sorted(done)]
        with (
            whole_file(self.target / f"labels-{number:05}.tar") as file,
            tarfile.open(fileobj=file, mode="w") as tar,
        ):
            for line in lines:
                if "labels" in line:
                    member = tarfile.TarInfo(line["labels"])
                    with (work / line["labels"]).open("rb") as content_file:
                        member.size = (work / line["labels"]).stat().st_size
                        tar.addfile(member, content_file)
        for line in lines:
            del line["place"]
        write_whole(
            self.index(number), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        )
        shutil.rmtree(work, ignore_errors=True)


def _kept(path: Path) -> tuple[dict[int, dict[str, Any]], Counter[int]]:
    """What a ledger says: lines of photos by place, and how often each was begun; what was cut off is left out."""
    done: dict[int, dict[str, Any]] = {}
    tries: Counter[int] = Counter()
    if path.exists():
        for text in read_bytes(path).decode(errors="replace").split("\n"):
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if "trying" in line:
                tries[line["trying"]] += 1
            else:
                done.setdefault(line["place"], line)
    return done, tries

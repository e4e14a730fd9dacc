"""A worker in a process of its own, which some photos kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from deeplab.cluster.inputs import Part
from deeplab.cluster.shards import Job

# labels a part in a process of its own, and writes down each photo that it begins; "kill" takes the process with it,
# "once" at the first try alone
WORKER = """
import os, signal, sys
from pathlib import Path
from deeplab.cluster.shards import Job
from deeplab.errors import UserError
from deeplab.system.stores import Folder

target, batch, number, begun, part = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:]

def label(name, photo):
    photo = Path(name.rpartition("::")[2].removesuffix(".jpg"))
    with begun.open("a") as file:
        file.write(photo.name + "\\n")
    if photo.name == "kill" or (photo.name == "once" and begun.read_text().split().count("once") == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if photo.name == "broken":
        raise UserError("no photo", file=photo)
    return photo.name.encode()

Job(Folder(target), batch=batch).label_part(number, part, label)
"""


def killed_again_and_again(job: Job, number: int, part: Part, begun: Path) -> int:
    """As an engine does: again, as long as the process dies; how often it died."""
    for deaths in range(9):
        words = [sys.executable, "-c", WORKER, job.target.address, job.batch, number, begun, *part]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run(list(map(str, words)), env=environment).returncode
        if ended == 0:
            return deaths
        assert ended == -signal.SIGKILL
    raise AssertionError("a photo kills its process without end")

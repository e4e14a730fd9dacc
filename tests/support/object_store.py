"""An object store of this machine that answers as S3 does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest

ACCESS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3() -> Iterator[Any]:
    """fsspec's file system of a store with the bucket `photos`; this process and those that it starts go there."""
    pytest.importorskip("s3fs", reason="S3 is the extra stores")
    server = pytest.importorskip("moto.server", reason="it stands in for S3").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    server.start()
    before = dict(os.environ)
    _, port = server.get_host_and_port()
    # what a server of this process held before is still there
    urlopen(Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")).close()
    os.environ |= ACCESS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        store = s3fs.S3FileSystem()
        store.mkdir("photos")
        yield store
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        os.environ.clear()
        os.environ.update(before)
        server.stop()

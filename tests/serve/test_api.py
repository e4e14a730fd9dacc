"""The API as a client meets it: what `deeplab predict` writes, refusals in its sentences, and nobody waits for ever."""

from __future__ import annotations

import base64
import errno
import gzip
import io
import json
import socket
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.servers import noise, png, serving, until

pytest.importorskip("fastapi")

from deeplab import Segmenter
from deeplab.data.layouts.run_lengths import coco_runs, from_runs
from deeplab.prediction.labelling import Labelling
from deeplab.serve.queue import Busy, Queue

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def server(squares_model: Path) -> Iterator[Any]:
    with serving(squares_model, f"second={squares_model}", pixels=20_000, bytes=200_000) as running:
        yield running


@pytest.fixture
def photo(squares: Path) -> bytes:
    return next(path for path in sorted(squares.rglob("*")) if path.suffix in (".png", ".jpg")).read_bytes()


def refused(reply: Any, status: int, *words: str) -> None:
    assert (reply.status, reply.headers["content-type"]) == (status, PROBLEM)
    assert reply.json["status"] == status and reply.json["title"] and reply.json["type"] == "about:blank"
    assert all(word in reply.json["detail"] for word in words), reply.json


def test_labels_and_overlay_are_the_files_of_predict(
    server: Any, deeplab: Any, squares_model: Path, tmp_path: Path
) -> None:
    photos = [png(noise(40 + 3 * number, 57, number)) for number in range(8)]
    (tmp_path / "in").mkdir()
    for number, content in enumerate(photos):
        (tmp_path / "in" / f"{number}.png").write_bytes(content)
    options = ("--scales", 0.75, 1, "--flip", "--output-stride", 8)
    deeplab("predict", tmp_path / "in", "-m", squares_model, "-o", tmp_path / "one")
    deeplab("predict", tmp_path / "in", "-m", squares_model, "-o", tmp_path / "many", *options)
    query = {"one": "", "many": "scales=0.75&scales=1&flip=true&output_stride=8"}
    asked = [
        (where, kind, number) for where in query for kind in ("labels", "overlay") for number in range(8)
    ]
    with ThreadPoolExecutor(8) as threads:
        replies = threads.map(
            lambda each: server.client.segment(photos[each[2]], f"output={each[1]}&{query[each[0]]}"), asked
        )
        for (where, kind, number), reply in zip(asked, replies, strict=True):
            assert reply.status == 200, reply.body
            assert reply.body == (tmp_path / where / f"{number}_{kind}.png").read_bytes()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_labels_are_those_of_predict_with_every_engine(
    deeplab: Any, squares_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    for module in (engine, "onnxscript") if engine == "onnxruntime" else (engine,):
        pytest.importorskip(module)
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    photos = [png(noise(40 + 3 * number, 57, number)) for number in range(8)]
    (tmp_path / "in").mkdir()
    for number, content in enumerate(photos):
        (tmp_path / "in" / f"{number}.png").write_bytes(content)
    deeplab("predict", tmp_path / "in", "-m", squares_model, "-o", tmp_path / "out", "--engine", engine)
    with serving(squares_model, how=Labelling(engine=engine)) as server, ThreadPoolExecutor(8) as threads:
        assert server.client.get("/v1/models").json["models"][0]["engine"] == engine
        for number, reply in enumerate(threads.map(server.client.segment, photos)):
            assert reply.body == (tmp_path / "out" / f"{number}_labels.png").read_bytes()


def test_every_output_says_the_same(server: Any, squares_model: Path, photo: bytes) -> None:
    expected = Segmenter(squares_model)(Image.open(io.BytesIO(photo)), probabilities=True)
    assert len(np.unique(expected.labels)) > 1

    def asked(output: str) -> Any:
        reply = server.client.segment(photo, f"output={output}")
        assert reply.status == 200 and reply.headers["x-deeplab-model"] == squares_model.name
        assert reply.headers["x-deeplab-version"] and float(reply.headers["x-deeplab-milliseconds"]) > 0
        return reply

    np.testing.assert_array_equal(Image.open(io.BytesIO(asked("labels").body)), expected.labels)
    lengths = asked("rle").json
    assert tuple(lengths["size"]) == expected.labels.shape
    for each in lengths["classes"]:
        mask = from_runs(coco_runs(each["segmentation"]["counts"]), expected.labels.shape, by_column=True)
        np.testing.assert_array_equal(mask, expected.labels == each["id"])
        assert each["name"] == expected.classes[each["id"]] and each["area"] == mask.sum()
    assert [shape["properties"]["id"] for shape in asked("polygons").json["features"]] == [
        each["id"] for each in lengths["classes"]
    ]
    found = np.load(io.BytesIO(asked("probabilities").body))
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-3)
    shares = asked("shares").json
    assert shares["shares"] == expected.shares and shares["model"] == squares_model.name
    reply = asked("together")
    together = json.loads(gzip.decompress(reply.body))
    assert reply.headers["content-encoding"] == "gzip" and together["shares"] == expected.shares
    labels = np.frombuffer(base64.b64decode(together["labels"]), np.uint8).reshape(expected.labels.shape)
    np.testing.assert_array_equal(labels, expected.labels)
    confidence = np.frombuffer(base64.b64decode(together["confidence"]), np.uint8) / 255
    np.testing.assert_allclose(confidence, expected.probabilities.max(0).ravel(), atol=3e-3)


FORM = {"content-type": "multipart/form-data; boundary=b"}


def form_of(field: str, photo: bytes) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="my cat.png"\r\n\r\n'
    return head.encode() + photo + b"\r\n--b--\r\n"


def test_a_form_touches_no_disk(squares_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # where the file of a form is written beyond a megabyte, unless it is told otherwise
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    photo = png(noise(600, 700))
    assert len(photo) > 1 << 20
    with serving(squares_model) as server:
        assert server.client.ask("POST", "/v1/segment", form_of("image", photo), FORM).status == 200


def test_a_form_is_a_photo_too(server: Any, photo: bytes) -> None:
    ask = server.client.ask
    assert ask("POST", "/v1/segment", form_of("image", photo), FORM).body == server.client.segment(photo).body
    refused(ask("POST", "/v1/segment", form_of("picture", photo), FORM), 400, "no file 'image'")
    refused(ask("POST", "/v1/segment", photo, FORM), 400, "form cannot be read")
    refused(ask("POST", "/v1/segment", b"x", {"content-type": "multipart/form-data"}), 400)
    broken = form_of("image", photo).replace(photo, b"not a photo")
    refused(ask("POST", "/v1/segment", broken, FORM), 400, "my cat.png: not a picture")


def test_mistakes_end_in_the_commands_sentences(server: Any, photo: bytes, squares_model: Path) -> None:
    ask = server.client.segment
    refused(ask(b""), 400, "the photo: the file is empty")
    refused(ask(b"<svg/>"), 400, "not a picture", "fix: convert it to JPEG or PNG")
    refused(ask(b"\0\0\0\x18ftypheic" + bytes(20)), 400, "HEIC")
    refused(ask(photo[:-30]), 400, "damaged or cut off")
    refused(ask(photo, "model=cat"), 404, "no model 'cat'", f"allowed: {squares_model.name}, second")
    refused(ask(photo, "output=gif"), 422, "output is 'gif'", "'labels'")
    refused(ask(photo, "output_stride=5"), 422, "output_stride is '5'", "8")
    refused(ask(photo, "scales=9"), 422, "scales.0 is '9'")
    refused(ask(photo, "&".join(["scales=1"] * 9)), 422, "scales")
    refused(server.client.get("/cats"), 404, "GET /cats")
    refused(server.client.get("/v1/segment"), 405, "GET /v1/segment")


def test_limits_are_read_from_headers(server: Any) -> None:
    ask = server.client.segment
    refused(ask(png(noise(200, 150))), 413, "200 pixels are 0.03 million", "allowed: 0.02 million")
    assert ask(png(noise(100, 100))).status == 200
    # more pixels for the network: those of a larger scale, and of a smaller stride
    refused(ask(png(noise(100, 100)), "scales=2"), 413, "allowed: 0.005 million")
    refused(ask(png(noise(100, 100)), "output_stride=4"), 413, "allowed: 0.00")
    refused(ask(bytes(300_000)), 413, "300,000 bytes; allowed: 200,000")
    chunks = iter([bytes(1000)] * 300)
    refused(server.client.ask("POST", "/v1/segment", chunks), 413, "more than 200,000 bytes")


def bomb(side: int) -> bytes:
    """A PNG of side * side pixels that is small as a file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(20_000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_bomb_is_not_decoded(server: Any, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    refused(server.client.segment(bomb(side)), 413)


def test_a_full_queue_says_when_to_come_again(squares_model: Path, photo: bytes) -> None:
    with serving(squares_model, queue=3) as server, ThreadPoolExecutor(8) as threads:
        hold = threading.Event()
        blocked = server.shared.queue.computing.submit(hold.wait)
        inside = [threads.submit(server.client.segment, photo) for _ in range(3)]
        until(lambda: server.shared.queue.taken == 3)
        server.shared.queue.mean = 2.0
        first, second = server.client.segment(photo), server.client.segment(photo)
        refused(first, 503, "all 3 places of the queue are taken", "try again in")
        # those sent away come back one after the other
        assert (first.headers["retry-after"], second.headers["retry-after"]) == ("6", "8")
        assert server.client.get("/healthz").status == server.client.get("/readyz").status == 200
        hold.set()
        assert blocked.result() and [each.result().status for each in inside] == [200] * 3
        assert server.client.segment(photo).status == 200
        until(lambda: server.shared.queue.taken == 0)


def test_tickets_that_are_due_come_before_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("deeplab.serve.queue.time.monotonic", lambda: now)
    queue = Queue(4, deadline=1, mean=1)
    queue.taken = 4
    with pytest.raises(Busy) as sent_away:
        queue.place()
    assert sent_away.value.retry_after == 4
    # before it is due, newcomers take what is free
    queue.taken = 3
    queue.place()
    now = 5.0
    with pytest.raises(Busy):
        queue.place()
    queue.taken = 4
    with pytest.raises(Busy) as still:
        queue.place(sent_away.value.ticket)
    assert still.value.ticket == sent_away.value.ticket and still.value.retry_after == 1
    queue.taken = 3
    queue.place(sent_away.value.ticket)
    # used up, and those who do not come are not waited for
    now = 60.0
    queue.place()
    queue.close()


def test_whose_turn_does_not_come_is_told(squares_model: Path, photo: bytes) -> None:
    with serving(squares_model, deadline=0.2) as server:
        hold = threading.Event()
        server.shared.queue.computing.submit(hold.wait)
        refused(server.client.segment(photo), 503, "no turn came within 0.2 s")
        hold.set()
        assert server.client.segment(photo).status == 200


def test_a_client_who_left_is_not_computed_for(
    squares_model: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(squares_model) as server:
        hold = threading.Event()
        server.shared.queue.computing.submit(hold.wait)
        leaving = socket.create_connection(("127.0.0.1", server.client.port))
        leaving.sendall(
            b"POST /v1/segment HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(photo) + photo
        )
        until(lambda: server.shared.queue.computing._work_queue.qsize() == 1)
        monkeypatch.setattr("deeplab.serve.app.label", lambda *of: pytest.fail("computed"))
        leaving.close()
        until(lambda: server.shared.queue.taken == 0)
        hold.set()
        until(lambda: 'status="499"' in server.client.get("/metrics").body.decode())
        monkeypatch.undo()
        assert server.client.segment(photo).status == 200


@pytest.mark.parametrize("start", [b"", b"POST /v1/segment HTTP/1.1\r\nhost: x\r\n"])
def test_half_a_header_is_closed(squares_model: Path, start: bytes) -> None:
    with serving(squares_model, header=0.3) as server:
        for before in (b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.client.port), timeout=20) as silent:
                if before:
                    silent.sendall(before)
                    until(lambda: b"alive" in silent.recv(10_000))
                silent.sendall(start)
                with suppress(ConnectionResetError):
                    assert silent.recv(10) == b""


def test_a_body_that_does_not_come_is_not_waited_for(squares_model: Path) -> None:
    with serving(squares_model, body=0.3) as server:
        with socket.create_connection(("127.0.0.1", server.client.port), timeout=20) as slow:
            slow.sendall(b"POST /v1/segment HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf")
            assert b"408 Request Timeout" in slow.recv(10_000)
        until(lambda: server.shared.queue.taken == 0)


def test_what_a_model_knows_is_told(server: Any, squares_model: Path) -> None:
    found = server.client.get("/v1/models").json
    assert [each["name"] for each in found["models"]] == [squares_model.name, "second"]
    spec = Segmenter(squares_model).predictor.labels
    first = found["models"][0]
    assert [each["name"] for each in first["classes"]] == list(spec.classes)
    assert first["classes"][1]["colour"] == "#" + bytes(spec.palette[1]).hex()
    assert first["version"] == found["models"][1]["version"]
    assert (found["max_pixels"], found["max_bytes"]) == (20_000, 200_000)


def test_counts_are_those_of_the_requests(squares_model: Path, photo: bytes) -> None:
    with serving(squares_model) as server:
        for _ in range(3):
            server.client.segment(photo)
        server.client.segment(b"")
        server.client.get("/invented")
        text = server.client.get("/metrics").body.decode()
    assert 'deeplab_requests_total{path="/v1/segment",status="200"} 3.0' in text
    assert 'deeplab_requests_total{path="/v1/segment",status="400"} 1.0' in text
    assert 'deeplab_requests_total{path="other",status="404"} 1.0' in text
    assert f'deeplab_compute_seconds_count{{model="{squares_model.name}"}} 3.0' in text


def test_a_token_is_asked_for(squares_model: Path, photo: bytes) -> None:
    with serving(squares_model, token="open sesame") as server:
        ask = server.client.segment
        refused(ask(photo), 401, "Authorization: Bearer TOKEN")
        refused(ask(photo, authorization="Bearer wrong"), 401)
        assert ask(photo, authorization="Bearer open sesame").status == 200
        assert [server.client.get(path).status for path in ("/v1/models", "/metrics")] == [401, 401]
        assert [server.client.get(path).status for path in ("/healthz", "/readyz", "/")] == [200] * 3


def test_a_server_that_will_stop_is_not_ready(squares_model: Path, photo: bytes) -> None:
    with serving(squares_model) as server:
        server.shared.draining = True
        refused(server.client.get("/readyz"), 503, "about to stop")
        refused(server.client.segment(photo), 503, "about to stop")
        assert server.client.get("/healthz").status == 200


def test_nothing_is_asked_of_another_host(server: Any) -> None:
    for path in ("/", "/page.css", "/page.js", "/openapi.json"):
        text = server.client.get(path).body.decode()
        assert "https://" not in text and 'src="//' not in text
    assert "default-src 'self'" in server.client.get("/").headers["content-security-policy"]


def test_an_answer_that_is_not_fetched_is_given_up(squares_model: Path) -> None:
    with serving(squares_model, header=0.3, pixels=4_000_000) as server:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(("127.0.0.1", server.client.port))
        photo = png(np.zeros((1200, 1500, 3), np.uint8))
        lazy.sendall(
            b"POST /v1/segment?output=probabilities HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
            % len(photo)
            + photo
        )
        until(lambda: server.server_state.connections)
        until(lambda: not server.server_state.connections)
        lazy.close()

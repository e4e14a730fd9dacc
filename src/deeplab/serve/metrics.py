"""What is counted, in Prometheus' text format."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

# where several processes keep their counts; prometheus_client reads it when it is imported
SHARED = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
OTHER = "other"
# when a count began is of use to nobody here
disable_created_metrics()


class Metrics:
    """Counts of one server, around its application."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "deeplab_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "deeplab_request_seconds",
            "From a request's header to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.computing = Histogram(
            "deeplab_compute_seconds", "The network alone.", ["model"], buckets=SECONDS, registry=registry
        )
        self.pixels = Counter("deeplab_pixels", "Pixels labelled.", ["model"], registry=registry)
        self.inside = Gauge(
            "deeplab_queue_places_taken", "Requests inside.", multiprocess_mode="livesum", registry=registry
        )
        # files are made with the first label of a kind, and not while a request waits
        self.requests.labels(OTHER, "200")
        self.seconds.labels(OTHER)

    def text(self) -> bytes:
        """All counts; those of all processes where there are several, unless somebody removed their folder."""
        registry = self.registry
        if os.path.isdir(os.environ.get(SHARED, "")):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)


class Counted:
    """An application whose requests are counted by path and status.

    Args:
        paths: known ones; the rest is counted as one, as everybody can invent paths.
    """

    def __init__(self, app: Callable[..., Any], metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else OTHER
        start, status = time.perf_counter(), 500

        async def counting(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counting)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

"""What a server counts, for Prometheus. No label holds anything that a request says."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One server's figures.

    Args:
        in_hand: Images accepted and not yet answered.
        waiting: Images in line before the engine.
        ready: Whether it answers.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, in_hand: Callable[[], float], waiting: Callable[[], float], ready: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "medprompt_requests", "Requests answered.", ["endpoint", "status"], registry=self._registry
        )
        self.errors = Counter(
            "medprompt_errors", "Requests refused or failed, by kind.", ["kind"], registry=self._registry
        )
        self.images = Counter("medprompt_images", "Images answered.", registry=self._registry)
        self.detections = Counter("medprompt_detections", "Detections in them.", registry=self._registry)
        self.batches = Histogram(
            "medprompt_batch_images", "Images of a request to the engine.", buckets=SIZES, registry=self._registry
        )
        self.seconds = Histogram(
            "medprompt_request_seconds",
            "From the end of a request's head to the end of its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=self._registry,
        )
        for name, text, value in (
            ("medprompt_images_in_hand", "Images accepted and not yet answered.", in_hand),
            ("medprompt_images_waiting", "Images in line before the engine.", waiting),
            ("medprompt_ready", "1 where the server answers, 0 where not.", ready),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

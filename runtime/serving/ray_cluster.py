"""Ray itself: started on this machine alone, or joined where it runs."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from medprompt.core.errors import EngineError, InputError, in_one_line
from medprompt.runtime.serving.token import is_loopback

LOCAL = "local"
"""Address that starts Ray on this machine alone, on loopback, for this run."""

READ_CPUS = 0.25
"""Share of a core that Ray counts for reading; detection on CPUs counts the rest of each of its threads."""

CONNECT_S = 10
"""Seconds that a cluster has to answer."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_agent_register_timeout_ms": "120000",  # a busy machine needs longer than Ray's own limits to start
    "RAY_raylet_start_wait_time_s": "120",
}
"""Ray tells nobody that it is used, and leaves progress to us."""


@contextmanager
def cluster_of(address: str) -> Iterator[None]:
    """Ray, for as long as the block lasts; a cluster that was there is left as it is.

    Raises:
        EngineError: It does not answer; or it was to be ``LOCAL``, and other machines could reach it.
    """
    os.environ |= {name: value for name, value in QUIET.items() if name not in os.environ}
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {"address": "local", "include_dashboard": False}
        _stay_on_loopback()
    else:
        options |= {"address": address}
        _check_reachable(address)
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises bare ones
        raise _no_answer(address, error) from error
    try:
        if address == LOCAL:
            _check_loopback(ray.util.get_node_ip_address())
        yield
    finally:
        ray.shutdown()


def _stay_on_loopback() -> None:
    """As where Ray has no clusters: all it opens is on 127.0.0.1, and not on the address of the machine."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, of a Ray that may be imported already


def _check_loopback(host: str) -> None:
    if not is_loopback(host):
        raise EngineError(
            "This Ray would listen to other machines.",
            where=f"ray: {LOCAL}",
            expected="127.0.0.1",
            got=host,
            fix="start a cluster yourself, where other machines cannot reach it, and pass ray=auto",
        )


def _check_reachable(address: str) -> None:
    """See whether somebody listens there: Ray itself tries for minutes.

    Raises:
        EngineError: Nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> EngineError:
    return EngineError(
        "Ray does not answer.",
        where=f"ray: {address}",
        expected="the address of a running cluster (`ray start --head` prints it), auto or local",
        got=in_one_line(str(error).strip())[:300],
        fix="start a cluster, open its port for this machine, or pass ray=local",
    )


def resources_of(
    cluster: Mapping[str, float], threads: int | None, workers: int | None
) -> tuple[dict[str, float], int]:
    """What Ray counts for a detector, and how many there are."""
    each, gpus = threads or 1, int(cluster.get("GPU", 0))
    most = gpus or max(1, int(cluster.get("CPU", 1)) // each)
    if (workers or most) not in range(1, most + 1):
        raise InputError(
            "Ray has no room for so many workers.",
            where="workers",
            expected=f"1 … {most}: one a GPU, or else one for each {each} cores",
            got=str(workers),
            fix="ask for fewer, or leave it out",
        )
    return ({"num_gpus": 1} if gpus else {"num_cpus": each * (1 - READ_CPUS)}), workers or most

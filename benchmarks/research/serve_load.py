"""`medprompt serve` under load on one machine, each answer compared with what the detector itself says.

Usage: ``python -m medprompt.benchmarks.research.serve_load BUNDLE IMAGES --out load.json``. It starts servers of its
own on loopback, and takes about three minutes. Client and server share the processor: what the clients cost is part of
the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medprompt.core.detections import Detections
from medprompt.core.errors import MedpromptError, ServerError
from medprompt.core.memory import keep_freed_memory
from medprompt.images.sources import find_images
from medprompt.runtime.detector import Detector
from medprompt.runtime.serving.client import Client
from medprompt.runtime.serving.contract import Found
from medprompt.runtime.serving.pictures import picture_from_bytes

SCALES = (1.0, 0.5, 1.7)
"""The sizes in which each image is sent."""

SAME_PX, SAME_SCORE = 0.01, 1e-5
"""Further apart is another answer: batches may change the last bits of a float32."""


@dataclass
class Server:
    """A server process."""

    words: Sequence[str]
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on the port that it had before, and wait until it is ready."""
        words = [sys.executable, "-m", "medprompt", "serve", *self.words, "--port", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("listening on "):
                self.port = int(line.split(",")[0].rpartition(":")[2])
            if line.startswith("ready:"):
                return
        raise RuntimeError("the server did not start")

    def rss_mib(self) -> float:
        """Resident memory."""
        assert self.process
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024

    def cpu_s(self) -> float:
        """Processor time of the threads there are, to the nanosecond; ``stat`` counts in 10 ms."""
        assert self.process
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((one / "schedstat").read_text().split()[0]) for one in threads) / 1e9

    def end(self, how: int = signal.SIGTERM) -> int:
        """End it, and say its exit code."""
        assert self.process
        self.process.send_signal(how)
        return self.process.wait(90)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Tally:
    """What became of requests."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    max_px: float = 0.0
    max_score: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, found: Found, want: Detections, seconds: float) -> None:
        """Compare an answer."""
        right = found.labels == tuple(one.label for one in want)
        px = float(np.abs(found.boxes_xyxy - want.boxes_xyxy).max(initial=0)) if right else np.inf
        score = float(np.abs(found.scores - want.scores).max(initial=0)) if right else np.inf
        with self.lock:
            self.seconds.append(seconds)
            if px > SAME_PX or score > SAME_SCORE:
                self.wrong += 1
            else:
                self.max_px, self.max_score = max(self.max_px, px), max(self.max_score, score)

    def as_json(self, wall_s: float) -> dict[str, Any]:
        """The figures."""
        cuts = statistics.quantiles(self.seconds, n=100) if len(self.seconds) > 1 else [0.0] * 99
        return {
            "answers": len(self.seconds),
            "wrong": self.wrong,
            "lost": self.lost,
            "errors": dict(self.errors),
            "max_difference_px": self.max_px,
            "max_difference_score": self.max_score,
            "answers_per_s": round(len(self.seconds) / wall_s, 3),
            "p50_s": round(cuts[49], 3),
            "p99_s": round(cuts[98], 3),
        }


def contents_of(folder: Path, count: int) -> list[bytes]:
    """Encoded images of mixed sizes and formats."""
    contents = []
    for place, path in enumerate(find_images([folder])[:count]):
        image = Image.open(path).convert("RGB")
        scale, stream = SCALES[place % len(SCALES)], BytesIO()
        image.resize((round(image.width * scale), round(image.height * scale))).save(stream, ("JPEG", "PNG")[place % 2])
        contents.append(stream.getvalue())
    return contents


def plain_loop(detector: Detector, contents: Sequence[bytes], seconds: float) -> float:
    """Images a second, one after another: decode, detect."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        detector(picture_from_bytes(contents[count % len(contents)]).pixels)
        count += 1
    return count / (time.perf_counter() - began)


@contextmanager
def clients(
    server: Server, contents: Sequence[bytes], wanted: Sequence[Detections], tally: Tally, count: int
) -> Iterator[threading.Event]:
    """So many clients that ask again as soon as they are answered, until the event; then they are waited for."""
    stop = threading.Event()

    def ask(first: int) -> None:
        client, place = Client(server.url, timeout_s=300), first
        while not stop.is_set():
            began = time.perf_counter()
            try:
                (found,) = client.detect([contents[place % len(contents)]])
            except ServerError as error:
                with tally.lock:
                    tally.errors[f"status {error.status}" if error.status else "connection"] += 1
                time.sleep(0.2)
            except MedpromptError:
                tally.lost += 1
            else:
                tally.judge(found, wanted[place % len(contents)], time.perf_counter() - began)
            place += 7

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(300)
        tally.lost += sum(thread.is_alive() for thread in threads)


def loaded(server: Server, contents: Sequence[bytes], wanted: Sequence[Detections], args: Any) -> dict[str, Any]:
    """The figures of a steady load."""
    tally, memory, began = Tally(), [], time.perf_counter()
    cpu_s, own_s = server.cpu_s(), time.process_time()
    with clients(server, contents, wanted, tally, args.clients):
        while time.perf_counter() - began < args.seconds:
            time.sleep(1)
            memory.append(round(server.rss_mib(), 1))
    wall_s = time.perf_counter() - began
    cpu_s, own_s = server.cpu_s() - cpu_s, time.process_time() - own_s
    half = len(memory) // 2
    return {
        **tally.as_json(wall_s),
        "wall_s": round(wall_s, 1),
        "server_cpu_s": round(cpu_s, 1),
        "clients_cpu_s": round(own_s, 1),
        "rss_mib_of_second_quarter": statistics.median(memory[half // 2 : half]),
        "rss_mib_of_last_quarter": statistics.median(memory[half + half // 2 :]),
        "rss_mib_at_most": max(memory),
    }


def killed(server: Server, contents: Sequence[bytes], wanted: Sequence[Detections], args: Any) -> dict[str, Any]:
    """The same while the server is killed, and started again."""
    tally, began = Tally(), time.perf_counter()
    with clients(server, contents, wanted, tally, 16):
        time.sleep(8)
        code = server.end(signal.SIGKILL)
        before = len(tally.seconds)
        time.sleep(2)
        server.start()
        time.sleep(12)
    found = tally.as_json(time.perf_counter() - began)
    return {"exit_code": code, "answers_before": before, **found}


def overhead(server: Server, detector: Detector, contents: Sequence[bytes], rounds: int) -> dict[str, Any]:
    """What a request takes more than decode and detect in this process: pairs, in turns, each first as often.

    Milliseconds by the clock, and of processor time of server and client together; ``http_ms`` is a request without
    content on a connection of its own: what no server can save.
    """
    client, cpu_s = Client(server.url), [0.0, 0.0]
    pairs, floor = list[list[float]](), list[float]()
    for place in range(rounds):
        content, times = contents[place // 2 % len(contents)], [0.0, 0.0]
        asks: list[Callable[[], Any]] = [
            lambda content=content: client.detect([content]),  # type: ignore[misc]
            lambda content=content: detector(picture_from_bytes(content).pixels),  # type: ignore[misc]
        ]
        for which in (0, 1) if place % 2 else (1, 0):
            asks[which]()  # so that the processor's caches are its own
            before = server.cpu_s() + time.process_time()
            times[which] = milliseconds(asks[which])
            cpu_s[which] += server.cpu_s() + time.process_time() - before
        pairs.append(times)
        floor.append(milliseconds(client.live))
    least, middle, most = median_and_interval([served - direct for served, direct in pairs])
    return {
        "pairs": rounds,
        "served_ms": round(statistics.median(served for served, _ in pairs), 2),
        "direct_ms": round(statistics.median(direct for _, direct in pairs), 2),
        "overhead_ms": round(middle, 2),
        "overhead_95_ms": [round(least, 2), round(most, 2)],
        "overhead_cpu_ms": round((cpu_s[0] - cpu_s[1]) * 1000 / rounds, 2),
        "http_ms": round(statistics.median(floor), 2),
    }


def milliseconds(ask: Callable[[], Any]) -> float:
    """How long it takes by the clock."""
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1000


def median_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median between the ends of its 95 % interval, from order statistics: no distribution is assumed."""
    ordered, count, below = sorted(values), len(values), 0.0
    for rank in range(count // 2):
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            return ordered[max(0, rank - 1)], statistics.median(ordered), ordered[min(count - 1, count - rank)]
    return ordered[0], statistics.median(ordered), ordered[-1]


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--loop-seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--parts", default="load,kill,overhead")
    parser.add_argument(
        "--threads", type=int, help="of the engine, here and in the server: one fewer leaves the clients one"
    )
    parser.add_argument("--device", default="auto", help="the engine, here and in the server")
    parser.add_argument("--serve", default="", help="further words for medprompt serve")
    args = parser.parse_args()
    keep_freed_memory()  # as the server does: what is compared is the way, not the memory
    contents, figures = contents_of(args.images, 24), dict[str, Any]()
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    server = Server([str(args.bundle), "--device", args.device, *threads, *args.serve.split()])
    with Detector.load(args.bundle, args.device, threads=args.threads) as detector:
        figures["engine"] = detector.choice.device
        wanted = [detector(picture_from_bytes(content).pixels) for content in contents]
        loops = [plain_loop(detector, contents, args.loop_seconds)] if "load" in args.parts else []
        server.start()
        if "overhead" in args.parts:
            figures["overhead"] = overhead(server, detector, contents, args.rounds)
        if "load" in args.parts:
            figures["load"] = loaded(server, contents, wanted, args)
            loops.append(plain_loop(detector, contents, args.loop_seconds))
            figures["plain_loop_per_s"] = [round(one, 3) for one in loops]
            figures["of_plain_loop"] = round(figures["load"]["answers_per_s"] / statistics.mean(loops), 3)
        if "kill" in args.parts:
            figures["kill"] = killed(server, contents, wanted, args)
        figures["exit_code"] = server.end()
    text = json.dumps(figures, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

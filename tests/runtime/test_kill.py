"""A batch that is killed at any moment and resumed ends in the same bytes as one that was left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from medprompt.benchmarks.demo import CHECKPOINT, IMAGES, PROMPTS
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint

COUNT, KILLS = 300, 20


CHILD = """
import sys
from medprompt.cli import main
from medprompt.runtime import batch

every_15_s = batch.Saving
batch.Saving = lambda save: every_15_s(save, 0.3)
main()
"""
"""``medprompt``, saving often, so that twenty kills fall between different savings of a short batch."""


def start(bundle: Path, images: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["infer", str(bundle), str(images), "--out", str(out), "--device", "ort-cpu", "--threads", "1", *more]
    return subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_twenty_kills_and_a_resume(tmp_path: Path) -> None:
    bundle = bundle_from_checkpoint(
        CHECKPOINT, PROMPTS, tmp_path / "bundle", ExportOptions(images=IMAGES / "bccd", nms_iou=0.5)
    ).path
    folder = tmp_path / "night"
    folder.mkdir()
    smears = [Image.open(path) for path in sorted((IMAGES / "bccd").glob("*.jpg"))]
    for number in range(COUNT):
        smears[number % len(smears)].rotate(number).save(folder / f"{number:03}.png")
    whole, out = tmp_path / "whole.json", tmp_path / "killed.json"
    began = time.monotonic()
    assert start(bundle, folder, whole).wait() == 0
    seconds = time.monotonic() - began
    moments, kills, ended = random.Random(0), 0, 0
    while kills < KILLS or not ended:
        running = start(bundle, folder, out, "--resume")
        if kills < KILLS:
            time.sleep(moments.uniform(0, 3 * seconds / KILLS))  # starting takes a good part of it
            running.send_signal(signal.SIGKILL)
        if running.wait() == -signal.SIGKILL:
            kills += 1
            continue
        assert out.read_bytes() == whole.read_bytes()
        out.unlink()
        ended += 1
    print(f"an undisturbed run {seconds:.0f} s; {kills} kills in {ended} runs")
    # A killed process cannot take its lock's file away; the lock itself is gone with it, as every resume here shows.
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert left <= {".killed.json", ".killed.json.lock"}

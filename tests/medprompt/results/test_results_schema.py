"""The published schema says what the results file is: both are checked against each other, on real results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from medprompt.core.errors import RejectCode
from medprompt.dicom.header import DECODERS
from medprompt.results.schema import RESULTS_VERSION, Results, Status, results_schema
from tests.medprompt.dicom.made import write_dicom

DOCS = Path(__file__).parents[3] / "docs"
SCHEMA = json.loads((DOCS / "results.schema.json").read_text())
ITEM = SCHEMA["$defs"]["ItemRecord"]["properties"]
KINDS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """The part of JSON schema that the file uses."""
    if "$ref" in schema:
        return faults(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], where)
    if "anyOf" in schema:
        tried = [faults(value, one, where) for one in schema["anyOf"]]
        return [] if [] in tried else tried[-1]
    kinds = schema.get("type", [])
    wrong = (
        [] if not kinds or any(KINDS[kind](value) for kind in [kinds] * isinstance(kinds, str) or kinds) else ["type"]
    )
    wrong += ["const"] if "const" in schema and value != schema["const"] else []
    wrong += ["enum"] if "enum" in schema and value not in schema["enum"] else []
    if isinstance(value, str) and "pattern" in schema:
        wrong += [] if re.search(schema["pattern"], value) else ["pattern"]
    found = [f"{where}: {one}" for one in wrong]
    if isinstance(value, list) and "items" in schema:
        found += [fault for n, one in enumerate(value) for fault in faults(one, schema["items"], f"{where}[{n}]")]
    if isinstance(value, dict):
        found += [f"{where}: lacks {name}" for name in schema.get("required", []) if name not in value]
        rest, known = schema.get("additionalProperties", True), schema.get("properties", {})
        for name, one in value.items():
            if name in known or isinstance(rest, dict):
                found += faults(one, known.get(name, rest), f"{where}.{name}")
            elif rest is False:
                found.append(f"{where}: {name} is not known")
    return found


@pytest.fixture
def results(infer: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path) -> dict[str, Any]:
    """One item of each status, and one of each kind of file."""
    study = tmp_path / "study"
    study.mkdir()
    Image.new("RGB", (30, 20), "lightgrey").save(study / "plain.png")
    (study / "text.png").write_text("no image")
    grey = np.full((20, 30), 240, np.uint8)
    write_dicom(study / "one.dcm", grey)
    write_dicom(study / "two.dcm", np.stack([grey, grey]).astype(np.uint16), NumberOfFrames=2)
    return infer(study, "--overlays", tmp_path / "o", "--select", "top:1")[1]


def test_the_published_schema_is_current() -> None:
    """Renewed by ``python -m medprompt.results.schema > docs/results.schema.json``."""
    assert SCHEMA == json.loads(json.dumps(results_schema()))


def test_a_reader_gets_what_was_written(results: dict[str, Any]) -> None:
    read = Results.model_validate_json(json.dumps(results))
    assert read.model_dump(mode="json", exclude_unset=True) == results


def test_real_results_follow_the_schema(results: dict[str, Any]) -> None:
    assert [item["status"] for item in results["items"]] == ["OK"] * 2 + ["REJECTED"] + ["OK_WITH_WARNINGS"] * 2
    assert faults(results, SCHEMA) == []


def test_the_check_can_fail(results: dict[str, Any]) -> None:
    item = results["items"][0]
    for change in ({"status": "FINE"}, {"frame": "1"}, {"sha256": "x"}, {"more": 1}, {"dicom": {}}):
        assert faults(results | {"items": [item | change]}, SCHEMA)
    assert faults(results | {"items": [{name: item[name] for name in item if name != "code"}]}, SCHEMA)


def test_closed_lists_are_those_of_the_code() -> None:
    assert SCHEMA["properties"]["schema_version"]["const"] == RESULTS_VERSION
    assert ITEM["status"]["enum"] == list(get_args(Status))
    assert ITEM["code"]["anyOf"][0]["enum"] == list(get_args(RejectCode))
    decoders = SCHEMA["$defs"]["DicomRecord"]["properties"]["decoder"]["anyOf"][0]["enum"]
    assert set(decoders) == set(filter(None, DECODERS.values()))
    page = (DOCS / "reference" / "item-status.md").read_text()
    for word in (*get_args(Status), *get_args(RejectCode)):
        assert f"| `{word}` |" in page

"""The SBOM: valid by CycloneDX's schema, whole, and the same bytes for the same bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medprompt.bundles.bill import BILL_FILE, list_engine, list_file
from medprompt.bundles.papers import schema_faults
from medprompt.core.manifest import About, AxisRange, CompiledEngine
from medprompt.export.documents.parts import hash_of_files, library_parts, supplier_of
from medprompt.export.documents.sbom import library_versions, sbom_of_folder
from tests.papers import complete_bundle
from tests.runtime.bundles import make_manifest, record

pytest.importorskip("cyclonedx")

ENGINE = CompiledEngine(
    path="engines/a.engine",
    builder="tensorrt",
    builder_version="11.1.0.106",
    gpus=("sm86",),
    system="linux-x86_64",
    precision="fp32",
    model="model.onnx",
    axes={"B": AxisRange(least=1, typical=1, most=1)},
)


def bill_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / BILL_FILE).read_text()))


def part(bill: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in bill["components"] if one["name"] == name]
    return dict(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return complete_bundle(tmp_path / "bundle").path


def test_it_is_valid_and_says_what_the_model_was_made_from(folder: Path) -> None:
    bill = bill_of(folder)
    assert schema_faults(json.dumps(bill)) == ()
    model = part(bill, "test")
    assert (model["type"], model["supplier"]["name"]) == ("machine-learning-model", "A laboratory")
    data = part(bill, "cells:train")
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert (data["hashes"][0]["content"], data["licenses"][0]["license"]["name"]) == ("a" * 64, "MIT")
    assert "Other stains may be missed." in model["modelCard"]["considerations"]["technicalLimitations"]
    assert {"type": "ap50", "value": "0.5000", "slice": "cells"} in model["modelCard"]["quantitativeAnalysis"][
        "performanceMetrics"
    ]


def test_every_library_is_complete_and_so_is_what_it_needs() -> None:
    parts, needs = library_parts(library_versions())
    named = {one["name"]: one for one in parts}
    assert {"torch", "sympy", "huggingface-hub", "pydantic-core", "medprompt", "packaging"} <= named.keys()
    assert "pydantic-core" in needs["pydantic"]
    assert {name for name, one in named.items() if one["scope"] == "excluded"} >= {"torch", "transformers", "sympy"}
    assert {name for name, one in named.items() if one["scope"] == "required"} >= {"medprompt", "numpy", "onnxruntime"}
    assert all(one["licenses"] and one["supplier"]["name"] for one in parts)
    assert len(hash_of_files("numpy")) == 64 and hash_of_files("no-such-package") == ""
    assert supplier_of("torch") == "PyTorch Team"


def test_what_is_not_known_is_said_to_be_so(tmp_path: Path) -> None:
    bill = bill_of(complete_bundle(tmp_path / "bare", about=About()).path)
    assert schema_faults(json.dumps(bill)) == ()
    model = part(bill, "test")
    assert (model["supplier"]["name"], model["licenses"][0]["license"]["name"]) == ("not stated", "not stated")
    names = {one["name"] for one in bill["metadata"]["properties"]}
    assert names.isdisjoint({"suppliedBy", "informationAboutTraining", "metric"})


def test_equal_bundles_have_equal_bytes_and_others_another_serial_number(tmp_path: Path) -> None:
    one, two, other = (
        bill_of(complete_bundle(tmp_path / name, opset=opset).path) for name, opset in (("1", 20), ("2", 20), ("3", 20))
    )
    assert one == two == other
    changed = bill_of(complete_bundle(tmp_path / "4", intended_use="Something else.").path)
    assert changed["serialNumber"] != one["serialNumber"]


def test_an_engine_brings_what_it_needs_and_what_is_known_against_it(folder: Path) -> None:
    (folder / "engines").mkdir()
    (folder / ENGINE.path).write_bytes(b"engine")
    list_engine(folder, ENGINE)
    list_engine(folder, ENGINE)
    bill = bill_of(folder)
    assert schema_faults(json.dumps(bill)) == ()
    assert bill["version"] == 3
    library, driver = part(bill, "tensorrt"), part(bill, "nvidia-driver")
    assert (library["isExternal"], library["versionRange"]) == (True, "vers:pypi/11.1.0.106")
    assert (driver["type"], driver["isExternal"]) == ("device-driver", True)
    assert "version" not in library
    found = {one["id"]: one for one in bill["vulnerabilities"]}
    assert {"tensorrt-4837", "tensorrt-4813", "torch-tensorrt-4074"} <= found.keys()
    assert found["tensorrt-4813"]["affects"][0]["ref"] == library["bom-ref"]
    graph = {edge["ref"]: edge["dependsOn"] for edge in bill["dependencies"]}
    assert {library["bom-ref"], driver["bom-ref"], f"file:{ENGINE.path}"} <= set(graph["bundle"])
    exported = sbom_of_folder(folder, make_manifest(engines=(record("fake").model_copy(update={"compiled": ENGINE}),)))
    assert part(exported, "tensorrt") == library


def test_an_older_sbom_still_takes_files(tmp_path: Path) -> None:
    old = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": []}
    (tmp_path / BILL_FILE).write_text(json.dumps(old))
    (tmp_path / "note.md").write_text("x")
    list_file(tmp_path, tmp_path / "note.md")
    bill = bill_of(tmp_path)
    assert [one["name"] for one in bill["components"]] == ["note.md"]
    assert "vulnerabilities" not in bill

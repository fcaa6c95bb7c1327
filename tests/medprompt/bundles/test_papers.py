"""Papers of a bundle: reports bound by its hash, a valid SBOM, and every gap found by ``verify --strict``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medprompt.bundles.attached import attach_report, attached_index, attached_reports, index_of
from medprompt.bundles.bill import BILL_FILE
from medprompt.bundles.load import Bundle, bundle_hash, load_bundle, write_manifest
from medprompt.bundles.papers import paper_faults, schema_faults
from medprompt.bundles.signing import make_key_pair
from medprompt.core.errors import BundleError, InputError
from medprompt.core.outputs import folder_written_aside
from tests.papers import ABOUT, DATA, accuracy_report, complete_bundle
from tests.shared import Cli

pytest.importorskip("cyclonedx")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return complete_bundle(tmp_path / "bundle")


@pytest.fixture
def attached(bundle: Bundle, tmp_path: Path) -> Bundle:
    attach_report(bundle, accuracy_report(bundle, tmp_path / "accuracy.json"))
    return bundle


def test_an_attached_report_changes_neither_the_hash_nor_what_is_loaded(attached: Bundle, tmp_path: Path) -> None:
    assert bundle_hash(attached.path) == attached.sha256
    write_manifest(attached.path, attached.manifest)  # what makes a bundle anew leaves reports out
    assert load_bundle(attached.path).sha256 == attached.sha256
    ((_, entry, content),) = attached_reports(attached)
    assert (entry.kind, content["bundle_sha256"]) == ("accuracy", attached.sha256)
    attach_report(attached, tmp_path / "accuracy.json")
    assert len(attached_index(attached.path).reports) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"bundle_sha256": "0" * 64, "matching": {}, "sets": []}, "another bundle"),
        ({"matching": {}, "sets": []}, "no report about a bundle"),
        ({"bundle_sha256": "0" * 64}, "no report about a bundle"),
        ({"bundle_sha256": 3, "kind": "prompts"}, "no report about a bundle"),
        ([], "no report about a bundle"),
        (None, "cannot be read"),
    ],
    ids=["foreign", "no hash", "no kind", "hash of no text", "a list", "no JSON"],
)
def test_a_report_that_is_none_of_this_bundle_is_refused(
    bundle: Bundle, tmp_path: Path, content: object, problem: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text("no JSON" if content is None else json.dumps(content))
    with pytest.raises(InputError, match=problem):
        attach_report(bundle, path)
    assert not index_of(bundle.path).exists()


def test_a_bundle_with_attached_reports_is_still_replaced_as_ours(attached: Bundle) -> None:
    with folder_written_aside(attached.path, "a bundle", force=True) as folder:
        (folder / "new").touch()
    assert (attached.path / "new").exists()


def test_complete_papers_have_no_fault(attached: Bundle) -> None:
    assert paper_faults(attached) == ()


def changed_report(bundle: Bundle) -> None:
    (path,) = (bundle.path / "attached").glob("accuracy-*.json")
    path.write_text(path.read_text() + "\n")


def without_card(bundle: Bundle) -> None:
    (bundle.path / "MODEL_CARD.md").unlink()
    write_manifest(bundle.path, bundle.manifest)


def with_a_file_more(bundle: Bundle) -> None:
    (bundle.path / "note.md").write_text("x")
    write_manifest(bundle.path, bundle.manifest)


def with_a_broken_bill(bundle: Bundle) -> None:
    bill = json.loads((bundle.path / BILL_FILE).read_text())
    bill["components"][0]["colour"] = "red"
    (bundle.path / BILL_FILE).write_text(json.dumps(bill))
    write_manifest(bundle.path, bundle.manifest)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (changed_report, "changed since it was attached"),
        (without_card, "MODEL_CARD.md is missing"),
        (with_a_file_more, "does not list note.md"),
        (with_a_broken_bill, "colour"),
    ],
)
def test_each_gap_is_found(attached: Bundle, damage: Callable[[Bundle], None], fault: str) -> None:
    damage(attached)
    assert any(fault in one for one in paper_faults(load_bundle(attached.path)))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"intended_use": " "}, "the intended use: blank"),
        ({"about": ABOUT.model_copy(update={"supplier": ""})}, "the supplier of the weights: blank"),
        ({"about": ABOUT.model_copy(update={"licence": ""})}, "the licence of the weights: blank"),
        ({"about": ABOUT.model_copy(update={"limitations": ()})}, "what is known to go wrong (limitations): blank"),
        ({"about": ABOUT.model_copy(update={"data": ()})}, "the data sets of the weights: blank"),
        (
            {"about": ABOUT.model_copy(update={"data": (DATA.model_copy(update={"licence": ""}),)})},
            "data set cells:train, licence: blank",
        ),
        ({}, "no accuracy report is attached"),
    ],
)
def test_each_blank_is_found(tmp_path: Path, changes: dict[str, object], fault: str) -> None:
    assert fault in paper_faults(complete_bundle(tmp_path / "bundle", **changes))


def test_the_schema_of_an_unknown_version_is_no_pass() -> None:
    assert schema_faults('{"bomFormat": "CycloneDX", "specVersion": "9.9"}') != ()
    assert schema_faults('{"bomFormat": "CycloneDX", "specVersion": "1.7", "components": [{}]}') != ()


def test_verify_strict_needs_the_signature_of_what_is_attached_too(attached: Bundle, tmp_path: Path, cli: Cli) -> None:
    private, public = tmp_path / "k.pem", tmp_path / "k.pub.pem"
    make_key_pair(private, public)
    strict = ("verify", attached.path, "--device", "fake", "--strict")
    assert cli(*strict)[0] == 2  # without a key nothing is proven
    code, _, error = cli(*strict, "--key", public)
    assert (code, "not signed" in error) == (2, True)
    assert cli("sign", attached.path, "--private-key", private)[0] == 0
    code, _, error = cli(*strict, "--key", public)
    assert "papers complete" in error, error  # the bundle has no golden images: that is another matter
    other = accuracy_report(attached, tmp_path / "better.json", device="ort-cpu")
    assert cli("bundle", "attach", attached.path, other)[0] == 0
    code, _, error = cli(*strict, "--key", public)
    assert (code, "signature of the file does not hold" in error) == (2, True)


def test_a_gap_ends_verify_strict_with_1(bundle: Bundle, tmp_path: Path, cli: Cli) -> None:
    private, public = tmp_path / "k.pem", tmp_path / "k.pub.pem"
    make_key_pair(private, public)
    cli("sign", bundle.path, "--private-key", private)
    code, _, error = cli("verify", bundle.path, "--strict", "--key", public)
    assert (code, "no accuracy report is attached" in error) == (1, True)


def test_a_damaged_index_is_refused(attached: Bundle) -> None:
    index_of(attached.path).write_text("{")
    with pytest.raises(BundleError, match="index of attached reports is damaged"):
        attached_reports(attached)

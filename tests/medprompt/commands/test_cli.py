"""The command line as its users meet it: exit codes, one clear message, nothing half-written."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medprompt.bundles.load import load_bundle
from medprompt.core.manifest import SCHEMA_VERSION
from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint
from medprompt.prompts.file import prompts_from_yaml
from tests.tiny import TINY

PROMPTS = """
classes:
  - label: RBC
    phrases: [red blood cell, {text: pale disc, source: mlm, origin: {model: m, date: "2026-01-31"}}]
  - {label: WBC, phrases: [white blood cell], threshold: 0.1}
"""
MORE = "classes: [{label: P, phrases: [platelet, tiny dot, purple spot, a dot]}]"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, prompts, two images and a bundle: what every command starts from."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "checkpoint").mkdir()
    TINY["owlvit"](folder / "checkpoint")
    (folder / "prompts.yaml").write_text(PROMPTS)
    (folder / "more.yaml").write_text(MORE)
    (folder / "images").mkdir()
    rng = np.random.default_rng(1)
    for n in range(2):
        pixels = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{n}.png")
    bundle_from_checkpoint(
        folder / "checkpoint",
        prompts_from_yaml(folder / "prompts.yaml"),
        folder / "bundle",
        ExportOptions(images=folder / "images"),
    )
    return folder


@pytest.fixture
def run(world, tmp_path, monkeypatch, cli):
    """``run("infer", …) -> (exit code, stdout, stderr)`` in an empty folder, paths of the world by name."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        named = {name: str(world / name) for name in ("checkpoint", "prompts.yaml", "more.yaml", "images", "bundle")}
        return cli(*(named.get(str(word), str(word)) for word in words))

    return call


def test_infer_writes_results_pictures_and_coco(run, tmp_path):
    code, out, _ = run("infer", "bundle", "images", "--out", "r.json", "--overlays", "pictures", "--coco", "c.json")
    assert code == 0
    assert "0.png" in out
    results = json.loads((tmp_path / "r.json").read_text())
    assert [item["status"] for item in results["items"]] == ["OK", "OK"]
    assert results["engine"] in ("ort-cpu", "openvino", "openvino-bf16")
    assert len(json.loads((tmp_path / "c.json").read_text())) == sum(len(i["detections"]) for i in results["items"])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["0.png", "1.png"]


def test_json_on_stdout_is_nothing_but_json(run):
    code, out, _ = run("infer", "bundle", "images", "--json", "--threshold", "0.9")
    assert code == 0
    assert len(json.loads(out)["items"]) == 2


def test_another_bank_serves_without_another_export(run):
    assert run("prompts", "embed", "checkpoint", "--prompts", "more.yaml", "--out", "more.safetensors")[0] == 0
    code, out, _ = run("infer", "bundle", "images", "--prompts", "more.safetensors", "--threshold", "0", "--json")
    assert code == 0
    labels = {row["label"] for item in json.loads(out)["items"] for row in item["detections"]}
    assert labels == {"P"}


def test_banks_merge_and_subset(run):
    run("prompts", "embed", "checkpoint", "--prompts", "prompts.yaml", "--out", "a.safetensors")
    run("prompts", "embed", "checkpoint", "--prompts", "more.yaml", "--out", "b.safetensors")
    both = ("infer", "bundle", "images", "--prompts", "a.safetensors", "--prompts", "b.safetensors", "--json")
    assert [c["label"] for c in json.loads(run(*both)[1])["classes"]] == ["RBC", "WBC", "P"]
    assert [c["label"] for c in json.loads(run(*both, "--labels", "P,RBC")[1])["classes"]] == ["P", "RBC"]


@pytest.mark.parametrize("command", [["inspect", "bundle"], ["verify", "bundle"], ["inspect", "bundle", "--json"]])
def test_looking_at_a_bundle(run, command):
    code, out, _ = run(*command)
    assert code == 0
    assert "hashes ok" in out or "RBC" in out


def test_where_phrases_come_from_reaches_the_bundle(run, world):
    told = json.loads(run("inspect", "bundle", "--json")[1])
    assert told["prompts"]["classes"][0]["phrases"][1]["origin"] == {"model": "m", "date": "2026-01-31"}
    summary = told["prompt_summary"]
    assert (summary["sources"], summary["models"]) == ({"manual": 2, "mlm": 1}, ["m"])
    assert summary["bank_sha256"] == load_bundle(world / "bundle").bank.content_hash()


def test_one_bad_file_of_many_is_reported_and_the_rest_goes_on(run, world, tmp_path):
    shutil.copytree(world / "images", tmp_path / "mixed")
    (tmp_path / "mixed" / "bad.png").write_bytes(b"no image")
    (tmp_path / "mixed" / "zero.jpg").write_bytes(b"")
    code, _, err = run("infer", "bundle", "mixed", "--out", "r.json")
    assert code == 1
    assert "2 of 4" in err
    items = json.loads((tmp_path / "r.json").read_text())["items"]
    assert {item["file"].rsplit("/", 1)[-1]: item["status"] for item in items} == {
        "0.png": "OK",
        "1.png": "OK",
        "bad.png": "REJECTED",
        "zero.jpg": "REJECTED",
    }
    assert all(item["detections"] is None for item in items if item["status"] == "REJECTED")


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_where_nothing_may_be_analysed_the_input_was_bad(run, tmp_path, content):
    """The results are written all the same: who reads them must find the file, and that nothing is known about it."""
    (tmp_path / "bad.png").write_bytes(content)
    code, _, err = run("infer", "bundle", "bad.png", "--out", "r.json")
    assert code == 2
    assert "bad.png" in err
    assert "not_an_image" in err
    (item,) = json.loads((tmp_path / "r.json").read_text())["items"]
    assert (item["status"], item["code"], item["detections"]) == ("REJECTED", "not_an_image", None)


def bad_checkpoint(kind):
    def make(world, folder):
        shutil.copytree(world / "checkpoint", folder / "ckpt")
        weights, config = folder / "ckpt" / "model.safetensors", folder / "ckpt" / "config.json"
        if kind == "no config":
            config.unlink()
        elif kind == "family":
            config.write_text(json.dumps({"model_type": "detr"}))
        elif kind == "pickle":
            weights.rename(folder / "ckpt" / "pytorch_model.bin")
        elif kind == "truncated":
            weights.write_bytes(weights.read_bytes()[:1000])
        return ("export", "ckpt", "--prompts", "prompts.yaml", "--out", "out")

    return make


def bad_prompts(text):
    def make(world, folder):
        (folder / "bad.yaml").write_text(text)
        return ("export", "checkpoint", "--prompts", "bad.yaml", "--out", "out")

    return make


def bad_bundle(kind):
    def make(world, folder):
        shutil.copytree(world / "bundle", folder / "broken")
        model, manifest = folder / "broken" / "model.onnx", folder / "broken" / "manifest.json"
        if kind == "changed byte":
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)
        elif kind == "changed manifest":
            manifest.write_text(manifest.read_text().replace("RBC", "WBC").replace("0.2", "0.3"))
        elif kind == "missing file":
            (folder / "broken" / "prompts.safetensors").unlink()
        elif kind == "newer schema":
            from medprompt.core.files import sha256_of_file

            manifest.write_text(
                manifest.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
            )
            (folder / "broken" / "manifest.sha256").write_text(f"{sha256_of_file(manifest)}  manifest.json\n")
        return ("infer", "broken", "images", "--out", "out")

    return make


def bad_external_data(world, folder):
    """A model whose weights lie outside the bundle, hashed as if all were well."""
    import onnx
    from onnx.external_data_helper import set_external_data

    from medprompt.bundles.load import write_manifest

    shutil.copytree(world / "bundle", folder / "broken")
    manifest = load_bundle(folder / "broken").manifest
    model = onnx.load(folder / "broken" / "model.onnx")
    set_external_data(model.graph.initializer[0], "../outside.bin", 0, 16)
    model.graph.initializer[0].ClearField("raw_data")
    (folder / "broken" / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder / "broken", manifest)
    return ("infer", "broken", "images", "--out", "out")


def foreign_bank(world, folder):
    from dataclasses import replace

    from medprompt.prompts.bank import save_bank

    save_bank(replace(load_bundle(world / "bundle").bank, encoder="another"), folder / "foreign.safetensors")
    return ("infer", "bundle", "images", "--prompts", "foreign.safetensors", "--out", "out")


def words(*command):
    return lambda world, folder: command


LONG = " ".join(["cell"] * 200)
BAD = {
    "no such folder": (words("export", "nowhere", "--prompts", "prompts.yaml", "--out", "out"), ["config.json"]),
    "no config": (bad_checkpoint("no config"), ["config.json"]),
    "unsupported family": (bad_checkpoint("family"), ["detr", "owlvit", "grounding-dino", "omdet-turbo"]),
    "pickle only": (bad_checkpoint("pickle"), ["pickle", "save_pretrained"]),
    "truncated weights": (bad_checkpoint("truncated"), ["cannot be loaded"]),
    "empty phrase": (bad_prompts("classes: [{label: a, phrases: ['']}]"), ["must not be empty"]),
    "duplicate phrase": (bad_prompts("classes: [{label: a, phrases: [x, X]}]"), ["duplicate phrase"]),
    "number as phrase": (bad_prompts("classes: [{label: a, phrases: [7]}]"), ["string"]),
    "over-long phrase": (bad_prompts(f"classes: [{{label: a, phrases: ['{LONG}']}}]"), ["longer", "at most"]),
    "class without phrase": (bad_prompts("classes: [{label: a, phrases: []}]"), ["phrases"]),
    "missing prompts file": (words("export", "checkpoint", "--prompts", "no.yaml", "--out", "out"), ["no.yaml"]),
    "foreign bank": (foreign_bank, ["another text encoder", "medprompt prompts embed"]),
    "missing image": (words("infer", "bundle", "gone.png", "--out", "out"), ["gone.png"]),
    "changed byte": (bad_bundle("changed byte"), ["model.onnx", "sha256"]),
    "changed manifest": (bad_bundle("changed manifest"), ["manifest"]),
    "missing file": (bad_bundle("missing file"), ["prompts.safetensors"]),
    "newer schema": (bad_bundle("newer schema"), ["99"]),
    "external data outside": (bad_external_data, ["outside.bin"]),
    "unknown device": (words("infer", "bundle", "images", "--device", "tpu", "--out", "out"), ["tpu", "ort-cpu"]),
    "bad size": (
        words("export", "checkpoint", "--prompts", "prompts.yaml", "--out", "out", "--image-size", "800x"),
        ["HEIGHTxWIDTH"],
    ),
    "unknown label": (words("infer", "bundle", "images", "--labels", "ghost", "--out", "out"), ["ghost", "RBC"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(run, world, tmp_path, case):
    make, expected = BAD[case]
    command = make(world, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, err = run(*command)
    assert code == 2, err
    assert "Traceback" not in err
    for word in expected:
        assert word in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_device_that_is_not_installed_names_its_extra(run, tmp_path, monkeypatch):
    from medprompt.runtime.engines import openvino

    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    code, _, err = run("infer", "bundle", "images", "--device", "openvino", "--out", "out")
    assert code == 2
    assert "pip install 'onnxruntime" in err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_parity_makes_no_bundle_and_exits_3(run, tmp_path, monkeypatch):
    from medprompt.export.families.owlvit import OwlCore

    honest = OwlCore.detect

    def off_by_a_little(self, features, prompts):
        raw = honest(self, features, prompts)
        return type(raw)(raw.logits + 0.5, raw.boxes_cxcywh)

    monkeypatch.setattr(OwlCore, "detect", off_by_a_little)
    code, _, err = run("export", "checkpoint", "--prompts", "prompts.yaml", "--images", "images", "--out", "out")
    assert code == 3
    assert "core" in err
    assert list(tmp_path.iterdir()) == []


def test_verify_refuses_an_engine_that_decides_otherwise(run, monkeypatch):
    from medprompt.runtime.engines.ort import OnnxRuntime

    honest = OnnxRuntime.run

    def shifted(self, feeds):
        outputs = honest(self, feeds)
        return outputs | {"boxes_xyxy": outputs["boxes_xyxy"] + np.float32(0.2)}

    monkeypatch.setattr(OnnxRuntime, "run", shifted)
    code, _, err = run("verify", "bundle", "--device", "ort-cpu")
    assert code == 3
    assert "decides otherwise" in err


def test_verify_names_the_device_in_json(run):
    code, out, _ = run("verify", "bundle", "--device", "ort-cpu", "--json")
    found = json.loads(out)
    assert (code, found["device"], found["passed"], found["images"]) == (0, "ort-cpu", True, 2)


def test_infer_proves_its_engine_first_when_asked(run):
    code, out, _ = run("infer", "bundle", "images", "--device", "ort-cpu", "--self-test", "--json")
    assert code == 0
    assert "self-test passed: kept 100.00% of" in json.loads(out)["engine_reason"]


def test_infer_refuses_an_engine_that_fails_its_self_test(run, monkeypatch):
    from medprompt.runtime.engines.ort import OnnxRuntime

    honest = OnnxRuntime.run
    monkeypatch.setattr(
        OnnxRuntime,
        "run",
        lambda self, feeds: honest(self, feeds) | {"scores": honest(self, feeds)["scores"] * np.float32(0.5)},
    )
    code, out, err = run("infer", "bundle", "images", "--device", "ort-cpu", "--self-test")
    assert (code, out) == (3, "")
    assert "failed its self-test here" in err
    assert "golden images" in err


def test_the_doctor_sees_the_bundle_and_the_machine(run):
    code, out, _ = run("doctor", "bundle", "--json")
    found = json.loads(out)
    assert (code, found["serves"] in ("ort-cpu", "openvino")) == (0, True)
    assert {entry["device"] for entry in found["engines"]} >= {"ort-cpu", "openvino", "ort-cuda"}
    assert run("doctor")[0] == 0
    assert run("doctor", "images")[0] == 2


@pytest.mark.parametrize(
    "command",
    [
        "export",
        "infer",
        "inspect",
        "verify",
        "set-thresholds",
        "doctor",
        "finetune",
        "init-small",
        "demo",
        "prompts embed",
        "prompts show",
    ],
)
def test_every_command_has_help(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "--help" in out

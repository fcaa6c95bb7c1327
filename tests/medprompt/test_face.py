"""The public names: exactly these, each there and explained, and importing them costs nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from dataclasses import fields
from importlib import import_module, metadata

import pytest

import medprompt
from medprompt.core import moved
from medprompt.runtime.infer import InferOptions

NAMES = {
    *("Detector", "Detections", "Detection", "EngineChoice"),
    *("infer", "Run", "Item"),
    *("import_checkpoint", "export_bundle", "embed_prompts", "compile_engine", "CompileOptions", "finetune"),
    *("verify_bundle", "evaluate_bundle"),
    *("Bundle", "PromptBank", "Prompts", "load_bundle", "load_bank", "load_prompts", "load_image"),
    *("MedpromptError", "InputError", "ImageError", "BundleError", "EngineError", "ParityError"),
    "__version__",
}

TORCH = {"import_checkpoint", "export_bundle", "embed_prompts", "compile_engine", "CompileOptions", "finetune"}
LIGHT = NAMES - TORCH - {"evaluate_bundle"}
"""What does without torch; evaluating and the PyTorch side do not."""


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh Python has loaded after some code."""
    code = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_public_names_are_these() -> None:
    assert set(medprompt.__all__) == NAMES
    assert len(medprompt.__all__) == len(NAMES)
    assert {*medprompt._HOME, "__version__"} == NAMES
    assert set(dir(medprompt)) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_each_is_there_and_explained(name: str) -> None:
    assert len(inspect.getdoc(getattr(medprompt, name)) or "") > 20


def test_the_version_is_that_of_the_package() -> None:
    assert medprompt.__version__ == metadata.version("medprompt")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Detektor'"):
        medprompt.Detektor  # noqa: B018


def test_importing_loads_no_library() -> None:
    assert not modules_after("import medprompt") & {"numpy", "pydantic", "PIL", "torch", "yaml", "typer", "rich"}


def test_the_light_names_load_no_torch() -> None:
    loaded = modules_after(f"from medprompt import {', '.join(sorted(LIGHT))}")
    assert "numpy" in loaded
    assert not loaded & {"torch", "transformers", "onnx", "onnxruntime", "openvino", "pydicom", "typer", "rich"}


def test_subpackages_keep_their_names() -> None:
    assert inspect.ismodule(import_module("medprompt.export"))
    assert inspect.isfunction(medprompt.infer)
    assert inspect.ismodule(import_module("medprompt.runtime.infer"))


def test_the_options_of_infer_are_those_of_its_object() -> None:
    parameters = inspect.signature(medprompt.infer).parameters
    keywords = {name: one.default for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    assert keywords.pop("progress") is None
    assert keywords == {field.name: field.default for field in fields(InferOptions)}


def test_the_options_of_export_are_those_of_its_object() -> None:
    from medprompt.export.bundle import ExportOptions
    from medprompt.export.imported import ImportOptions

    parameters = inspect.signature(medprompt.export_bundle).parameters
    keywords = {name: one.default for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    assert (keywords.pop("progress"), keywords.pop("force")) == (None, False)
    options = {field.name: field.default for field in (*fields(ExportOptions), *fields(ImportOptions))}
    del options["imported"]  # the second object, in the first
    assert keywords == options


@pytest.mark.parametrize(("old", "new"), moved.MODULES.items())
def test_an_old_module_is_the_new_one(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved: import {new}") as caught:
        assert import_module(old) is import_module(new)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package, names in moved.NAMES.items() for name in names]
)
def test_an_old_name_is_the_new_one(package: str, name: str) -> None:
    new = moved.NAMES[package][name]
    with pytest.warns(DeprecationWarning, match=f"{package}.{name} has moved") as caught:
        found = getattr(import_module(package), name)
    assert found is getattr(import_module(new), name)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("package", moved.NAMES)
def test_a_package_has_no_other_names(package: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        import_module(package).nothing  # noqa: B018


def test_new_paths_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from medprompt.images import read, sources

    assert read and sources

"""Open the engine that serves: the first of the order that loads, computes where it should and passes its self-test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from medprompt.bundles.load import Bundle, SegmenterBundle, part_names
from medprompt.core.errors import EngineError, MedpromptError, ParityError
from medprompt.core.manifest import ParityRecord
from medprompt.runtime.engines import engine_class
from medprompt.runtime.engines.base import Engine, ModelSource, refused
from medprompt.runtime.engines.engine_files import check_engine_file
from medprompt.runtime.engines.phrase_chunks import PhraseChunks
from medprompt.runtime.selection.order import EngineChoice, engine_order
from medprompt.runtime.selection.records import display_name
from medprompt.runtime.selection.selftest import describe_self_test, failed_self_test, has_golden


class Loaded(Protocol):
    """What is served: an engine, or several as one."""

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``Engine``."""

    def begin_serving(self) -> None:
        """See ``Engine``."""

    def close(self) -> None:
        """See ``Engine``."""


B = TypeVar("B", bound=Bundle | SegmenterBundle)
E = TypeVar("E", bound=Loaded)

Prove = Callable[[B, E, EngineChoice], ParityRecord]
"""Runs the golden images through a loaded engine."""

Opener = Callable[[B, EngineChoice], E]
"""Loads the model of a bundle on the device of a choice."""


def open_engine(
    bundle: B,
    prove: Prove[B, E],
    opener: Opener[B, E],
    *,
    device: str = "auto",
    strict: bool = False,
    images: int | None = None,
    self_test: bool | None = None,
) -> tuple[E, EngineChoice]:
    """Choose an engine, load it and, where that is due, prove it here. The next in order follows one that fails.

    ``opener`` loads an engine (``open_model``), ``prove`` runs the golden images through it. ``strict`` makes a failure
    to load or to prove final too. ``self_test`` says whether the golden images are run; None: where the engine's parity
    was not measured at export. False serves an engine that nothing has proven. For the others see
    ``medprompt.runtime.selection.order.engine_order``.

    Returns:
        The engine, which the caller closes, and the choice with every reason for a step down.

    Raises:
        EngineError: No engine is left; the text names each with its reason.
        ParityError: All that are left failed their self-test.
        BundleError: A self-test was asked for, and the bundle has no golden images.
    """
    failures: list[tuple[EngineChoice, MedpromptError]] = []
    for choice in engine_order(bundle.manifest, device, strict, images, bundle.path):
        try:
            engine, proved = _load(bundle, choice, prove, opener, self_test)
        except (EngineError, ParityError) as error:
            if strict:
                raise
            failures.append((choice, _without_frames(error)))
            continue
        return engine, _with_fallbacks(proved, failures)
    raise _nothing_left(failures)


def _load(
    bundle: B, choice: EngineChoice, prove: Prove[B, E], opener: Opener[B, E], self_test: bool | None
) -> tuple[E, EngineChoice]:
    engine = opener(bundle, choice)
    try:
        proved = _self_test(bundle, choice, engine, prove, self_test)
        engine.begin_serving()
    except BaseException:
        engine.close()
        raise
    return engine, replace(proved, warnings=(*proved.warnings, *engine.notes))


def _without_frames(error: MedpromptError) -> MedpromptError:
    """The error without the stack it went through, whose frames would keep the engine while the next one is loaded."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def open_model(bundle: Bundle, choice: EngineChoice, *, threads: int | None, at_once: int) -> Engine:
    """The model of a detector's bundle, loaded, or its two parts as one; ``at_once`` is that of ``ModelSource``.

    Raises:
        EngineError: See ``opened_source``; also an engine file that may not be loaded here, or a model that is missing.
    """
    source, most = _source(bundle, choice), bundle.manifest.postprocess.phrases_at_once
    if most is None:
        return opened_source(replace(source, at_once=at_once), choice, threads)
    inputs, parts = bundle.manifest.inputs, _parts(bundle, source)
    if parts is None:
        return PhraseChunks(opened_source(replace(source, plans_memory=False), choice, threads), inputs, most)
    first, second = parts
    image, phrases = opened_pair(first, replace(second, plans_memory=False), choice, threads)
    return PhraseChunks(phrases, inputs, most, image)


def opened_pair(
    first: ModelSource, second: ModelSource, choice: EngineChoice, threads: int | None
) -> tuple[Engine, Engine]:
    """Two models that serve together, loaded, or none of them. Raises as ``opened_source``."""
    with ExitStack() as undo:
        engine = undo.enter_context(opened_source(first, choice, threads))
        both = engine, opened_source(second, choice, threads)
        undo.pop_all()
    return both


def _parts(bundle: Bundle, whole: ModelSource) -> tuple[ModelSource, ModelSource] | None:
    """The two parts of a model, where the bundle has it in parts: older ones have not, nor has every engine file."""
    inputs, compiled = bundle.manifest.inputs, whole.compiled
    image, phrases = part_names(whole.path.name) if compiled is None else (compiled.path, compiled.phrases_path)
    if phrases not in bundle.manifest.files:
        return None
    return (
        replace(whole, path=bundle.path / image, inputs=inputs[:1]),
        replace(whole, path=bundle.path / phrases, inputs=inputs[1:]),
    )


def opened_source(source: ModelSource, choice: EngineChoice, threads: int | None) -> Engine:
    """A loaded engine. Whatever else its library raises is a reason to step down too, never a traceback.

    Raises:
        EngineError: The library refuses the model.
    """
    try:
        return engine_class(choice.device).open(source, threads)
    except MedpromptError:
        raise
    except Exception as error:
        raise refused(choice.device, source.path, error) from error


def _source(bundle: Bundle, choice: EngineChoice) -> ModelSource:
    compiled = choice.record.compiled if choice.record else None
    if compiled is None:
        return ModelSource(_onnx(bundle, choice.device), bundle=bundle.path)
    problem = check_engine_file(bundle.path, bundle.manifest, compiled)
    if problem:
        raise EngineError("The engine file must not be loaded.", where=choice.device, got=problem)
    manifest = bundle.manifest
    return ModelSource(
        bundle.path / compiled.path, compiled, manifest.inputs, bundle.path, preprocess=manifest.preprocess
    )


def _onnx(bundle: Bundle, device: str) -> Path:
    name = engine_class(device).model
    if not name or name in bundle.manifest.files:
        return bundle.path / name if name else bundle.model
    precision = name.removeprefix("model-").removesuffix(".onnx")
    raise EngineError(
        f"The bundle has no model for {device}.",
        where="device",
        expected=name,
        got="none",
        fix=f"export with precision={precision}, or pass device=auto",
    )


def _self_test(bundle: B, choice: EngineChoice, engine: E, prove: Prove[B, E], self_test: bool | None) -> EngineChoice:
    due = not choice.proven if self_test is None else self_test
    if not due:
        return choice
    if self_test is None and not has_golden(bundle.manifest):
        raise EngineError(
            "Nothing proves that this engine decides as PyTorch does.",
            where=choice.device,
            expected="parity measured at export, or golden images in the bundle to test it on",
            got="neither",
            fix="export the bundle again",
        )
    record = prove(bundle, engine, choice)
    if not record.passed:
        raise failed_self_test(choice.device, record)
    return replace(choice, reason=f"{choice.reason}; self-test passed: {describe_self_test(record)}", self_test=record)


def _with_fallbacks(choice: EngineChoice, failures: Sequence[tuple[EngineChoice, MedpromptError]]) -> EngineChoice:
    """Those that failed stand first among the rejected."""
    if not failures:
        return choice
    failed = tuple(_failure(*failure) for failure in failures)
    names = ", ".join(name for name, _ in failed)
    return replace(choice, reason=f"{choice.reason}; after {names} failed here", rejected=(*failed, *choice.rejected))


def _failure(choice: EngineChoice, error: MedpromptError) -> tuple[str, str]:
    name = display_name(choice.record) if choice.record else choice.device
    return name, ": ".join(filter(None, [error.problem.rstrip("."), error.got]))


def _nothing_left(failures: Sequence[tuple[EngineChoice, MedpromptError]]) -> MedpromptError:
    if len(failures) == 1:
        return failures[0][1]
    kind = ParityError if all(isinstance(error, ParityError) for _, error in failures) else EngineError
    return kind(
        "No engine of the bundle can serve here.",
        got="; ".join(f"{name}: {why}" for name, why in (_failure(*failure) for failure in failures)),
        fix="medprompt doctor BUNDLE says what each one lacks",
    )

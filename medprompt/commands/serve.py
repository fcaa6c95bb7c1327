"""``medprompt serve`` and ``triton``: a bundle behind HTTP, and as a model repository of NVIDIA's Triton."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medprompt.commands import common
from medprompt.core.memory import keep_freed_memory

if TYPE_CHECKING:
    from medprompt.runtime.serving.service import Service


def serve(
    bundle: common.BundlePath,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="A bank that requests may name. Repeat for several; the first is the default."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name. The bundle's folder by default.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on. This machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port. 0 takes a free one.")] = 8000,
    token_file: common.TokenFile = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let other machines ask without a token.")] = False,
    device: common.Device = "auto",
    threads: common.Threads = None,
    at_once: Annotated[
        int,
        typer.Option(
            min=1,
            help="Requests that a CPU engine computes at the same time, each with its share of the threads: more "
            "images a second, each answered later.",
        ),
    ] = 1,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse instead of warning: no fallback to a slower engine.")
    ] = False,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Images computed at once. What the engine gains from by default.")
    ] = None,
    max_delay_ms: Annotated[
        float, typer.Option(min=0, help="How long an image may wait for others of its batch, in ms.")
    ] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="Images accepted and not yet answered; more get 503.")] = 256,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 64 << 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = 64_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Images of a request.")] = 64,
) -> None:
    """Serve a bundle over HTTP: the Open Inference Protocol v2, a picture in and results out, and a page.

    It is ready once the engine has passed its self-test. SIGTERM ends it after what was accepted is answered.

    Example: `medprompt serve polyp.bundle --port 8000`

    For other machines: `medprompt serve polyp.bundle --host 0.0.0.0 --token-file token.txt`
    """
    given = locals()
    for module in ("uvicorn", "starlette", "prometheus_client"):
        common.need(module, "medprompt serve", "serve")
    from medprompt.runtime.serving.limits import Limits
    from medprompt.runtime.serving.run import ServeOptions
    from medprompt.runtime.serving.run import serve as serve_bundle
    from medprompt.runtime.serving.token import token_for

    token = token_for(host, token_file, open_to_all=no_token)
    limits = Limits(queue=queue, max_bytes=max_bytes, max_pixels=max_pixels, max_images=max_images)
    read = {"prompts": prompts or (), "name": name or "", "token": token, "limits": limits}
    options: ServeOptions = common.options_of(ServeOptions, given | read)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("medprompt.runtime.serving").setLevel(logging.INFO)
    keep_freed_memory()
    serve_bundle(bundle, options, on_listening=_print_listening, on_ready=_print_ready)


def _print_listening(url: str) -> None:
    print(f"listening on {url}, not ready yet", flush=True)


def _print_ready(service: Service) -> None:
    choice = service.worker.detector.choice
    common.print_warnings(choice.warnings)
    print(f"ready: model {service.name} on {choice.device} ({choice.reason})", flush=True)
    print(service.bundle.manifest.intended_use, flush=True)


Backend = Literal["python", "onnx", "tensorrt"]


def triton(
    bundle: common.BundlePath,
    out: Annotated[Path, typer.Option(help="The repository to make: a folder, Triton's `--model-repository`.")],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            help="A prompt bank that requests may name by its file's name; repeat for several. The first serves where "
            "a request names none. The bundle's own is there as 'bundle'.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(help="What computes: medprompt in Triton's Python backend, or a backend of Triton's.")
    ] = "python",
    name: Annotated[str, typer.Option(help="The model's name. The bundle's by default.", show_default=False)] = "",
    device: common.Device = "auto",
    threads: common.Threads = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Most images in a request.")] = 16,
    link: Annotated[
        bool, typer.Option("--link", help="Name the bundle's folder instead of copying it into the repository.")
    ] = False,
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Write a model repository with which NVIDIA's Triton serves a bundle.

    Triton needs medprompt in the environment of its Python backend; see `medprompt docs triton`. Prove the running
    server with `medprompt verify BUNDLE --url http://HOST:8000`.

    Example: `medprompt triton polyp.bundle --out models/`

    For Triton's own ONNX Runtime: `medprompt triton polyp.bundle --out models/ --backend onnx`
    """
    from medprompt.runtime.serving.triton.repository import write_repository

    made = write_repository(
        bundle,
        out,
        name=name,
        prompts=prompts or (),
        backend=backend,
        device=device,
        threads=threads,
        max_batch=max_batch,
        link=link,
        force=force,
    )
    common.print_warnings(made.warnings)
    if as_json:
        common.print_json({"model": made.name, "banks": made.banks, "bundle_sha256": made.bundle_sha256})
        return
    print(f"{out}: model {made.name}, banks {', '.join(made.banks)}; bundle sha256 {made.bundle_sha256}")

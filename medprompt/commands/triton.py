"""``medprompt triton``: a bundle as a model repository of NVIDIA's Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medprompt.commands import common

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

"""Check what a wheel would install: one top-level package, typing marker, demo, pages; no research, nothing heavy."""

import re
import sys
import zipfile
from pathlib import Path

MAX_BYTES = 20 * 2**20
FORBIDDEN = re.compile(r"/research/|^medprompt/docs/(?!.*\.md$)|(^|/)tests/|\.ipynb$|\.pyc$")
"""Experiments; of the documentation all but pages; tests; notebooks."""


def main(wheel: Path) -> None:
    """Fail with a message where the wheel is not as it should be."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    wrong = {top for top in tops if top != "medprompt" and not top.endswith(".dist-info")}
    if wrong:
        sys.exit(f"the wheel installs top-level names it must not: {sorted(wrong)}")
    needed = [
        "medprompt/py.typed",
        "medprompt/runtime/detector.py",
        "medprompt/runtime/engines/taps.ptx",
        "medprompt/export/families/owlvit.py",
        "medprompt/benchmarks/demo.py",
        "medprompt/demo/checkpoint/model.safetensors",
        "medprompt/demo/prompts.yaml",
        "medprompt/data/registry.yaml",
        "medprompt/demo/images/bccd/labels.json",
        "medprompt/__main__.py",
        "medprompt/docs/index.md",
    ]
    missing = sorted(set(needed) - set(names))
    if missing:
        sys.exit(f"the wheel lacks: {missing}")
    forbidden = [name for name in names if FORBIDDEN.search(name)]
    if forbidden:
        sys.exit(f"the wheel must not have: {forbidden}")
    size = wheel.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"the wheel has {size} bytes, more than {MAX_BYTES}")
    print(f"{wheel.name}: {len(names)} files, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

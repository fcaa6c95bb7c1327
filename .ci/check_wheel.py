"""Check what a wheel would install: one top-level package, the typing marker, the demo, and nothing heavy."""

import sys
import zipfile
from pathlib import Path

MOST_BYTES = 20 * 2**20


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
        "medprompt/export/families/owlvit.py",
        "medprompt/benchmarks/demo.py",
        "medprompt/demo/checkpoint/model.safetensors",
        "medprompt/demo/prompts.yaml",
        "medprompt/data/registry.yaml",
        "medprompt/demo/images/bccd/labels.json",
    ]
    missing = sorted(set(needed) - set(names))
    if missing:
        sys.exit(f"the wheel lacks: {missing}")
    size = wheel.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"the wheel has {size} bytes, more than {MOST_BYTES}")
    print(f"{wheel.name}: {len(names)} files, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

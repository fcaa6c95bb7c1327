"""Export the demo checkpoint for the torch-free run, as a user would."""

import sys
from importlib.resources import files
from pathlib import Path

from medprompt.export.bundle import ExportOptions, bundle_from_checkpoint

demo = Path(str(files("medprompt") / "demo"))
report = bundle_from_checkpoint(
    demo / "checkpoint", demo / "prompts.yaml", Path(sys.argv[1]), ExportOptions(images=demo / "images")
)
print(f"{report.path}: {report.seconds:.0f} s")

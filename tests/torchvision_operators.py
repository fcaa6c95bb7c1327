"""A pytest plugin (``-p tests.torchvision_operators``) for a torchvision whose compiled operators do not load."""

from __future__ import annotations

from medprompt.benchmarks.research.processor_pixels import load_torchvision

load_torchvision()

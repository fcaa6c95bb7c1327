"""The torch-free side: a bundle in, detections out. Knows engines, not model families."""

from medprompt.runtime.detector import Detector
from medprompt.runtime.prompting import detect_by_best, detect_in_groups
from medprompt.runtime.select import EngineChoice, choose_engine

__all__ = ["Detector", "EngineChoice", "choose_engine", "detect_by_best", "detect_in_groups"]

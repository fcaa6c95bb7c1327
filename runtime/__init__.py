"""The torch-free side: a bundle in, detections out. Knows engines, not model families."""

from medprompt.runtime.detector import Detector
from medprompt.runtime.selection.order import EngineChoice, choose_engine
from medprompt.runtime.strategies import detect_by_best, detect_in_groups

__all__ = ["Detector", "EngineChoice", "choose_engine", "detect_by_best", "detect_in_groups"]

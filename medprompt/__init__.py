"""medprompt: open-vocabulary medical detectors, from PyTorch to proven, torch-free detection."""

from medprompt.core.detections import Detections
from medprompt.core.errors import MedpromptError

__version__ = "0.1.0"
__all__ = ["Detections", "MedpromptError", "__version__"]

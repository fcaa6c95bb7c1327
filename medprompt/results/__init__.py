"""What a run found: written, converted, resumed, drawn."""

from medprompt.core.moved import moved_names

__getattr__ = moved_names(__name__)

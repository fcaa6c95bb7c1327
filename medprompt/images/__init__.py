"""Images in: read, checked, resized."""

from medprompt.core.moved import moved_names

__getattr__ = moved_names(__name__)

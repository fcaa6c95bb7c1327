"""DICOM structured reports (TID 1500): written from results, and read back."""

from medprompt.core.moved import moved_names

__getattr__ = moved_names(__name__)

"""DICOM structured reports (TID 1500): written from results, and read back."""

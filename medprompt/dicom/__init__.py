"""DICOM files in: which frames, which pixels, and a record of how they were made; structured reports out and back.

The only room that uses pydicom and highdicom.
"""

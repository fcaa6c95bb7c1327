"""DICOM files in: which frames, which pixels, and a record of how they were made. The only room that uses pydicom."""

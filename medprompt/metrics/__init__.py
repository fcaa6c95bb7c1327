"""Figures of detections against labels, in numpy alone: FROC, precision and recall, calibration, intervals."""

"""The words that every room shares: detections, boxes, errors, manifest, progress, files."""

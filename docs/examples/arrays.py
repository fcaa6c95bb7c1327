"""A batch of numpy arrays, such as frames of a camera: python arrays.py polyp.bundle."""

import sys

import numpy as np

import medprompt
from medprompt.core.convert import coco_records, supervision_fields

(bundle,) = sys.argv[1:]
noise = np.random.default_rng(0)
# uint8, height x width x RGB; sizes may differ
frames = [noise.integers(0, 256, (height, 320, 3), dtype=np.uint8) for height in (240, 200)]
with medprompt.Detector.load(bundle) as detector:
    for number, found in enumerate(detector(frames), start=1):
        print(f"frame {number}: {len(found)} boxes, float32 {found.boxes_xyxy.shape}")
        print("  as COCO:", coco_records(found, image_id=number)[:1])
        print("  as supervision takes them:", sorted(supervision_fields(found)))

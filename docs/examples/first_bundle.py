"""Export the demo checkpoint, detect, look at the boxes: python first_bundle.py OUT/ (needs [export,cpu])."""

import sys
from pathlib import Path

import medprompt

demo, out = Path(medprompt.__file__).parent / "demo", Path(sys.argv[1])
checkpoint, prompts, images = demo / "checkpoint", demo / "prompts.yaml", demo / "images" / "bccd"
report = medprompt.export_bundle(checkpoint, prompts=prompts, images=images, out=out / "demo.bundle")
with medprompt.Detector.load(report.path, labels=["RBC", "WBC", "Platelets"]) as detector:
    found = detector(images / "BloodImage_00104.jpg")
for detection in found:
    print(detection.label, round(detection.score, 2), detection.box_xyxy)
found.plot().save(out / "boxes.png")
medprompt.infer(report.path, images, out=out / "results.json")

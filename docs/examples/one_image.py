"""One image: python one_image.py polyp.bundle frame.png."""

import sys

import medprompt

bundle, image = sys.argv[1:]
with medprompt.Detector.load(bundle) as detector:
    print(f"engine {detector.choice.device}: {detector.choice.reason}")
    found = detector(image)
for one in found:
    print(f"{one.label}  {one.score:.2f}  {one.box_xyxy}  because of {one.phrase!r}")
if not len(found):
    print("nothing found")

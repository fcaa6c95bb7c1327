"""One image: python one_image.py polyp.bundle frame.png."""

import sys

from medprompt.images.read import load_image
from medprompt.runtime import Detector

bundle, image = sys.argv[1:]
with Detector.load(bundle) as detector:
    print(f"engine {detector.choice.device}: {detector.choice.reason}")
    found = detector(load_image(image))
for row in found.rows():
    print(f"{row['label']}  {row['score']:.2f}  {row['box_xyxy']}  because of {row['phrase']!r}")
if not len(found):
    print("nothing found")

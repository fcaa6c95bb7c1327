"""Other prompts for a finished bundle: python swap_prompts.py polyp.bundle more.safetensors frame.png.

`medprompt prompts embed` makes the bank, once, on a machine with PyTorch. Here nothing is encoded or rebuilt.
"""

import sys

from medprompt.bundles.load import load_bundle
from medprompt.images.read import load_image
from medprompt.prompts.bank import load_bank
from medprompt.runtime import Detector

bundle, bank, image = sys.argv[1:]
loaded, other, pixels = load_bundle(bundle), load_bank(bank), load_image(image)
for name, prompts in {"the bundle's": loaded.bank, "other": other}.items():
    with Detector.load(loaded, prompts=prompts) as detector:
        labels = [row["label"] for row in detector(pixels).rows()]
    print(f"{name} prompts ({prompts.content_hash()[:16]}): {', '.join(labels) or 'nothing found'}")

"""Other prompts for a finished bundle: python swap_prompts.py polyp.bundle more.safetensors frame.png.

`medprompt prompts embed` makes the bank, once, on a machine with PyTorch. Here nothing is encoded or rebuilt.
"""

import sys

import medprompt

path, more, image = sys.argv[1:]
bundle = medprompt.load_bundle(path)
for name, prompts in {"the bundle's": bundle.bank, "other": medprompt.load_bank(more)}.items():
    with medprompt.Detector.load(bundle, prompts=prompts) as detector:
        labels = [one.label for one in detector(image)]
    print(f"{name} prompts ({prompts.content_hash()[:16]}): {', '.join(labels) or 'nothing found'}")

"""Other prompts for a finished bundle: python swap_prompts.py polyp.bundle more.safetensors frame.png.

`medprompt prompts embed` makes the bank, once, on a machine with PyTorch. Here nothing is encoded or rebuilt.
"""

import sys

import medprompt

bundle, bank, image = sys.argv[1:]
loaded, other = medprompt.load_bundle(bundle), medprompt.load_bank(bank)
for name, prompts in {"the bundle's": loaded.bank, "other": other}.items():
    with medprompt.Detector.load(loaded, prompts=prompts) as detector:
        labels = [one.label for one in detector(image)]
    print(f"{name} prompts ({prompts.content_hash()[:16]}): {', '.join(labels) or 'nothing found'}")

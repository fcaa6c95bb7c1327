"""A folder, some of it broken: python folder.py polyp.bundle frames/ results.json.

"Nothing found" is said only of images that were analysed; the exit code is 1 where one was not. Run again, it analyses
what is new or failed.
"""

import sys

import medprompt

bundle, folder, out = sys.argv[1:]
run = medprompt.infer(bundle, folder, out=out, resume=True)
for item in run.items:
    if item.detections is None:
        print(f"{item.name}: {item.status} {item.code or ''}: nothing is known about it")
    else:
        print(f"{item.name}: {item.status}: {item.counts()} {'; '.join(item.warnings)}")
sys.exit(1 if run.failed else 0)

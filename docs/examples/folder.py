"""A folder, some of it broken: python folder.py polyp.bundle frames/ results.json.

"Nothing found" is said only of images that were analysed; the exit code is 1 where one was not.
"""

import sys
from pathlib import Path

from medprompt.images.read import find_images
from medprompt.images.sources import sources_from_paths
from medprompt.results.run import write_results
from medprompt.runtime import Detector
from medprompt.runtime.batch import infer_images

bundle, folder, out = sys.argv[1:]
with Detector.load(bundle) as detector:
    run = infer_images(detector, sources_from_paths(find_images([folder])))
write_results(run, Path(out))
for item in run.items:
    if item.detections is None:
        print(f"{item.name}: {item.status} {item.code or ''}: nothing is known about it")
    else:
        print(f"{item.name}: {item.status}: {item.counts()} {'; '.join(item.warnings)}")
sys.exit(1 if run.failed else 0)

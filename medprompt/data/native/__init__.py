"""The formats that medical data sets are published in: one file for each, all end in samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from medprompt.data.native.boxes import jobs_from_coco, jobs_from_csv, jobs_from_voc
from medprompt.data.native.masks import jobs_from_instances, jobs_from_masks
from medprompt.data.native.nodules import jobs_from_nodules
from medprompt.data.native.sample import Job
from medprompt.data.native.volumes import jobs_from_volumes
from medprompt.data.registry import KnownSet, Native, Part

Converter = Callable[[KnownSet, Path, Part], list[Job]]

CONVERTERS: Mapping[Native, Converter] = {
    "masks": jobs_from_masks,
    "instances": jobs_from_instances,
    "voc": jobs_from_voc,
    "coco": jobs_from_coco,
    "csv": jobs_from_csv,
    "nodules": jobs_from_nodules,
    "volumes": jobs_from_volumes,
}
"""For a set, its folder and a split: what is to be read, one job an image or volume.

They raise ``DataError`` where files are missing or damaged or hold what the set is not known to have, and
``EngineError`` where a package of the extra ``data`` is not installed.
"""

"""AP of a family in PyTorch, through the canonical graph, before there is any bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medprompt.accuracy import measure_accuracy
from medprompt.data import DetectionSet
from medprompt.detections import Detections
from medprompt.export.embed import bank_from_prompts
from medprompt.export.families.base import Family
from medprompt.export.graph import DetectionGraph, input_specs
from medprompt.images import load_image
from medprompt.manifest import Postprocess
from medprompt.preprocess import box_scale, resize_on_host
from medprompt.prompts.assemble import prompt_inputs
from medprompt.prompts.bank import PromptBank
from medprompt.prompts.file import PromptClass, Prompts

MAX_DETECTIONS = 300


def evaluate_family(family: Family, prompts: Prompts, sets: Sequence[DetectionSet]) -> dict[str, Any]:
    """Measure AP on labelled sets, each with the first phrase of its own classes.

    Returns:
        ``{"ap/NAME": …, "ap50/NAME": …, "ap50/NAME/LABEL": …}``, rounded to 4 digits.
    """
    row: dict[str, Any] = {}
    for labelled in sets:
        chosen = _first_phrases(prompts, labelled.labels)
        bank = bank_from_prompts(family, chosen)
        accuracy = measure_accuracy(labelled, detect(family, bank, labelled))
        name = labelled.name.replace("\\", "/").rsplit("/", 2)[-1 if ":" in labelled.name else -2].split(":")[0]
        row |= {f"ap/{name}": round(accuracy.ap, 4), f"ap50/{name}": round(accuracy.ap50, 4)}
        row |= {f"ap50/{name}/{label}": round(value, 4) for label, value in accuracy.ap50_by_label.items()}
    return row


def _first_phrases(prompts: Prompts, labels: Sequence[str]) -> Prompts:
    wanted = {label.casefold() for label in labels}
    classes = tuple(
        PromptClass(label=entry.label, phrases=entry.phrases[:1])
        for entry in prompts.classes
        if entry.label.casefold() in wanted
    )
    return Prompts(classes=classes)


@torch.no_grad()
def detect(family: Family, bank: PromptBank, labelled: DetectionSet) -> list[Detections]:
    """Run the canonical graph in PyTorch on every image, without a threshold."""
    specs = input_specs(family)
    preprocess = family.preprocess()
    core = family.core()
    feeds = {name: torch.from_numpy(array) for name, array in prompt_inputs(bank, specs).items()}
    graph: DetectionGraph | None = None
    found = []
    for entry in labelled.images:
        source = load_image(entry.path)
        image = torch.from_numpy(np.array(resize_on_host(source, preprocess))[None])
        if graph is None:
            queries = core(_pixels(image, preprocess), feeds).boxes_cxcywh.shape[1]
            post = Postprocess(top_k=min(MAX_DETECTIONS, queries), labels_per_query=family.labels_per_query)
            graph = DetectionGraph(core, specs, preprocess, post).eval()
        boxes, scores, class_ids, phrase_ids = graph(image, *(feeds[spec.name] for spec in specs[1:]))
        scale = np.array(box_scale(source.shape[:2], preprocess) * 2, dtype=np.float32)
        found.append(
            Detections(
                boxes[0].numpy() * scale,
                scores[0].numpy(),
                class_ids[0].numpy(),
                phrase_ids[0].numpy(),
                bank.labels,
                bank.prompts.texts,
                source.shape[:2],
            )
        )
    return found


def _pixels(image: torch.Tensor, preprocess: Any) -> torch.Tensor:
    from medprompt.export.graph import Normalise

    pixels: torch.Tensor = Normalise(preprocess)(image)
    return pixels

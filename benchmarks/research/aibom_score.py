"""How complete is a bundle's SBOM by the field list of the OWASP AIBOM Generator?

The list is that of ``src/models/field_registry.json`` and the rule that of ``src/models/scoring.py`` of
GenAI-Security-Project/aibom-generator (commits 0311348 and 4a28740): a field counts where it is there; a category gives
its points times the share of its fields; what lacks several important fields is marked down. Fields of language models
(vocabulary, context length, attention heads …), of quantised files and of one region's laws are in the list and count
as missing here. ``--told`` counts what a bundle says is "not stated" as missing too; ``--old`` takes the list of 2025.

    python -m medprompt.benchmarks.research.aibom_score BUNDLE [--told] [--old]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medprompt.bundles.bill import BILL_FILE

POINTS = {
    "required_fields": 20,
    "metadata": 20,
    "component_basic": 20,
    "component_model_card": 30,
    "external_references": 10,
}

FIELDS_2025 = {
    "required_fields": "bomFormat*** specVersion*** serialNumber*** version***",
    "metadata": "primaryPurpose*** suppliedBy*** standardCompliance* domain* autonomyType*",
    "component_basic": "name*** type** purl** description** licenses**",
    "component_model_card": "energyConsumption** hyperparameter** technicalLimitations** safetyRiskAssessment** "
    "typeOfModel** modelExplainability* energyQuantity* energyUnit* informationAboutTraining* "
    "informationAboutApplication* metric* metricDecisionThreshold* modelDataPreprocessing* "
    "useSensitivePersonalInformation*",
    "external_references": "downloadLocation***",
}
"""The 29 fields of the tool's "AI SBOM Fields Mapping Reference" of 2025, likewise."""

FIELDS = {
    "required_fields": "bomFormat*** specVersion*** serialNumber*** version***",
    "metadata": "primaryPurpose*** suppliedBy*** standardCompliance* domain* autonomyType* "
    "africanDeploymentJurisdictions** ndpaCompliance* nfiuAmlCompliance* popiaCompliance* kdpaCompliance* "
    "gdpaCompliance* regulatoryContactPoint*",
    "component_basic": "name*** type*** component_version*** purl** description** licenses** external_references*",
    "component_model_card": "datasets** ethicalConsiderations** energyConsumption** hyperparameter** "
    "technicalLimitations** safetyRiskAssessment** intendedUse** typeOfModel** modelExplainability* energyQuantity* "
    "energyUnit* informationAboutTraining* informationAboutApplication* metric* metricDecisionThreshold* "
    "modelDataPreprocessing* useSensitivePersonalInformation* vocab_size* tokenizer_class* context_length* "
    "embedding_length* block_count* attention_head_count* attention_head_count_kv* feed_forward_length* "
    "rope_dimension_count* quantization_version* quantization_file_type* model_file_size* runtime_requirement*",
    "external_references": "paper* vcs* website* downloadLocation**",
}
"""Fields by category; stars: critical, important, supplementary."""

PLACES = {
    "component_version": "version",
    "typeOfModel": "modelCard.modelParameters.modelArchitecture",
    "datasets": "modelCard.modelParameters.datasets",
    "primaryPurpose": "modelCard.modelParameters.task",
    "suppliedBy": "supplier.name",
    "ethicalConsiderations": "modelCard.considerations.ethicalConsiderations",
    "technicalLimitations": "modelCard.considerations.technicalLimitations",
    "model_file_size": "owasp:aibom:distribution:modelFileSize",
    "runtime_requirement": "owasp:aibom:distribution:runtimeRequirement",
    "external_references": "externalReferences",
    "intendedUse": "modelCard.considerations.useCases",
}
"""Where a field lies in the model's component, or the property that it is, if not under its own name."""

REFERENCES = {"paper": "documentation", "vcs": "vcs", "website": "website", "downloadLocation": "distribution"}


def score(bill: Mapping[str, Any], told: bool = False, old: bool = False) -> tuple[float, list[str]]:
    """The score of 100, and the fields that are missing; ``told``: what is said to be not stated is missing."""
    missing: list[str] = []
    total = 0.0
    for category, listed in (FIELDS_2025 if old else FIELDS).items():
        fields = listed.split()
        lacking = [field for field in fields if not _present(bill, field.rstrip("*"), told)]
        total += round(POINTS[category] * (1 - len(lacking) / len(fields)), 1)
        missing += lacking
    critical = sum(field.endswith("***") for field in missing)
    important = sum(field.endswith("**") and not field.endswith("***") for field in missing)
    factor = 0.8 if critical > 3 else 0.9 if critical >= 2 else 1.0
    return round(total * factor * (0.95 if important >= 5 else 1.0), 1), missing


def _present(bill: Mapping[str, Any], field: str, told: bool) -> bool:
    model = bill["components"][0]
    card = model.get("modelCard", {})
    properties = [one for part in (bill["metadata"], model, card) for one in part.get("properties", [])]
    names = (field, PLACES.get(field, field))
    value = next((one["value"] for one in properties if one["name"] in names), None) or bill.get(field)
    if field in REFERENCES:
        value = [one for one in model.get("externalReferences", []) if one["type"] == REFERENCES[field]]
    elif value is None:
        value = model
        for key in PLACES.get(field, field).split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
    return bool(value) and not (told and "not stated" in json.dumps(value))


def main() -> None:
    """Print the score of a bundle's SBOM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--told", action="store_true")
    parser.add_argument("--old", action="store_true", help="the 29 fields of 2025")
    asked = parser.parse_args()
    value, missing = score(json.loads((asked.bundle / BILL_FILE).read_text(encoding="utf-8")), asked.told, asked.old)
    print(f"{value} of 100; missing: {', '.join(field.rstrip('*') for field in missing)}")


if __name__ == "__main__":
    main()

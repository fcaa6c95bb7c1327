"""Values of a prompts file, without the file."""

import pytest

from medprompt.prompts.schema import STORED, Prompts


def test_names_of_a_stored_bank_are_not_judged_again():
    raw = {"classes": [{"label": "RBC", "phrases": ["x"]}, {"label": "rbc", "phrases": ["x."]}]}
    with pytest.raises(ValueError, match=r"classes\.1\.label: duplicate label: it is 'RBC'"):
        Prompts.model_validate(raw)
    assert Prompts.model_validate(raw, context=STORED).texts == ("x", "x.")


def test_a_round_trip_through_json_values():
    prompts = Prompts.model_validate({"classes": [{"label": "a", "phrases": ["x", {"text": "y", "source": "mlm"}]}]})
    assert Prompts.model_validate(prompts.model_dump(mode="json")) == prompts

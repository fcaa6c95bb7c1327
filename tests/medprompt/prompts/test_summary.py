from medprompt.prompts.summary import prompt_summary
from tests.runtime.bundles import make_bank


def test_sources_and_models_are_counted():
    told = {"source": "hybrid", "origin": {"model": "m2, m1", "attributes": {"color": {"value": "red", "model": "m1"}}}}
    bank = make_bank(
        [
            {"label": "a", "phrases": [{"text": "red cell", **told}, "pale disc"]},
            {"label": "b", "phrases": [{"text": "white cell", "source": "mlm", "origin": {"model": "m3"}}]},
        ]
    )
    summary = prompt_summary(bank)
    assert summary.model_dump(exclude={"bank_sha256"}) == {
        "classes": 2,
        "phrases": 3,
        "sources": {"hybrid": 1, "manual": 1, "mlm": 1},
        "models": ("m1", "m2", "m3"),
    }
    assert summary.bank_sha256 == bank.content_hash()

import inspect

import pytest

from medprompt.core import errors

TYPES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.MedpromptError)]


def test_the_message_says_expected_got_where_and_what_to_do():
    error = errors.BankError("Wrong bank.", expected="encoder a", got="encoder b", where="x.safetensors", fix="embed")
    text = str(error)
    assert text.splitlines()[0] == "Wrong bank."
    for part in ("expected: encoder a", "got:      encoder b", "where:    x.safetensors", "do:       embed"):
        assert part in text


@pytest.mark.parametrize("kind", TYPES)
def test_every_error_is_drawn_in_the_tree_and_has_an_exit_code(kind):
    assert kind.__name__ in (errors.__doc__ or "")
    expected = {"MedpromptError": 1, "ParityError": 3, "NoVerdictError": 4}.get(kind.__name__, 2)
    assert kind.exit_code == expected


def test_a_missing_extra_names_the_command():
    assert "pip install 'medprompt[cpu]'" in str(errors.missing_extra("Running", "onnxruntime", "cpu"))

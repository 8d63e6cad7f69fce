"""An explanation as a person reads it."""

from pathlib import Path

import pytest

from pdp.core.explanation.text import render
from tests.core.explanation.test_explain import explanations
from tests.decision_cases import load

FOLDER = Path(__file__).parent / "rendered"
CASES = {case.name.partition(":")[0]: case for case in load(FOLDER)}


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_explanation_reads_as_it_should(name: str) -> None:
    """Word for word as in the file beside the case."""
    *_, explanation = explanations(CASES[name])
    assert render(explanation) == (FOLDER / f"{name}.txt").read_text("utf-8")

"""Every attack at once with honest callers: short here, an hour by `make hostile`."""

from pathlib import Path

from tests.hostile.attacks import ATTACKS
from tests.hostile.campaign import campaign

SECONDS = 0.5
AT_ONCE = 7


async def test_no_attack_changes_an_answer_hides_a_decision_or_leaves_a_traceback(tmp_path: Path) -> None:
    """Under each attack: right answers, probes that pass, a record of each decision, clean logs."""
    names = list(ATTACKS)
    rounds = [names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE)]
    account = await campaign(tmp_path, rounds, SECONDS, kills=False)
    assert account.findings == []
    assert account.attacks == len(ATTACKS)

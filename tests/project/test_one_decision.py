"""What the decision of one action touches, from the bytes of its request to those of its answer.

The table of one decision in `docs/architecture.md` tells the same in words.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import compiled
from benchmarks.peers import rule
from pdp.endpoints.connect import Context
from pdp.serving.requests import Peer
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench

ROOT = Path(__file__).parents[2]
DECIDING = ("pdp/core/", "pdp/registry/")
MAX_DECIDING = 10
"""Files of the core and of the registry data, into which the procedure goes."""
SHELL = {
    "pdp/endpoints/service.py": {"_evaluate", "at_once"},
    "pdp/wire/plain.py": {"read"},
    "pdp/decision_point.py": {
        "evaluate",
        "_loggable_state",
        "_decide",
        "_agent",
        "_made",
        "_budget_left",
        "_remember",
    },
    "pdp/state.py": {"stale", "staleness"},
    "pdp/counters/counters.py": {"of", "charge"},
    "pdp/wire/answers.py": {"write_answer", "_set_rates"},
    "pdp/metrics.py": {"decided", "add"},
    "pdp/outcomes/ledger.py": {"allow"},
    "pdp/outcomes/open_decisions.py": {"add"},
}
"""What an allow enters of the sidecar outside of these, until its answer is there and its log has it."""


def entered(call: Callable[[], object]) -> dict[str, set[str]]:
    """The functions that a call enters, by the files of the project."""
    found: dict[str, set[str]] = defaultdict(set)

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT / "pdp"):
            found[str(path.relative_to(ROOT))].add(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return dict(found)


def test_an_allow_touches_few_files_each_for_one_purpose() -> None:
    """Nothing is parsed, built or looked up that such a decision does not need, and it never waits."""
    bench = Bench(agents=[rule.AGENT_ID])
    handler: Any = compiled.evaluating(bench)
    raw, context, answers = rule.request(rule.ALLOWED), Context(Peer()), []

    def call() -> None:
        try:
            handler(raw, context).send(None)
        except StopIteration as done:
            answers.append(done.value)

    call()  # what is kept for later answers is made now
    found = entered(call)
    assert [pb.EvaluateResponse.FromString(answer).outcome for answer in answers] == [pb.OUTCOME_ALLOW] * 2
    shell = {path: functions for path, functions in found.items() if not path.startswith(DECIDING)}
    assert shell == SHELL
    assert len(found) - len(shell) <= MAX_DECIDING

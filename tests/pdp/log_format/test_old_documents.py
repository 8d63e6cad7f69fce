"""Records in the old form, JSON documents, become the records of today without a loss."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from pdp.log_format.documents import document, text
from pdp.log_format.old_documents import BadDocumentError, from_json
from pdp.v1 import log_pb2
from tests.deciding import Bench, shown
from tests.given import agent
from tests.pdp.actions import AGENT, actions, by_grpc
from tests.pdp.decision_log.old_logs import FOLDER, documents_of

WRITTEN = documents_of(FOLDER)


def test_the_folder_has_every_kind_of_record() -> None:
    """A sidecar of the earlier version wrote it: every outcome, approvals, repeats, notes, and a gap."""
    decisions = [one for one in WRITTEN if "answer" in one]
    assert {one["answer"]["outcome"] for one in decisions} == {"allow", "block", "require_approval", "escalate"}
    assert any(one["opens"] for one in decisions)
    assert any(one["repeat_of"] for one in decisions)
    assert any(one["answer"]["shadow"] for one in decisions)
    assert {name for one in WRITTEN for name in one} >= {"gap", "outcome", "suspension"}


@pytest.mark.parametrize("written", WRITTEN)
def test_a_document_of_the_earlier_version_is_shown_as_it_was(written: dict[str, Any]) -> None:
    """The record keeps every member and every value."""
    assert document(log_pb2.LogRecord.FromString(from_json(written).SerializeToString())) == written


@settings(max_examples=200, deadline=None)
@given(actions)
def test_any_decision_is_shown_as_it_was(action: dict[str, Any]) -> None:
    """For any action."""
    bench = Bench()
    bench.put(agent(AGENT))
    bench.service.point.evaluate(by_grpc(action))
    written = json.loads(text(shown(bench.log.entries.pop())))
    assert document(from_json(written)) == written


def test_members_that_an_older_version_did_not_write_are_empty() -> None:
    """Versions before the last one knew neither repeats nor pending approvals."""
    whole = next(one for one in WRITTEN if one.get("opens"))
    older = {name: value for name, value in whole.items() if name not in ("repeat_of", "opens", "approval_id")}
    older["answer"] = {name: value for name, value in whole["answer"].items() if name != "approval_pending"}
    assert document(from_json(older)) == whole | {"opens": None}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"gap": {}},
        {"gap": 1},
        {"outcome": {"x": "\ud800"}},
        {"outcome": [1]},
        WRITTEN[0] | {"decided_at": "yesterday"},
        WRITTEN[0] | {"answer": WRITTEN[0]["answer"] | {"outcome": "perhaps"}},
        WRITTEN[0] | {"action": {"risk_score": 2**40}},
        WRITTEN[0] | {"action": {"unknown": 1}},
        WRITTEN[0] | {"cost_micros": None, "latency_seconds": 1e400},
    ],
)
def test_what_is_no_record_is_refused(wrong: dict[str, Any]) -> None:
    """With one type of error, whatever is wrong."""
    with pytest.raises(BadDocumentError, match="is not the document of a record"):
        from_json(wrong)

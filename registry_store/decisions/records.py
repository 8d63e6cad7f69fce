"""The records of a decision log as the store reads them: each is checked singly, and only for what the store needs."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, NamedTuple

from google.protobuf.struct_pb2 import Struct

from pdp.attributes import plain
from pdp.core.action import AGENT_ID
from pdp.core.errors import Problems
from pdp.core.fields import quote
from pdp.log_format.documents import MAX_DEPTH, decision_document
from pdp.v1 import decision_pb2, log_pb2
from registry_store.approvals import requests
from registry_store.approvals.requests import Request
from registry_store.database.columns import EPOCH
from registry_store.decisions import ids, notes
from registry_store.decisions.notes import Note

MAX_SEQUENCE = 2**53
"""Every JSON parser reads whole numbers up to this one exactly."""
MAX_COST_MICROS = 10**15
UNKNOWN_AGENT_REASONS = ("AGENT_NOT_REGISTERED", "REGISTRY_STALE", "INTERNAL_ERROR")
"""Reasons for which a sidecar blocks before it knows the agent."""
MAX_MICROSECONDS = (datetime(9999, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)

Document = dict[str, Any]


class RefusedError(ValueError):
    """The store does not keep the record; the text says why."""


class Decision(NamedTuple):
    """A reported decision. `opens` is the approval that it requests.

    If `repeat_of` is an id, the answer of that decision was returned again, and nothing was counted.
    """

    decision_id: str
    repeat_of: str | None
    decided_at_micros: int
    agent_id: str
    outcome: str
    reason: str
    dry_run: bool
    cost_micros: int
    policy_id: str
    tool: str
    shadows: tuple[str, ...]
    """The outcomes that shadow policies would have had."""
    opens: Request | None
    message: log_pb2.LoggedDecision

    @property
    def decided_at(self) -> datetime:
        """When it was decided, by the sidecar's clock."""
        return EPOCH + timedelta(microseconds=self.decided_at_micros)

    @property
    def document(self) -> Document:
        """The JSON of it."""
        return decision_document(self.message)

    @property
    def risk_score(self) -> int:
        """The effective risk."""
        return self.message.answer.risk_score

    @property
    def is_of_unknown_agent(self) -> bool:
        """Whether the sidecar blocked an agent that it did not know."""
        return self.outcome == "block" and not self.cost_micros and self.reason in UNKNOWN_AGENT_REASONS


class Gap(NamedTuple):
    """A report that the sidecar dropped `records`; those from `first` to `last` had sequences."""

    first: int
    last: int
    records: int

    @property
    def unnumbered(self) -> int:
        """The number of dropped records without a sequence."""
        return max(0, self.records - max(0, self.last - self.first + 1))


Content = Decision | Gap | Note


def read(record: log_pb2.LogRecord) -> Content:
    """The content of a record; `RefusedError` if it cannot be kept."""
    kind = record.WhichOneof("content")
    if kind == "decision":
        return _decision(record.decision)
    if kind == "gap":
        return _gap(record.gap)
    if kind is None:
        raise RefusedError("is of no kind that this store knows")
    return _note(kind, getattr(record, kind))


def _decision(message: log_pb2.LoggedDecision) -> Decision:
    request, answer = message.request, message.answer
    action = request.action
    agent_id, answer_id, repeat_id = action.agent_id, answer.decision_id, message.repeat_id
    decided_at, cost_micros = message.decided_at_microseconds, message.cost_micros
    outcome, reason = _OUTCOMES.get(answer.outcome), _REASONS.get(answer.reason)
    if not (
        _is_agent_id(agent_id)
        and _is_id(answer_id)
        and (not repeat_id or _is_id(repeat_id))
        and outcome is not None
        and reason is not None
        and 0 <= decided_at < MAX_MICROSECONDS
        and 0 <= cost_micros <= MAX_COST_MICROS
        and isfinite(action.amount + action.estimated_cost_usd + answer.staleness)
        and isfinite(answer.budget_remaining_usd + answer.retry_after)
        and answer.source in _SOURCES
    ):
        raise RefusedError(next(_problems_of(message)))
    if action.HasField("attributes") and _may_be_infinite(action.attributes.SerializeToString()):
        _plain(action.attributes, "request.action.attributes")
    if answer.HasField("action_params") and _may_be_infinite(answer.action_params.SerializeToString()):
        _plain(answer.action_params, "answer.action_params")
    shadow = answer.shadow
    if answer.HasField("approval_expires_at"):
        _check_moment(answer.approval_expires_at.seconds)
    return Decision(
        repeat_id or answer_id,
        answer_id if repeat_id else None,
        decided_at,
        agent_id,
        outcome,
        reason,
        request.dry_run,
        cost_micros,
        answer.policy.id,
        action.tool,
        _shadows(shadow) if shadow else (),
        _request(message) if message.HasField("opens") else None,
        message,
    )


def _problems_of(message: log_pb2.LoggedDecision) -> Iterator[str]:
    """What is wrong with a decision that is not kept."""
    action, answer = message.request.action, message.answer
    if not _is_agent_id(action.agent_id):
        yield f"request.action.agent_id: {quote(action.agent_id)} is not {AGENT_ID.what}"
    for name, text in (("answer.decision_id", answer.decision_id), ("repeat_id", message.repeat_id)):
        if not _is_id(text) and (text or name == "answer.decision_id"):
            yield f"{name}: {quote(text)} is not a UUID of version 7 in lower case"
    for name, number, known in (
        ("outcome", answer.outcome, _OUTCOMES),
        ("reason", answer.reason, _REASONS),
        ("source", answer.source, _SOURCES),
    ):
        if number not in known:
            yield f"answer.{name}: `{number}` is unknown to this store"
    if not 0 <= message.decided_at_microseconds < MAX_MICROSECONDS:
        yield f"decided_at_microseconds: `{message.decided_at_microseconds}` is no time"
    if not 0 <= message.cost_micros <= MAX_COST_MICROS:
        yield f"cost_micros: `{message.cost_micros}` is not within 0 to {MAX_COST_MICROS}"
    yield "holds a number that is not finite, or too large"


def _gap(message: log_pb2.LogGap) -> Gap:
    numbers = message.first_sequence, message.last_sequence, message.records
    if not all(0 <= number <= MAX_SEQUENCE for number in numbers):
        raise RefusedError(f"gap: its numbers are not within 0 to {MAX_SEQUENCE}")
    if not 0 <= message.at_microseconds < MAX_MICROSECONDS:
        raise RefusedError(f"gap.at_microseconds: `{message.at_microseconds}` is no time")
    return Gap(*numbers)


def _note(kind: str, members: Struct) -> Note:
    problems = Problems()
    note = notes.read({kind: storable(_plain(members, kind))}, "", problems)
    if note is None:
        raise RefusedError(str(next(iter(problems))))
    return note


def _request(message: log_pb2.LoggedDecision) -> Request | None:
    problems = Problems()
    request = requests.read(storable(decision_document(message)), "", problems)
    if problems:
        raise RefusedError(str(next(iter(problems))))
    return request


def storable(value: Any) -> Any:
    """A JSON value that both databases can store: the symbol of NUL replaces it, which PostgreSQL cannot store."""
    if isinstance(value, str):
        return value.replace("\0", "␀")
    if isinstance(value, Mapping):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


def _plain(members: Struct, path: str) -> Document:
    try:
        return plain(members, MAX_DEPTH)
    except ValueError as error:
        raise RefusedError(f"{path}: {error or 'is nested too deep'}") from None


def _shadows(verdicts: Iterable[decision_pb2.ShadowVerdict]) -> tuple[str, ...]:
    outcomes = []
    for verdict in verdicts:
        if verdict.outcome not in _OUTCOMES:
            raise RefusedError(f"answer.shadow.outcome: `{verdict.outcome}` is unknown to this store")
        outcomes.append(_OUTCOMES[verdict.outcome])
    return tuple(outcomes)


def _check_moment(seconds: int) -> None:
    if not 0 <= seconds < MAX_MICROSECONDS // 1_000_000:
        raise RefusedError(f"answer.approval_expires_at: `{seconds}` is no time")


def _names(enum: Any, prefix: str, *, lower: bool = False) -> dict[int, str]:
    """The names of an enum's values without the prefix, except of that which stands for none."""
    names = {number: name.removeprefix(prefix) for name, number in enum.items() if number}
    return {number: name.lower() for number, name in names.items()} if lower else names


_OUTCOMES = _names(decision_pb2.Outcome, "OUTCOME_", lower=True)
_REASONS = _names(decision_pb2.Reason, "REASON_")
_SOURCES = frozenset(decision_pb2.Source.values())
# The numbers of a Struct are doubles behind the tag 0x11, low bytes first. The exponent of one that is not finite has
# all bits set. To look for such bytes takes a tenth of the time of reading the values.
_may_be_infinite = re.compile(rb"\x11.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL).search
_is_id = re.compile(ids.PATTERN).fullmatch
_is_agent_id = re.compile(str(AGENT_ID.pattern)).fullmatch

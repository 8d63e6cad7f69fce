"""Verification of rows: each decision and outcome of a batch has one, with the values of its record, and no other."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pdp.core.fields import quote
from pdp.log_format import batches as log_format
from registry_store.database.decision_tables import DecisionBatch
from registry_store.decisions import chain, filters, outcomes, records
from registry_store.decisions.notes import Outcome as Ended
from registry_store.decisions.records import Decision as Decided
from registry_store.decisions.records import RefusedError

Values = Mapping[str, Any]


class Expected(NamedTuple):
    """The rows of a batch as its records say, by id of the decision."""

    decisions: dict[str, Values]
    outcomes: dict[str, Values]


class Unreadable(NamedTuple):
    """In place of a row whose values cannot be read."""

    decision_id: str


class Difference(NamedTuple):
    """A row that is not as the records say; `is_missing`: it is not among the rows of its batch."""

    decision_id: str
    what: str
    is_missing: bool = False


def expected(batch: DecisionBatch, content: bytes) -> Expected:
    """The rows of a batch with this content; `ValueError` if it cannot be read."""
    omitted = chain.read(batch.omitted)
    found = Expected({}, {})
    decisions: list[Decided] = []
    positions: list[int] = []
    for position, record in enumerate(log_format.opened(content).records):
        sequence = batch.first_sequence + position
        if sequence in omitted:
            continue
        try:
            one = records.read(record)
        except RefusedError as error:
            raise ValueError(f"record {sequence} {error}") from None
        if isinstance(one, Decided):
            decisions.append(one)
            positions.append(position)
        elif isinstance(one, Ended):
            ended = outcomes.row(one, batch.node_id, sequence, batch.received_at, batch.batch_id)
            found.outcomes[one.decision_id] = dict(zip(outcomes.COLUMNS, ended, strict=True))
    columns = filters.columns(decisions, [batch.batch_id] * len(decisions), positions)
    if columns:
        columns["decided_at"] = [one.decided_at for one in decisions]
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        found.decisions[row["decision_id"]] = row
    return found


def compared(wanted: Mapping[str, Values], rows: Iterable[Any], kind: str) -> Iterator[Difference]:
    """What differs between the rows that a batch has and those that its records say; `kind` names a row."""
    found = {row.decision_id: row for row in rows}
    for decision_id, values in wanted.items():
        row = found.pop(decision_id, None)
        if row is None:
            yield Difference(decision_id, f"{kind} {quote(decision_id)} was deleted", is_missing=True)
        elif changes := list(_changes(values, row)):
            yield Difference(decision_id, f"{kind} {quote(decision_id)} was changed: {', '.join(changes)}")
    for decision_id in found:
        yield Difference(decision_id, f"{kind} {quote(decision_id)} was inserted: no record of its batch has it")


def _changes(values: Values, row: Any) -> Iterator[str]:
    if isinstance(row, Unreadable):
        yield "it cannot be read"
        return
    for name, value in values.items():
        stored = getattr(row, name)
        if name == "position" and stored != value:
            yield f"it was moved from position {value} of its batch to {stored}"
        elif stored != value:
            yield f"`{name}` is {_shown(stored)}, the record says {_shown(value)}"


def _shown(value: Any) -> str:
    return quote(str(value)) if value is not None else "not set"

"""What signed checkpoints say of the logs of decisions: how far each sidecar's chain reached, and was deleted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from registry_store.database.decision_tables import DecisionLog


class Mark(NamedTuple):
    """The chain of a sidecar when a checkpoint was signed: its last batch with its head, and the last deleted one."""

    batches: int
    head: str
    deleted_batches: int
    deleted_head: str

    def is_followed_by(self, later: "Mark") -> bool:
        """Whether the chain can have got from this mark to the later one by receiving and deleting batches.

        A chain that was deleted whole may be forgotten, and begin anew.
        """
        if later.batches < self.batches or later.deleted_batches < self.deleted_batches:
            return self.batches == self.deleted_batches
        if later.deleted_batches == self.deleted_batches and later.deleted_head != self.deleted_head:
            return False
        return later.batches > self.batches or later.head == self.head


def mark_of(log: DecisionLog) -> Mark:
    """The chain of a sidecar as its log says."""
    return Mark(log.batches, log.head, log.deleted_batches, log.deleted_head)


@dataclass(slots=True)
class Signed:
    """The newest mark of a sidecar, of the checkpoint of time `at`.

    `absent_at` is a time at which the batch that was asked for was not received yet; None: there is no such time.
    `set_back_at` is the time of the first checkpoint that does not follow from this one; None: there is none.
    """

    mark: Mark
    at: str
    absent_at: str | None = None
    set_back_at: str | None = None


class Statement(NamedTuple):
    """A checkpoint's marks by sidecar; at the time `since` the store had found the others, and these as before."""

    marks: Mapping[str, Mark]
    at: str
    since: str


def newest(statements: Iterable[Statement], asked: Mapping[str, int]) -> dict[str, Signed]:
    """The newest mark of each sidecar that follows from those before; `asked`: a batch by sidecar, for `absent_at`."""
    found: dict[str, Signed] = {}
    for statement in statements:
        for node_id, mark in statement.marks.items():
            before = found.get(node_id)
            if before is not None and (before.set_back_at or not before.mark.is_followed_by(mark)):
                before.set_back_at = before.set_back_at or statement.at  # it stands, and shows what was done
                continue
            number = asked.get(node_id, 0)
            absent_at = before.absent_at if before is not None else None
            if (before is None or before.mark.batches < number) and mark.batches >= number:
                absent_at = max(statement.since, before.at) if before is not None else statement.since or None
            elif mark.batches < number:
                absent_at = statement.at
            found[node_id] = Signed(mark, statement.at, absent_at)
    return found

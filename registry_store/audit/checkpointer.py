"""Checkpoints while the store runs: new entries of the activity log are verified, signed and saved; logs are signed."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from sqlalchemy import select

from registry_store.audit.chain import Chain, Fault
from registry_store.audit.checkpoints import MAX_ENTRIES, MAX_LOGS, CheckpointFile
from registry_store.audit.marks import Mark, mark_of
from registry_store.database.attempts import Attempts
from registry_store.database.bulk import chunks
from registry_store.database.decision_tables import DecisionLog
from registry_store.database.tables import Activity
from registry_store.database.transactions import Database
from registry_store.documents import instant
from registry_store.journal.activity import following
from registry_store.periodic import repeated

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
LOGS_EVERY = 60
"""The logs of decisions are signed once in so many times: a line has some 200 bytes for each that changed."""


class Checkpointer:
    """Signs the new entries of the log every second, the logs of decisions every minute, and once more at the end.

    A log that was changed is reported once, and no more entries are signed.
    """

    def __init__(self, database: Database, file: CheckpointFile) -> None:
        self._database = database
        self._file = file
        self._attempts = Attempts("taking checkpoints of the activity log", database.outage)
        self.fault: Fault | None = None
        self._marks: dict[str, Mark] = {}
        self._changed: set[str] = set()
        """Sidecars whose logs were set back; they are reported once, and signed no more."""
        self._logs_since = ""
        self._turns = 0

    @property
    def sequence(self) -> int:
        """The sequence of the last signed entry."""
        return self._file.last.sequence

    def running(self) -> AbstractAsyncContextManager[None]:
        """Takes checkpoints until the block exits, and a last one then."""
        return repeated(self._attempt)

    async def catch_up(self) -> None:
        """Signs every unsigned entry."""
        while self.fault is None and (hashes := await self._unsigned()):
            await asyncio.to_thread(self._file.append, hashes, datetime.now(UTC))

    async def sign_logs(self) -> None:
        """Signs the marks of the logs of decisions that changed since the last time."""
        at = datetime.now(UTC)
        async with self._database.reading() as session:
            logs = await session.scalars(select(DecisionLog).where(DecisionLog.batches > 0))
            marks = {log.node_id: mark_of(log) for log in logs}
        for node_id in marks.keys() & self._marks.keys():
            if not self._marks[node_id].is_followed_by(marks[node_id]):
                self._report_changed(node_id)
                marks[node_id] = self._marks[node_id]
        changed = {node_id: mark for node_id, mark in marks.items() if mark != self._marks.get(node_id)}
        for part in chunks(changed.items(), MAX_LOGS):
            await asyncio.to_thread(self._file.append, (), at, dict(part), self._logs_since)
        self._marks, self._logs_since = marks, instant(at)

    def _report_changed(self, node_id: str) -> None:
        if node_id not in self._changed:
            self._changed.add(node_id)
            logger.critical(
                "the log of decisions of sidecar `%s` was changed; run `registry-store verify-decisions`", node_id
            )

    async def _attempt(self, end: asyncio.Event) -> float:
        try:
            await self.catch_up()
            self._turns += 1
            if self.fault is None and (end.is_set() or self._turns % LOGS_EVERY == 1):
                await self.sign_logs()
            self._attempts.worked()
        except Exception as error:
            self._attempts.failed(error)
        return EVERY_SECONDS

    async def _unsigned(self) -> Sequence[str]:
        last = self._file.last
        async with self._database.reading() as session:
            known = await session.scalar(select(Activity.hash).where(Activity.sequence == last.sequence))
            entries = await following(session, last.sequence, MAX_ENTRIES)
        self.fault = self._first_fault(known, entries)
        if self.fault is not None:
            logger.critical("the activity log was changed: %s; run `registry-store verify-log`", self.fault)
            return []
        return [entry.hash for entry in entries]

    def _first_fault(self, known: str | None, entries: Sequence[Activity]) -> Fault | None:
        last = self._file.last
        if last.sequence and known != last.hash:
            how = "is missing" if known is None else "was replaced"
            return Fault(last.sequence, f"{how}: the checkpoint of {last.at} signed this entry")
        chain = Chain(last.sequence, last.hash)
        return next((fault for entry in entries if (fault := chain.take(entry)) is not None), None)

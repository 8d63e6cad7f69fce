"""Checkpoints of the activity log while the store runs: new entries are verified, signed and saved."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from sqlalchemy import select

from registry_store.audit.chain import Chain, Fault
from registry_store.audit.checkpoints import MAX_ENTRIES, CheckpointFile
from registry_store.database.attempts import Attempts
from registry_store.database.tables import Activity
from registry_store.database.transactions import Database
from registry_store.journal.activity import following
from registry_store.periodic import repeated

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0


class Checkpointer:
    """Signs the new entries of the log every second, and once more when the store stops.

    A log that was changed is reported once, and no more entries are signed.
    """

    def __init__(self, database: Database, file: CheckpointFile) -> None:
        self._database = database
        self._file = file
        self._attempts = Attempts("taking checkpoints of the activity log", database.outage)
        self.fault: Fault | None = None

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

    async def _attempt(self, _end: asyncio.Event) -> float:
        try:
            await self.catch_up()
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

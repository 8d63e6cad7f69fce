"""Approvals at the sidecar: taken at the store for the action that they were given for, and waited for.

The store alone says what became of an approval and lets each be used once, so that it holds in whatever pod the agent
runs next, and whatever restarts.
"""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from pdp import wire
from pdp.core.fields import quote
from pdp.core.model import Now
from pdp.sync.backoff import Backoff
from pdp.sync.uplink import AwayError, UnknownApprovalError
from pdp.v1 import decision_pb2 as pdp_pb
from registry_store.v1 import sync_pb2 as pb

MAX_REMEMBERED = 10_000
MAX_WAITING = 1_000
MAX_COMMENT = 4096
PAUSE_FIRST, PAUSE_MAX = 0.02, 2.0
FINAL = (pb.APPROVAL_STATE_APPROVED, pb.APPROVAL_STATE_DENIED, pb.APPROVAL_STATE_EXPIRED, pb.APPROVAL_STATE_USED)

Kept = TypeVar("Kept")


class TooManyWaitingError(Exception):
    """As many calls wait for approvals as may."""


class Verdict(Enum):
    """What comes of an approval that came with a request."""

    GRANTED = "granted"
    MISMATCH = "mismatch"
    NOT_APPROVED = "not approved"


class Given(NamedTuple):
    """An approval that came with a request: what comes of it, in words too, and until when it counts (Unix seconds)."""

    approval_id: str
    verdict: Verdict
    told: str = ""
    expires_at: float = 0.0


class Store(Protocol):
    """What of the store is needed here; `Uplink` has it."""

    async def use_approval(self, request: pb.UseApprovalRequest) -> pb.UseApprovalResponse: ...

    def watch_approval(self, approval_id: str) -> AsyncIterator[pb.Approval]: ...

    async def here(self) -> None: ...


class _Opened(NamedTuple):
    """An approval that was opened here: until when it counts, as reckoned here (Unix seconds and by the boot clock)."""

    agent_id: str
    expires_at: float
    expires_at_boot: float


class _Use:
    """One approval's use by this process, under an id that lets a question without an answer be asked again."""

    __slots__ = ("spent", "use_id")

    def __init__(self) -> None:
        self.use_id = str(uuid.uuid4())
        self.spent = False


class Approvals:
    """The approvals that this sidecar opened, takes and waits for; at most 10,000 are remembered.

    It tells of those of agents that it `serves` alone; any other is to it as if nobody had asked for it.
    """

    def __init__(self, store: Store, clock: Callable[[], Now], serves: Callable[[str], bool]) -> None:
        self._store = store
        self._clock = clock
        self._serves = serves
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self.waiting = 0

    def opened(self, approval_id: str, agent_id: str, expires_at: float) -> None:
        """Note an approval that a decision has just opened, which the store may not know of yet."""
        if approval_id not in self._opened:
            now = self._clock()
            _remember(self._opened, approval_id, _Opened(agent_id, expires_at, now.boot + expires_at - now.wall))

    async def take(self, request: wire.Request) -> Given:
        """What comes of the approval in a request whose action needs one; each is granted once."""
        approval_id = request.approval_id
        if request.dry_run:
            return Given(approval_id, Verdict.NOT_APPROVED, "a dry run uses no approval")
        use = self._uses.get(approval_id) or _remember(self._uses, approval_id, _Use())
        try:
            answer = await self._store.use_approval(_use_request(request, use.use_id))
        except UnknownApprovalError:
            return self._unknown(approval_id)
        except AwayError:
            told = f"the store is away, so approval {quote(approval_id)} cannot be used now"
            return Given(approval_id, Verdict.NOT_APPROVED, told)
        if answer.use == pb.APPROVAL_USE_GRANTED:
            # Two requests may have asked under one use id; nothing awaits from here to the decision.
            if use.spent:
                return Given(approval_id, Verdict.NOT_APPROVED, f"approval {quote(approval_id)} has been used")
            use.spent = True
            return Given(approval_id, Verdict.GRANTED, _said(answer.approval, "approved it"))
        if answer.use == pb.APPROVAL_USE_MISMATCH:
            served = self._serves(answer.approval.agent_id)
            return Given(approval_id, Verdict.MISMATCH) if served else self._unknown(approval_id)
        return Given(approval_id, Verdict.NOT_APPROVED, _told(answer.approval), answer.approval.expires_at)

    def _unknown(self, approval_id: str) -> Given:
        if approval_id in self._opened:
            told = f"approval {quote(approval_id)} is still pending"
            return Given(approval_id, Verdict.NOT_APPROVED, told, self._opened[approval_id].expires_at)
        return Given(approval_id, Verdict.NOT_APPROVED, f"nobody has asked for approval {quote(approval_id)}")

    async def wait(self, approval_id: str) -> AsyncGenerator[pdp_pb.ApprovalUpdate]:
        """The state of an approval and each that follows, through outages of the store, until it is final.

        Raises `UnknownApprovalError` where no agent that is served here has asked for it, `TooManyWaitingError` at
        1,000 at once.
        """
        if self.waiting >= MAX_WAITING:
            raise TooManyWaitingError(f"{MAX_WAITING} calls wait for approvals already")
        self.waiting += 1
        try:
            async for update in self._updates(approval_id):
                yield update
        finally:
            self.waiting -= 1

    async def _updates(self, approval_id: str) -> AsyncIterator[pdp_pb.ApprovalUpdate]:
        told, backoff, silent = 0, Backoff(PAUSE_FIRST, PAUSE_MAX), 1
        while True:
            async for approval in self._seen(approval_id):
                if not self._serves(approval.agent_id):
                    raise UnknownApprovalError(approval_id)
                if approval.state != told:
                    told = approval.state
                    silent = 1
                    yield _update(approval)
                if told in FINAL:
                    return
            await asyncio.sleep(backoff.seconds(silent))
            silent += 1

    async def _seen(self, approval_id: str) -> AsyncIterator[pb.Approval]:
        """What one stream from the store tells, or, where it tells nothing yet, what is known here."""
        try:
            async for approval in self._store.watch_approval(approval_id):
                yield approval
        except UnknownApprovalError:
            if approval_id not in self._opened:
                raise
            # The record that asks for it is under way, or was lost with the disk.
            expired = self._clock().boot >= self._opened[approval_id].expires_at_boot
            yield self._own(approval_id, pb.APPROVAL_STATE_EXPIRED if expired else pb.APPROVAL_STATE_PENDING)
        except AwayError:
            if approval_id in self._opened:
                yield self._own(approval_id, pb.APPROVAL_STATE_PENDING)
            await self._store.here()

    def _own(self, approval_id: str, state: pb.ApprovalState) -> pb.Approval:
        opened = self._opened[approval_id]
        return pb.Approval(approval_id=approval_id, agent_id=opened.agent_id, state=state, expires_at=opened.expires_at)


def _remember(entries: OrderedDict[str, Kept], approval_id: str, value: Kept) -> Kept:
    entries[approval_id] = value
    if len(entries) > MAX_REMEMBERED:
        entries.popitem(last=False)
    return value


def _use_request(request: wire.Request, use_id: str) -> pb.UseApprovalRequest:
    return pb.UseApprovalRequest(
        approval_id=request.approval_id,
        agent_id=request.action.agent_id,
        action_sha256=wire.digest(request.action),
        use_id=use_id,
    )


def _told(approval: pb.Approval) -> str:
    name = quote(approval.approval_id)
    match approval.state:
        case pb.APPROVAL_STATE_PENDING:
            return f"approval {name} is still pending"
        case pb.APPROVAL_STATE_DENIED:
            return _said(approval, f"denied approval {name}")
        case pb.APPROVAL_STATE_EXPIRED:
            return f"approval {name} has expired"
        case _:
            return f"approval {name} has been used"


def _said(approval: pb.Approval, what: str) -> str:
    comment = approval.comment[:MAX_COMMENT]
    return f"{quote(approval.decided_by)} {what}" + (f": {comment}" if comment else "")


def _update(approval: pb.Approval) -> pdp_pb.ApprovalUpdate:
    state: Any = approval.state  # the generated stubs want the other enum's wrapper; the values are the same
    update = pdp_pb.ApprovalUpdate(
        approval_id=approval.approval_id, state=state, comment=approval.comment, decided_by=approval.decided_by
    )
    wire.write_moment(update.expires_at, approval.expires_at)
    return update

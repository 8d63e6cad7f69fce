"""Approvals at the sidecar: finds the pending one of an action, uses them at the store, and waits for them.

Only the store keeps the state of an approval and lets it be used once, so an approval is valid in every pod and after
every restart.
"""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from pdp import wire
from pdp.core.fields import quote
from pdp.core.model import Now
from pdp.serving.backoff import Backoff
from pdp.sync.uplink import StoreUnreachableError, UnknownApprovalError, UnsupportedCallError
from pdp.v1 import decision_pb2 as pdp_pb
from registry_store.v1 import sync_pb2 as pb

MAX_REMEMBERED = 10_000
MAX_WAITING = 1_000
MAX_COMMENT = 4096
SLOW_SECONDS = 0.4
FIND_PAUSE_SECONDS = 5.0
"""How long a store that was slow to find a pending approval is not asked again, so that no batch waits for each."""
STATE_SECONDS = 2.0
"""How long a caller who does not want to wait gives the store to tell the state."""
PAUSE = Backoff(first=0.02, maximum=2.0)
FINAL = (pb.APPROVAL_STATE_APPROVED, pb.APPROVAL_STATE_DENIED, pb.APPROVAL_STATE_EXPIRED, pb.APPROVAL_STATE_USED)

Key = TypeVar("Key")
Value = TypeVar("Value")


class TooManyWaitingError(Exception):
    """Too many calls wait for approvals."""


class UseStatus(Enum):
    """The result of using an approval."""

    GRANTED = "granted"
    MISMATCH = "mismatch"
    NOT_APPROVED = "not approved"


class ApprovalUse(NamedTuple):
    """The use of the approval in a request: its result, a message, and when the approval expires (Unix seconds).

    `pending`: it still waits for people.
    """

    approval_id: str
    status: UseStatus
    message: str = ""
    expires_at: float = 0.0
    pending: bool = False


class Question(NamedTuple):
    """What people are asked: may this agent do this action, and who must decide; both as SHA-256."""

    agent_id: str
    action_sha256: bytes
    demand_sha256: bytes


class Pending(NamedTuple):
    """The approval that asks a question already, and when it expires (Unix seconds); no id: there is none."""

    question: Question
    approval_id: str = ""
    expires_at: float = 0.0


class Store(Protocol):
    """The calls to the store that are needed here; `Uplink` has them."""

    async def use_approval(self, request: pb.UseApprovalRequest) -> pb.UseApprovalResponse: ...

    async def find_pending_approval(self, request: pb.FindPendingApprovalRequest) -> pb.FindPendingApprovalResponse: ...

    def watch_approval(self, approval_id: str) -> AsyncGenerator[pb.Approval]: ...

    async def wait_connected(self) -> None: ...


class _Opened(NamedTuple):
    """An approval that this sidecar opened, and when it expires by this machine's wall clock and boot clock."""

    agent_id: str
    expires_at: float
    expires_at_boot: float


class _UseAttempt:
    """The use of one approval by this process; the use id lets a request without an answer be repeated."""

    __slots__ = ("spent", "use_id")

    def __init__(self) -> None:
        self.use_id = str(uuid.uuid4())
        self.spent = False


class Approvals:
    """The approvals that this sidecar opens, uses and waits for; it remembers at most 10,000.

    An approval of an agent that it does not serve counts as unknown.
    """

    def __init__(self, store: Store, clock: Callable[[], Now], serves: Callable[[str], bool]) -> None:
        self._store = store
        self._clock = clock
        self._serves = serves
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._asked: OrderedDict[Question, str] = OrderedDict()
        self._uses: OrderedDict[str, _UseAttempt] = OrderedDict()
        self._find_after = 0.0
        self.waiting = 0

    def opened(self, approval_id: str, agent_id: str, expires_at: float, question: Question | None = None) -> None:
        """Note an approval that a decision has just opened; the store may not know it yet."""
        if approval_id not in self._opened:
            now = self._clock()
            _remember(self._opened, approval_id, _Opened(agent_id, expires_at, now.boot + expires_at - now.wall))
        if question is not None:
            _remember(self._asked, question, approval_id)

    async def pending(self, question: Question) -> Pending:
        """The approval that asks this question already: as the store says, or one from here that is on its way to it.

        While the store cannot say, it is the one that this sidecar opened last, until it expires.
        """
        mine = self._asked.get(question, "")
        try:
            found = await self._find(question, mine)
        except UnsupportedCallError:
            return Pending(question)
        if found is not None and found.HasField("approval"):
            return Pending(question, found.approval.approval_id, found.approval.expires_at)
        if found is not None and found.opened_is_known and self._asked.get(question) == mine:
            self._asked.pop(question, None)
        # Nothing awaits from here to the decision, so an approval that another request has just opened counts.
        approval_id = self._asked.get(question, "")
        opened = self._opened.get(approval_id)
        if opened is None or self._clock().boot >= opened.expires_at_boot:
            self._asked.pop(question, None)
            return Pending(question)
        return Pending(question, approval_id, opened.expires_at)

    async def _find(self, question: Question, mine: str) -> pb.FindPendingApprovalResponse | None:
        """The store's answer; None if it gives none now."""
        started = self._clock().boot
        if started < self._find_after:
            return None
        request = pb.FindPendingApprovalRequest(**question._asdict(), opened_approval_id=mine)
        try:
            return await self._store.find_pending_approval(request)
        except StoreUnreachableError:
            ended = self._clock().boot
            if ended - started >= SLOW_SECONDS:
                self._find_after = ended + FIND_PAUSE_SECONDS
            return None

    async def use(self, request: wire.Request) -> ApprovalUse:
        """Use the approval in a request whose action needs one; each approval is granted once."""
        approval_id = request.approval_id
        if request.dry_run:
            return ApprovalUse(approval_id, UseStatus.NOT_APPROVED, "a dry run uses no approval")
        use = self._uses.get(approval_id) or _remember(self._uses, approval_id, _UseAttempt())
        try:
            answer = await self._store.use_approval(_use_request(request, use.use_id))
        except UnknownApprovalError:
            return self._unknown(approval_id)
        except StoreUnreachableError:
            message = f"the store is unreachable, so approval {quote(approval_id)} cannot be used now"
            return ApprovalUse(approval_id, UseStatus.NOT_APPROVED, message)
        if answer.use == pb.APPROVAL_USE_GRANTED:
            # Two requests may share one use id; there is no await from here to the decision.
            if use.spent:
                return ApprovalUse(approval_id, UseStatus.NOT_APPROVED, f"approval {quote(approval_id)} has been used")
            use.spent = True
            self._opened.pop(approval_id, None)
            return ApprovalUse(approval_id, UseStatus.GRANTED, _with_comment(answer.approval, "approved it"))
        if answer.use == pb.APPROVAL_USE_MISMATCH:
            served = self._serves(answer.approval.agent_id)
            return ApprovalUse(approval_id, UseStatus.MISMATCH) if served else self._unknown(approval_id)
        approval = answer.approval
        self._note_state(approval_id, approval)
        is_pending = approval.state == pb.APPROVAL_STATE_PENDING
        message = _refusal_message(approval)
        return ApprovalUse(approval_id, UseStatus.NOT_APPROVED, message, approval.expires_at, is_pending)

    def _unknown(self, approval_id: str) -> ApprovalUse:
        if approval_id in self._opened:
            message = f"approval {quote(approval_id)} is still pending"
            expires_at = self._opened[approval_id].expires_at
            return ApprovalUse(approval_id, UseStatus.NOT_APPROVED, message, expires_at, True)
        return ApprovalUse(approval_id, UseStatus.NOT_APPROVED, f"approval {quote(approval_id)} is unknown")

    async def wait(
        self, approval_id: str, may_ask: Callable[[str], bool] = lambda _: True
    ) -> AsyncGenerator[pdp_pb.ApprovalUpdate]:
        """Each state of an approval until it is final; outages of the store do not end it.

        Raises `UnknownApprovalError` for an approval of no agent that is served here and that the caller may ask for,
        and `TooManyWaitingError` for more than 1,000 calls at once.
        """
        if self.waiting >= MAX_WAITING:
            raise TooManyWaitingError(f"{MAX_WAITING} calls wait for approvals already")
        self.waiting += 1
        try:
            async with aclosing(self._updates(approval_id, may_ask)) as updates:
                async for update in updates:
                    yield update
        finally:
            self.waiting -= 1

    async def _updates(self, approval_id: str, may_ask: Callable[[str], bool]) -> AsyncGenerator[pdp_pb.ApprovalUpdate]:
        last_state, silent = 0, 1
        while True:
            async with aclosing(self._known_approvals(approval_id)) as known:
                async for approval in known:
                    if not self._serves(approval.agent_id) or not may_ask(approval.agent_id):
                        raise UnknownApprovalError(approval_id)
                    self._note_state(approval_id, approval)
                    if approval.state != last_state:
                        last_state = approval.state
                        silent = 1
                        yield _update(approval)
                    if last_state in FINAL:
                        return
            await asyncio.sleep(PAUSE.seconds(silent))
            silent += 1

    async def _known_approvals(self, approval_id: str) -> AsyncGenerator[pb.Approval]:
        """The states from one stream of the store; if the store has none yet, the state known here."""
        try:
            async with aclosing(self._store.watch_approval(approval_id)) as states:
                async for approval in states:
                    yield approval
        except UnknownApprovalError:
            if approval_id not in self._opened:
                raise
            # The record that opens it is on its way, or was lost with the disk.
            expired = self._clock().boot >= self._opened[approval_id].expires_at_boot
            yield self._local_approval(approval_id, pb.APPROVAL_STATE_EXPIRED if expired else pb.APPROVAL_STATE_PENDING)
        except StoreUnreachableError:
            if approval_id in self._opened:
                yield self._local_approval(approval_id, pb.APPROVAL_STATE_PENDING)
            await self._store.wait_connected()

    def _note_state(self, approval_id: str, approval: pb.Approval) -> None:
        """Forget an approval that was opened here once it waits for people no longer."""
        if approval.state != pb.APPROVAL_STATE_PENDING:
            self._opened.pop(approval_id, None)

    def _local_approval(self, approval_id: str, state: pb.ApprovalState) -> pb.Approval:
        opened = self._opened[approval_id]
        return pb.Approval(approval_id=approval_id, agent_id=opened.agent_id, state=state, expires_at=opened.expires_at)


async def next_update(updates: AsyncGenerator[pdp_pb.ApprovalUpdate], seconds: float) -> pdp_pb.ApprovalUpdate:
    """The first state if it is not pending, else the one that follows within `seconds`, or else the pending one.

    `StoreUnreachableError` if no state comes in that time.
    """
    until = asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout(max(seconds, STATE_SECONDS)):
            update = await anext(updates)
    except TimeoutError:
        raise StoreUnreachableError("the store has not told the state of the approval in time") from None
    if update.state == pdp_pb.APPROVAL_STATE_PENDING and seconds:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                update = await anext(updates)
    return update


def _remember(entries: OrderedDict[Key, Value], key: Key, value: Value) -> Value:
    entries[key] = value
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


def _refusal_message(approval: pb.Approval) -> str:
    name = quote(approval.approval_id)
    match approval.state:
        case pb.APPROVAL_STATE_PENDING:
            return f"approval {name} is still pending"
        case pb.APPROVAL_STATE_DENIED:
            return _with_comment(approval, f"denied approval {name}")
        case pb.APPROVAL_STATE_EXPIRED:
            return f"approval {name} has expired"
        case _:
            return f"approval {name} has been used"


def _with_comment(approval: pb.Approval, what: str) -> str:
    comment = approval.comment[:MAX_COMMENT]
    return f"{quote(approval.decided_by)} {what}" + (f": {comment}" if comment else "")


def _update(approval: pb.Approval) -> pdp_pb.ApprovalUpdate:
    state: Any = approval.state  # the generated stubs want the other enum's wrapper; the values are the same
    update = pdp_pb.ApprovalUpdate(
        approval_id=approval.approval_id, state=state, comment=approval.comment, decided_by=approval.decided_by
    )
    wire.write_moment(update.expires_at, approval.expires_at)
    return update

"""`registry_store.v1.RegistrySync`: the methods by which sidecars use and watch approvals."""

import asyncio
import random
from datetime import UTC, datetime

import grpc
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.action import AGENT_ID
from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import quote
from pdp.core.kinds import Text
from registry_store.access import scopes
from registry_store.access.keys import Caller
from registry_store.approvals import approvals, opening
from registry_store.approvals.approvals import ApprovalState, ApprovalStatus, Claim, Use
from registry_store.approvals.requests import ID
from registry_store.approvals.watching import ClosedError, FullError, Watch
from registry_store.database.tables import Approval
from registry_store.database.transactions import retried
from registry_store.errors import NotFoundError
from registry_store.journal.activity import Actor
from registry_store.rpc.calls import (
    SERVICE,
    CallEndedError,
    Context,
    Handler,
    OpenStreams,
    answered,
    authenticated,
    close,
    ended_by,
    parsed,
)
from registry_store.rpc.sync import Pace
from registry_store.store import Store
from registry_store.v1 import sync_pb2 as pb

USE_ID = Text(128, 1)
SHA256_BYTES = 32


class ApprovalService:
    """The methods `FindPendingApproval`, `UseApproval` and `WatchApproval`."""

    def __init__(self, store: Store, streams: OpenStreams, pace: Pace) -> None:
        self._store = store
        self._streams = streams
        self._pace = pace

    def handlers(self) -> grpc.GenericRpcHandler:
        """The handlers to add to a `grpc.aio` server."""
        use: Handler = grpc.unary_unary_rpc_method_handler(
            self._use,
            response_serializer=pb.UseApprovalResponse.SerializeToString,
        )
        find: Handler = grpc.unary_unary_rpc_method_handler(
            self._find,
            response_serializer=pb.FindPendingApprovalResponse.SerializeToString,
        )
        watch: Handler = grpc.unary_stream_rpc_method_handler(
            self._watch,
            response_serializer=pb.Approval.SerializeToString,
        )
        methods = {"FindPendingApproval": find, "UseApproval": use, "WatchApproval": watch}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _find(self, raw: bytes, context: Context) -> pb.FindPendingApprovalResponse:
        return await answered(self._store, context, lambda caller: self._find_pending(raw, caller))

    async def _find_pending(self, raw: bytes, caller: Caller) -> pb.FindPendingApprovalResponse:
        request = parsed(pb.FindPendingApprovalRequest, raw)
        question, opened_id = _question(request), request.opened_approval_id
        found = pb.FindPendingApprovalResponse()
        now = datetime.now(UTC)
        async with self._store.database.reading() as session:
            if not await scopes.may_sync(session, caller, request.agent_id):
                return found
            approval = await opening.find_pending(session, question, now)
            if approval is not None:
                found.approval.CopyFrom(_message(approvals.status_of(approval, now)))
            found.opened_is_known = bool(opened_id) and await opening.is_known(session, opened_id)
        return found

    async def _use(self, raw: bytes, context: Context) -> pb.UseApprovalResponse:
        return await answered(self._store, context, lambda caller: self._check_use(raw, caller))

    async def _check_use(self, raw: bytes, caller: Caller) -> pb.UseApprovalResponse:
        request = parsed(pb.UseApprovalRequest, raw)
        approval_id, claim = _id(request.approval_id), _claim(request)
        async with self._store.database.reading() as session:
            approval = await _approval_in_scope(session, approval_id, caller)
        now = datetime.now(UTC)
        use = approvals.judge(approval, claim, now)
        if use is Use.GRANTED and approval.use_id is None:  # only this needs the writers' lock
            return await retried(self._consume, approval_id, claim, caller)
        return _answer(use, approvals.status_of(approval, now))

    async def _consume(self, approval_id: str, claim: Claim, caller: Caller) -> pb.UseApprovalResponse:
        async with self._store.database.writing() as session:
            approval = await approvals.get(session, approval_id)
            first = approval.use_id is None
            actor = Actor(caller.name, "system", datetime.now(UTC), caller.key_id or None)
            use = await approvals.use(session, approval, claim, actor)
        if first and use is Use.GRANTED:
            self._store.metrics.approvals.labels(ApprovalState.USED.value).inc()
        return _answer(use, approvals.status_of(approval, actor.at))

    async def _watch(self, raw: bytes, context: Context) -> None:
        ended = await self._serve(raw, context)
        if ended is not None:
            await close(context, ended)

    async def _serve(self, raw: bytes, context: Context) -> CallEndedError | None:
        """Runs the stream; returns the error that ended it, None if it ended normally."""
        try:
            caller = await authenticated(self._store, context)
            async with self._store.database.reading() as session:  # the feed checks no scope and knows no other ids
                wanted = _id(parsed(pb.WatchApprovalRequest, raw).approval_id)
                approval_id = (await _approval_in_scope(session, wanted, caller)).approval_id
            with self._store.approval_feed.watching(approval_id) as watch:
                async with self._streams.opened(context, caller, watch.end):
                    await self._follow_with_timeout(watch, context)
        except ClosedError as error:
            return CallEndedError(grpc.StatusCode.UNAVAILABLE, str(error))
        except FullError as error:
            return CallEndedError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except Exception as error:
            return ended_by(error)
        return None

    async def _follow_with_timeout(self, watch: Watch, context: Context) -> None:
        seconds = random.uniform(*self._pace.lifetime)  # noqa: S311 - spreads load, guards nothing
        try:
            async with asyncio.timeout(seconds):
                await self._follow(watch, context)
        except TimeoutError:
            raise CallEndedError(
                grpc.StatusCode.UNAVAILABLE, "the stream reached its maximum lifetime: watch again"
            ) from None

    async def _follow(self, watch: Watch, context: Context) -> None:
        status: ApprovalStatus | None = None
        while status is None or not status.final:
            status = await watch.next_status()
            if status is not None:
                await context.write(_message(status))


async def _approval_in_scope(session: AsyncSession, approval_id: str, caller: Caller) -> Approval:
    """The approval; `NotFoundError` also if its agent is outside the scope of the caller's key."""
    approval = await approvals.get(session, approval_id)
    if not await scopes.may_sync(session, caller, approval.agent_id):
        raise NotFoundError(f"no approval `{approval_id}`")
    return approval


def _id(approval_id: str) -> str:
    """The id; `NotFoundError` if it is not a valid approval id."""
    problems = Problems()
    ID.read(approval_id, "approval_id", problems)
    if problems:
        raise NotFoundError(f"no approval {quote(approval_id)}")
    return approval_id


def _question(request: pb.FindPendingApprovalRequest) -> opening.Question:
    problems = Problems()
    AGENT_ID.read(request.agent_id, "agent_id", problems)
    for name in ("action_sha256", "demand_sha256"):
        if len(getattr(request, name)) != SHA256_BYTES:
            problems.append(Problem(name, f"must have {SHA256_BYTES} bytes"))
    if request.opened_approval_id:
        ID.read(request.opened_approval_id, "opened_approval_id", problems)
    problems.raise_if_any()
    return request.agent_id, request.action_sha256.hex(), request.demand_sha256.hex()


def _claim(request: pb.UseApprovalRequest) -> Claim:
    problems = Problems()
    AGENT_ID.read(request.agent_id, "agent_id", problems)
    USE_ID.read(request.use_id, "use_id", problems)
    if len(request.action_sha256) != SHA256_BYTES:
        problems.append(Problem("action_sha256", f"must have {SHA256_BYTES} bytes"))
    if problems:
        raise InvalidRecordError(problems)
    return Claim(request.agent_id, request.action_sha256, request.use_id)


def _answer(use: Use, status: ApprovalStatus) -> pb.UseApprovalResponse:
    return pb.UseApprovalResponse(use=f"APPROVAL_USE_{use.name}", approval=_message(status))


def _message(status: ApprovalStatus) -> pb.Approval:
    return pb.Approval(
        approval_id=status.approval_id,
        state=f"APPROVAL_STATE_{status.state.name}",
        decided_by=status.decided_by or "",
        comment=status.comment or "",
        expires_at=status.expires_at.timestamp(),
        agent_id=status.agent_id,
    )

"""Converts between messages of `registry_store.v1` and the values of the store."""

from collections.abc import AsyncGenerator

from pdp.core.action import AGENT_ID
from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.kinds import Text
from pdp.core.model import RecordKind
from pdp.core.records import TAGS
from registry_store.sync.nodes import NODE_ID
from registry_store.sync.sidecars import MAX_PROBLEM, MAX_PROBLEMS, MAX_REFUSALS, MAX_REFUSED_ID, Refusal
from registry_store.sync.subscriptions import Record, Subscription
from registry_store.v1 import sync_pb2 as pb

CHUNK_BYTES = 256 * 1024
MAX_ENTRIES = 1_000
VERSION = Text(128, 0, "[ -~]*", "printable ASCII")
NODE_NAME = VERSION


def check_hello(hello: pb.Hello) -> None:
    """Raise `InvalidRecordError` if a name in it is malformed and cannot be stored or logged."""
    problems = Problems()
    NODE_ID.read(hello.node_id, "hello.node_id", problems)
    VERSION.read(hello.version, "hello.version", problems)
    NODE_NAME.read(hello.node_name, "hello.node_name", problems)
    if problems:
        raise InvalidRecordError(problems)


def subscription(message: pb.Subscription) -> Subscription:
    """The subscription in the message; `InvalidRecordError` if it is missing or malformed."""
    problems = Problems()
    match message.WhichOneof("scope"):
        case "agents":
            wanted = frozenset(message.agents.agent_ids)
            for agent_id in message.agents.agent_ids[:MAX_ENTRIES]:
                AGENT_ID.read(agent_id, "hello.subscription.agents", problems)
            found = Subscription(agent_ids=wanted)
        case "tags":
            wanted = frozenset(message.tags.tags)
            TAGS.read(list(message.tags.tags), "hello.subscription.tags", problems)
            found = Subscription(tags=wanted)
        case "all":
            return Subscription()
        case _:
            raise InvalidRecordError([Problem("hello.subscription", "must be one of `agents`, `tags` and `all`")])
    if not 1 <= len(wanted) <= MAX_ENTRIES:
        problems.append(Problem("hello.subscription", f"must have 1 to {MAX_ENTRIES} entries"))
    problems.raise_if_any()
    return found


def refusals(message: pb.Acknowledgement) -> list[Refusal]:
    """The records that the sidecar refuses, truncated to the limits."""
    kinds = {kind.value for kind in RecordKind}
    return [
        Refusal(
            RecordKind(refusal.kind),
            refusal.id[:MAX_REFUSED_ID],
            tuple(problem[:MAX_PROBLEM] for problem in refusal.problems[:MAX_PROBLEMS]),
        )
        for refusal in message.refusals[:MAX_REFUSALS]
        if refusal.kind in kinds
    ]


async def chunks(records: AsyncGenerator[Record]) -> AsyncGenerator[pb.SnapshotChunk]:
    """The records in chunks of at most 256 KiB; a larger record gets a chunk of its own."""
    chunk, size = pb.SnapshotChunk(), 0
    async for record in records:
        if chunk.records and size + len(record.document) > CHUNK_BYTES:
            yield chunk
            chunk, size = pb.SnapshotChunk(), 0
        chunk.records.append(record_message(record, record.document))
        size += len(record.document)
    if chunk.records:
        yield chunk


def record_message(record: Record, document: bytes) -> pb.Record:
    """The message for a record with this document."""
    return pb.Record(kind=pb.RecordKind.Name(record.kind), id=record.id, document=document)

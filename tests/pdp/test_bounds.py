"""The sidecar's memory stays bounded for any input, and no input is allowed by mistake."""

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp import wire
from pdp.core.action import FIELDS, Action
from pdp.core.errors import InvalidActionError
from pdp.decision_log.log import DecisionLog
from pdp.decision_log.spool import Spool
from pdp.idempotency import Answers
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench, served
from tests.given import agent

MIB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def check_stream(length: int, folder: Path) -> int:
    """Put a stream through a sidecar, 1 % of it malformed; the growth of resident memory over its last four fifths.

    Its decision log, which nobody empties, is small enough for the oldest to give way.
    """
    spool = Spool(DecisionLog(folder / "decisions", 8 * MIB, time.time))
    bench = Bench(spool)
    bench.put(agent())
    bench.service.point.answers = Answers(max_bytes=MIB)
    memory = []

    async def requests() -> AsyncIterator[pb.EvaluateStreamRequest]:
        for number in range(length):
            action = pb.Action(
                agent_id="billing-reader-test",
                action_type=f"type.{number % 7}",
                risk_score=101 if number % 100 == 99 else number % 101,
            )
            request = pb.EvaluateRequest(action=action, idempotency_key=f"key-{number}", dry_run=number % 3 == 0)
            yield pb.EvaluateStreamRequest(request=request)

    answered = 0
    writing = asyncio.create_task(spool.run())
    async with served(bench.service) as stub:
        async for answer in stub.EvaluateStream(requests()):
            kind = "error" if answered % 100 == 99 else "response"
            assert (answer.idempotency_key, answer.result.WhichOneof("result")) == (f"key-{answered}", kind)
            answered += 1
            if answered % (length // 5) == 0:
                memory.append(resident_bytes())
    assert answered == length
    spool.close()
    await writing
    spool.end()
    return memory[-1] - memory[0]


async def test_a_stream_of_mixed_requests_is_answered_key_by_key(tmp_path: Path) -> None:
    """Every request has its answer, the malformed hundredth too."""
    await check_stream(3000, tmp_path)


@pytest.mark.soak
async def test_a_long_stream_leaves_memory_flat(tmp_path: Path) -> None:
    """100,000 requests, each with its own key, grow the process by less than 8 MiB after the first fifth."""
    assert await check_stream(100_000, tmp_path) < 8 * MIB


@pytest.mark.parametrize(
    ("agents", "keys"), [(100, 100), pytest.param(10_000, 100, marks=pytest.mark.soak)], ids=["short", "full"]
)
def test_remembered_answers_keep_to_their_bound(agents: int, keys: int) -> None:
    """They count at least the bytes that Python uses for them."""
    bench = Bench()
    bench.put(*(agent(f"agent-number-{number}") for number in range(agents)))
    bound = MIB if agents < 1000 else 64 * MIB
    answers = bench.service.point.answers = Answers(max_bytes=bound)
    gc.collect()
    tracemalloc.start()
    for number in range(agents * keys):
        name = f"agent-number-{number % agents}"
        action = {"agent_id": name, "action_type": "api.read", "resource": "r" * 100}
        answers.put(name, f"key-{number:036}", wire.digest(Action(**action)), b"a" * 200, float(number) / 1e6)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answers.bytes <= bound
    assert taken <= answers.bytes * 1.1
    assert answers.evicted == agents * keys - len(answers) > 0


def test_the_newest_answers_are_the_ones_remembered() -> None:
    """At the bound the oldest are evicted; after ten minutes all expire, which is not an eviction."""
    answers = Answers(max_bytes=2000)
    for number in range(10):
        answers.put("agent", f"key-{number}", b"d", b"a" * 100, float(number))
    kept = [number for number in range(10) if answers.get("agent", f"key-{number}", 10.0)]
    assert kept == list(range(10 - len(answers), 10))
    assert 0 < len(answers) < 10
    evicted = answers.evicted
    answers.put("agent", "later", b"d", b"", 700.0)
    assert (len(answers), answers.evicted) == (1, evicted)


def test_counters_of_idle_agents_are_forgotten() -> None:
    """After a day without an action an agent takes no memory; agents in use keep their counts."""
    bench = Bench()
    bench.put(*(agent(f"agent-number-{number}", max_actions_per_day=5) for number in range(1000)))
    point = bench.service.point

    def remaining(number: int) -> int:
        action = Action(f"agent-number-{number}", "api.read", risk_score=1)
        return pb.EvaluateResponse.FromString(point.evaluate(wire.Request(action))).rate_remaining.day

    for number in range(500):
        assert remaining(number) == 4
    bench.pass_seconds(23 * 3600)
    assert remaining(0) == 3
    bench.pass_seconds(4 * 3600)
    for number in range(500, 1000):
        assert remaining(number) == 4
    assert len(point._counters.usage) <= 501
    assert remaining(0) == 3


def closed_bench() -> Bench:
    """An agent that may do nothing, so that every allow is a mistake."""
    bench = Bench()
    bench.put(agent(allowed_action_types=["nothing.at.all"], allowed_resources=["nothing"]))
    return bench


CLOSED = closed_bench()

texts = st.one_of(st.text(max_size=300), st.sampled_from(["", "billing-reader-test", "api.read", "nothing", "\0"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)
fields = st.sampled_from([*FIELDS, "unknown"])
json_requests = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {"action": st.one_of(json_values, st.dictionaries(fields, json_values, max_size=8))},
        optional={"idempotency_key": json_values, "dry_run": json_values, "approval_id": json_values},
    ),
)


def messages() -> st.SearchStrategy[bytes]:
    """Bytes that are, or once were, a request."""
    floats = st.floats()
    actions = st.builds(
        pb.Action,
        agent_id=st.sampled_from(["billing-reader-test", "other-agent"]) | texts.filter(_encodable),
        action_type=texts.filter(_encodable),
        resource=texts.filter(_encodable),
        risk_score=st.integers(-(2**31), 2**31 - 1),
        amount=floats,
        estimated_cost_usd=floats,
        tool=texts.filter(_encodable),
        mcp_server=texts.filter(_encodable),
    )
    whole = st.builds(pb.EvaluateRequest, action=actions, dry_run=st.booleans()).map(
        lambda message: message.SerializeToString()
    )
    return st.one_of(
        st.binary(max_size=200), whole, st.tuples(whole, st.integers(0, 60), st.binary(max_size=4)).map(_bent)
    )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bent(parts: tuple[bytes, int, bytes]) -> bytes:
    raw, at, other = parts
    return raw[:at] + other + raw[at + len(other) :]


@settings(max_examples=400, deadline=None)
@given(messages())
def test_arbitrary_bytes_are_never_allowed_and_never_crash(raw: bytes) -> None:
    """Any bytes are refused with the name of a field, or decided as a block."""
    try:
        answer = CLOSED.evaluate(wire.read_request(wire.parse(pb.EvaluateRequest, raw)))
    except InvalidActionError as error:
        assert error.problems[0].path
    else:
        assert answer.outcome == pb.OUTCOME_BLOCK
        assert answer.reason != pb.REASON_INTERNAL_ERROR


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=100), json_requests.map(lambda value: json.dumps(value).encode())))
def test_arbitrary_json_is_never_allowed_and_never_crashes(body: bytes) -> None:
    """Any body gets a 400 with a path, or a block."""
    status, answer = asyncio.run(CLOSED.service.evaluate_json(body))
    assert status in (200, 400)
    if status == 200:
        assert (answer["outcome"], answer["reason"] != "INTERNAL_ERROR") == ("block", True)
    else:
        assert all(error["message"] for error in answer["errors"])

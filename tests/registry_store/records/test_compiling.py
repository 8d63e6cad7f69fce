"""What the store accepts, every sidecar compiles: the bytes that are sent, as the database gives them back."""

import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError
from pdp.core.model import RecordKind
from pdp.state import RawRecord, build
from registry_store.errors import ConflictError, NotFoundError
from registry_store.journal.activity import Actor
from registry_store.records import agents, declarations, mcp_servers, policies
from registry_store.sync import subscriptions
from registry_store.sync.subscriptions import Subscription
from tests.registry_store.registries import AGENTS, SELECTORS, SERVERS
from tests.registry_store.serving import Rest, Served

REGISTRY = "/api/agents/registry"
ALL = Subscription()


def nested(levels: int, inner: Any = 1) -> Any:
    """A value of so many levels, lists and objects in turn, around another."""
    for level in range(levels):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


def texts(most: int) -> st.SearchStrategy[str]:
    """Texts of up to so many characters, and at times of one too many; each takes its own number of bytes."""
    letters = st.sampled_from(["a", "Ж", "😀", "\x01", '"', "\\", "\\u0000", "e+300", "\ufffe"])
    lengths = st.sampled_from([1, 2, most // 4, most // 2, most - 1, most, most, most + 1])
    return st.builds(lambda text, length: (text * length)[:length], letters, lengths)


NAMES = texts(256)
NUMBERS = st.sampled_from([0, -0.0, 1.0, 0.1, 2**53 + 1, 10**22, 1e22, 1e300, -1e300, 1e-300, 10**308, 10**309])
LEAVES = texts(4_000) | texts(16_000) | NUMBERS | st.none() | st.booleans()
VALUES = st.builds(
    lambda levels, leaf, times: nested(levels, [leaf] * times if times > 1 else leaf),
    st.sampled_from([0, 1, *range(12, 18)]),
    LEAVES,
    st.sampled_from([1, 1, 1, 2, 50, 2_700]),
)
OBJECTS = st.dictionaries(texts(512), VALUES, max_size=2)
GLOBS = st.text("[]!*?-az^\\Ж{}()|.\n", min_size=1, max_size=30)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "attribute_equals": OBJECTS,
        "resource_matches": GLOBS,
        "resource_in": st.lists(texts(2048), min_size=1, max_size=2, unique=True),
        "day_in": st.lists(st.sampled_from([1, 1.0, 7, 2.0]), min_size=1, max_size=3),
        "amount_above": st.sampled_from([0, 1e15, 10**15, 1e-300]),
        "hour_after": st.sampled_from([0, 0.0, 23]),
        "risk_above": st.sampled_from([-0.0, 0, 99]),
        "data_classification": NAMES | st.lists(NAMES, min_size=1, max_size=2),
    },
)
PARAMS = st.builds(
    lambda own, known: {**own, **known},
    OBJECTS,
    st.fixed_dictionaries({}, optional={"timeout_seconds": st.sampled_from([1, 3600.0, 2_592_000]), "team": NAMES}),
)
POLICIES = st.lists(
    st.fixed_dictionaries(
        {"policy_name": NAMES, "policy_action": st.sampled_from(["block", "allow"])},
        optional={"policy_description": texts(4096), "conditions": CONDITIONS, "action_params": PARAMS},
    ),
    max_size=4,
)
CONFIGURATIONS = st.builds(
    lambda common, edge: {**common, **edge},
    AGENTS.map(lambda agent: {name: agent[name] for name in agent if name not in ("status", "policies")}),
    st.fixed_dictionaries(
        {},
        optional={
            "description": texts(4096),
            "metadata": OBJECTS,
            "time_window_days": st.lists(st.sampled_from([1, 1.0, 7, 2.0]), min_size=1, max_size=3),
            "default_risk_score": st.sampled_from([0, -0.0, 100.0]),
            "max_daily_budget_usd": st.sampled_from([0, -0.0, "0E+999", "1_0", 1e9, "999999999.999999", 1e-6]),
            "auto_suspend_on_error_rate": st.sampled_from([0, -0.0, 1, 1e-300]),
            "allowed_resources": st.lists(texts(2048), max_size=3, unique=True),
        },
    ),
)


WORLDS = st.fixed_dictionaries(
    {
        "agent": CONFIGURATIONS,
        "policies": POLICIES,
        "organisation": POLICIES,
        "selector": SELECTORS,
        "server": SERVERS,
        "changed": CONFIGURATIONS,
        "declared": POLICIES,
    }
)


async def refusals(session: AsyncSession) -> list[tuple[str, ...]]:
    """What a sidecar refuses of all that the database holds now."""
    await session.flush()
    session.expunge_all()
    found = [
        RawRecord(RecordKind(one.kind), one.id, one.document) async for one in subscriptions.snapshot(session, ALL)
    ]
    state, refused = build(found, "epoch", 1)
    again, refused_again = build(state.records(), "epoch", 1)
    assert again.agents.keys() == state.agents.keys()
    return [one.problems for one in (*refused, *refused_again)]


class UndoneError(Exception):
    """Ends a transaction without a trace."""


def in_transaction(store: Served, work: Callable[[AsyncSession], Coroutine[Any, Any, None]]) -> None:
    """Run `work` in a writing transaction of the store's database, and undo it."""

    async def run() -> None:
        with suppress(UndoneError):
            async with store.running._store.database.writing() as session:
                await work(session)
                raise UndoneError

    store.run(run())


def actor() -> Actor:
    return Actor("tester", "system", datetime.now(UTC))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # it would hide what failed
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # bodies are large: what fails is told as it was drawn
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(WORLDS)
def test_whatever_is_accepted_compiles(store: Served, world: dict[str, Any]) -> None:
    """Registered, changed, rolled back and declared; near every bound of depth, size and number."""

    accepted = suppress(InvalidRecordError, ConflictError, NotFoundError)

    async def work(session: AsyncSession) -> None:
        with accepted:
            await mcp_servers.add(session, {"server_name": "server", **world["server"]}, actor())
        for policy in world["organisation"]:
            with accepted:
                await policies.add(session, None, {**policy, "applies_to": world["selector"]}, actor())
        await agents.register(session, {"agent_id": "agent", "display_name": "A"}, actor(), activate=True)
        for policy in world["policies"]:
            with accepted:
                await policies.add(session, "agent", policy, actor())
        for body in (world["agent"], world["changed"]):
            with accepted:
                await agents.change(session, await agents.get(session, "agent"), body, actor())
        assert await refusals(session) == []
        with accepted:
            body = {"target_version": "1.1.0"}
            await agents.rollback(session, await agents.get(session, "agent"), body, actor())
        assert await refusals(session) == []
        with accepted:
            wanted = declarations.read({**world["changed"], "agent_id": "agent", "policies": world["declared"]})
            await declarations.apply(session, await agents.get(session, "agent"), wanted, actor(), activate=True)
        assert await refusals(session) == []

    in_transaction(store, work)


@pytest.mark.parametrize("levels", [13, 14, 15, 16, 17])
@pytest.mark.parametrize("name", ["action_params", "attribute_equals", "metadata"])
def test_depth_is_counted_from_the_value_itself(store: Served, admin: Rest, name: str, levels: int) -> None:
    """Not from the document that it is a part of: 16 levels are accepted and compile, 17 are refused."""
    agent_id = f"deep-{name}-{levels}".replace("_", "-")
    metadata = {"a": nested(levels - 1)} if name == "metadata" else {}
    answer = admin.post(REGISTRY, {"agent_id": agent_id, "display_name": "x", "metadata": metadata})
    if name != "metadata":
        value = {"a": nested(levels - 1)}
        held = {"conditions": {name: {"a": nested(levels - 2)}}} if name == "attribute_equals" else {name: value}
        answer = admin.post(f"{REGISTRY}/{agent_id}/policies", {"policy_name": "p", "policy_action": "block", **held})
    assert answer.status == (201 if levels <= 16 else 422), answer.body
    in_transaction(store, _nothing_refused)


def test_many_policies_in_cyrillic_compile(store: Served) -> None:
    """8 MiB of UTF-8, which are 24 MiB where every letter is escaped."""
    body = {
        "policy_action": "block",
        "policy_description": "Ж" * 4_096,
        "conditions": {"resource_in": [f"{number}{'Ж' * 2_000}" for number in range(5)]},
        "action_params": {"ключ": "Ж" * 2_700},
    }

    async def work(session: AsyncSession) -> None:
        await agents.register(session, {"agent_id": "cyrillic", "display_name": "Ж"}, actor(), activate=True)
        wanted = [body | {"policy_name": f"Политика {number}"} for number in range(240)]
        declared = {"agent_id": "cyrillic", "display_name": "Ж", "policies": wanted}
        agent = await agents.get(session, "cyrillic")
        await declarations.apply(session, agent, declarations.read(declared), actor(), activate=True)
        await _nothing_refused(session)

    in_transaction(store, work)


def test_numbers_count_with_all_their_digits(store: Served, admin: Rest) -> None:
    """One database gives 1e300 back as that, the other as 301 digits: too large is too large on both."""
    body = {"agent_id": "digits-prod", "display_name": "x"}
    answer = admin.post(REGISTRY, body | {"metadata": {"a": [1e300] * 55}})
    assert answer.status == 422
    assert answer.body["errors"] == [{"path": "metadata", "message": "is larger than 16384 bytes"}]
    assert admin.post(REGISTRY, body | {"metadata": {"a": [1e300] * 53}}).status == 201
    in_transaction(store, _nothing_refused)


def test_a_list_that_repeats_a_number_in_another_form_is_refused(admin: Rest) -> None:
    """1 and 1.0 are one day."""
    body = {"agent_id": "days-prod", "display_name": "x", "time_window_days": [1, 1.0]}
    answer = admin.post(REGISTRY, body)
    assert answer.status == 422
    assert answer.body["errors"] == [{"path": "time_window_days[1]", "message": "duplicate item `1.0`"}]


def test_a_record_that_no_message_can_carry_is_refused(store: Served) -> None:
    """An agent grows by changes that are each small enough."""
    resources = [f"{number:04}" + "\x01" * 1_500 for number in range(1_000)]

    async def work(session: AsyncSession) -> None:
        await agents.register(session, {"agent_id": "large", "display_name": "x"}, actor(), activate=True)
        agent = await agents.get(session, "large")
        await agents.change(session, agent, {"allowed_resources": resources}, actor())
        with pytest.raises(InvalidRecordError, match="the record is larger than 16777216 bytes"):
            await agents.change(session, agent, {"blocked_resources": resources}, actor())

    in_transaction(store, work)


def test_the_answer_to_a_bad_body_is_bounded(admin: Rest) -> None:
    """Of 40,000 unknown names a hundred are told, and the rest counted."""
    body = {"agent_id": "unknown-prod", "display_name": "x"} | {f"unknown_{number}": 1 for number in range(40_000)}
    answer = admin.post(REGISTRY, body)
    assert answer.status == 422
    assert len(answer.body["errors"]) == 101
    assert answer.body["errors"][-1] == {"path": "", "message": "and at least 39,900 more"}
    assert answer.body["detail"] == "not valid: 40000 of the values"
    twice = b'{"' + b"x" * 500_000 + b'": 1, "' + b"x" * 500_000 + b'": 1}'
    answer = admin.post(REGISTRY, twice)
    assert (answer.status, len(answer.body["detail"]) < 2_000) == (400, True)
    assert len(json.dumps(admin.put(f"{REGISTRY}/unknown-prod", body).body)) < 64 * 1024


async def _nothing_refused(session: AsyncSession) -> None:
    assert await refusals(session) == []

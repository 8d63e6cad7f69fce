"""The scope of a bound key."""

from collections.abc import Set

import pytest

from registry_store.access import scopes
from registry_store.access.keys import Caller, Role
from registry_store.errors import NotAllowedError
from registry_store.sync.subscriptions import Subscription
from tests.registry_store.serving import Rest, Served

ALL = Subscription()
REGISTRY = "/api/agents/registry"


def caller(agents: Set[str] | None = None, tags: Set[str] | None = None, role: Role = Role.SIDECAR) -> Caller:
    return Caller("0", "pod", role, None, agents=agents and frozenset(agents), tags=tags and frozenset(tags))


def named(*agent_ids: str) -> Subscription:
    return Subscription(agent_ids=frozenset(agent_ids))


def tagged(*tags: str) -> Subscription:
    return Subscription(tags=frozenset(tags))


UNBOUND, OF_AGENTS, OF_TAGS = caller(), caller(agents={"ant", "bee"}), caller(tags={"red", "blue"})


@pytest.mark.parametrize(
    ("who", "wanted"),
    [
        (UNBOUND, ALL),
        (UNBOUND, named("ant")),
        (UNBOUND, tagged("red")),
        (caller(role=Role.ADMIN), ALL),
        (OF_AGENTS, named("ant")),
        (OF_AGENTS, named("ant", "bee")),
        (OF_TAGS, tagged("red")),
        (OF_TAGS, tagged("red", "blue")),
    ],
)
def test_what_is_within_the_scope_is_followed_as_it_is(who: Caller, wanted: Subscription) -> None:
    """Part or all of the scope of the key; anything if the key is not bound."""
    assert scopes.narrowed(who, wanted) == wanted


@pytest.mark.parametrize(
    ("who", "wanted", "why"),
    [
        (OF_AGENTS, ALL, "the key is bound to agents: it may subscribe only to these agents, by id"),
        (OF_AGENTS, tagged("red"), "the key is bound to agents: it may subscribe only to these agents, by id"),
        (OF_AGENTS, named("ant", "cow"), "the key may not sync agent `cow`"),
        (OF_TAGS, ALL, "the key is bound to tags: it may not subscribe to all agents"),
        (OF_TAGS, tagged("red", "green"), "the key may not sync tag `green`"),
    ],
)
def test_what_is_not_within_it_is_refused(who: Caller, wanted: Subscription, why: str) -> None:
    """The message names what exceeds the scope, and nothing else of the scope."""
    with pytest.raises(NotAllowedError) as refused:
        scopes.narrowed(who, wanted)
    assert str(refused.value) == why


def test_a_key_of_tags_gets_of_named_agents_those_that_carry_one() -> None:
    """An agent may get a tag and lose it while it is followed."""
    followed = scopes.narrowed(OF_TAGS, named("ant"))
    assert followed == Subscription(frozenset({"ant"}), frozenset({"red", "blue"}))
    assert followed.covers("ant", ["red", "green"])
    assert not followed.covers("ant", ["green"])
    assert not followed.covers("bee", ["red"])
    assert followed.describe() == {"agents": ["ant"], "tags": ["blue", "red"]}


def test_an_agent_is_within_the_scope_while_it_carries_a_tag(store: Served, admin: Rest) -> None:
    """And was recently, as long as the change that removed the tag is kept."""
    for agent_id, tags in (("scoped-red-prod", ["red", "green"]), ("scoped-green-prod", ["green"])):
        admin.register(agent_id, tags=tags)
    asked = {"scoped-red-prod", "scoped-green-prod", "scoped-nowhere-prod"}
    foreign = asked - {"scoped-red-prod"}

    async def found(who: Caller) -> tuple[Set[str], Set[str], bool]:
        async with store.running._store.database.reading() as session:
            now = await scopes.outside(session, who, asked)
            recently = await scopes.outside_recently(session, who, asked)
            return now, recently, await scopes.may_sync(session, who, "scoped-red-prod")

    assert store.run(found(UNBOUND)) == (set(), set(), True)
    assert store.run(found(caller(agents={"scoped-red-prod"}))) == (foreign, foreign, True)
    assert store.run(found(OF_AGENTS)) == (asked, asked, False)
    assert store.run(found(OF_TAGS)) == (foreign, foreign, True)
    assert admin.put(f"{REGISTRY}/scoped-red-prod", {"tags": ["green"]}).status == 200
    assert store.run(found(OF_TAGS)) == (asked, foreign, False)
    store.sql("DELETE FROM changes WHERE record_id = 'scoped-red-prod'")
    assert store.run(found(OF_TAGS)) == (asked, asked, False)

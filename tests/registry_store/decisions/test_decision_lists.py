"""Lists of decisions at any size: right on every page, by index alone, counted so far as that is quick."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import event

from pdp.core.model import Outcome
from registry_store.decisions import ids, reading
from registry_store.rest.resources.decisions import OutcomeName
from tests.registry_store.reporting import decision, report
from tests.registry_store.serving import Rest, Served

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OUTCOMES = ("allow", "require_approval", "block", "escalate")


@pytest.fixture(scope="module")
def listed(store: Served) -> list[dict[str, Any]]:
    """Decisions of three agents, one each second from noon on, newest first."""
    said = [
        decision(OUTCOMES[number % 4], agent_id=f"listed-{number % 3}-prod", at=NOON + timedelta(seconds=number))
        for number in range(30)
    ]
    report(store, *said)
    return said[::-1]


def shown(rest: Rest, query: str) -> tuple[list[str], int]:
    """The ids of a page of the time of `listed`, and the total."""
    body = rest.get(f"/api/decisions?since=2026-03-01T12:00:00Z&until=2026-03-01T13:00:00Z&{query}").body
    return [one["decision_id"] for one in body["decisions"]], body["total"]


@pytest.mark.parametrize("agent_id", [None, "listed-0-prod", "listed-2-prod", "nobody-at-all"])
@pytest.mark.parametrize("outcome", [None, *OUTCOMES])
def test_every_page_of_every_filter_is_right(
    admin: Rest, listed: list[dict[str, Any]], agent_id: str | None, outcome: str | None
) -> None:
    """By agent and outcome, alone and together; by offset and by what came before, newest first."""
    right = [
        one["decision_id"]
        for one in listed
        if agent_id in (None, one["action"]["agent_id"]) and outcome in (None, one["answer"]["outcome"])
    ]
    query = "".join(f"&{name}={value}" for name, value in (("agent_id", agent_id), ("outcome", outcome)) if value)
    for offset in (0, 1, len(right), 50):
        assert shown(admin, f"limit=4&offset={offset}{query}") == (right[offset : offset + 4], len(right))
    for place, before in enumerate(right):
        rest = right[place + 1 :]
        assert shown(admin, f"limit=3&before={before}{query}") == (rest[:3], len(rest))


def test_times_divide_the_list(admin: Rest, listed: list[dict[str, Any]]) -> None:
    """`until` and `since` of the same time split the list without overlap, to the millisecond."""
    moment = "2026-03-01T12:00:12"
    early = admin.get(f"/api/decisions?since=2026-03-01T12:00:00Z&until={moment}Z").body
    late = admin.get(f"/api/decisions?since={moment}Z&until=2026-03-01T13:00:00Z").body
    assert (early["total"], late["total"]) == (12, 18)
    assert (
        late["decisions"] + early["decisions"]
        == admin.get("/api/decisions?until=2026-03-01T13:00:00Z").body["decisions"]
    )
    assert admin.get(f"/api/decisions?since={moment}.001Z&until={moment}.999Z").body["total"] == 0
    assert admin.get(f"/api/decisions?since={moment}.000Z&until={moment}.001Z").body["total"] == 1


def test_a_list_refuses_what_it_cannot_do(admin: Rest) -> None:
    """An invalid outcome, time or id, and an offset that is too large."""
    for query in (
        "outcome=maybe",
        "since=noon",
        "before=x",
        "offset=10001",
        "limit=501",
        "agent_id=%00",
        "reason=BECAUSE",
        "shadow=maybe",
    ):
        answer = admin.get(f"/api/decisions?{query}")
        assert (answer.status, [error["path"] for error in answer.body["errors"]]) == (422, [query.partition("=")[0]])
    assert admin.get("/api/decisions/00000000-0000-7000-8000-000000000000").status == 404


def test_an_agents_key_sees_its_own_decisions(store: Served) -> None:
    """It sees only its own list, with or without a filter; those of other agents are refused."""
    agent = store.rest("agent")
    assert agent.get("/api/decisions").status == 403
    agent.register("seeing-agent-prod")
    own, other = decision(agent_id="seeing-agent-prod"), decision(agent_id="unseen-agent-prod")
    report(store, own, other)
    for query in ("", "?agent_id=seeing-agent-prod"):
        body = agent.get(f"/api/decisions{query}").body
        assert ([one["decision_id"] for one in body["decisions"]], body["total"]) == ([own["decision_id"]], 1)
    assert agent.get(f"/api/decisions/{own['decision_id']}").status == 200
    assert agent.get(f"/api/decisions/{other['decision_id']}").status == 404
    assert agent.get("/api/decisions?agent_id=unseen-agent-prod").status == 403


def test_a_list_counts_so_far_and_says_so(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the bound the total is exact; above it is the bound, and `total_exact` false."""
    monkeypatch.setattr(reading, "MAX_COUNTED", 3)
    report(fresh, *(decision() for _ in range(3)), decision("block"))
    admin = fresh.rest()
    for query, said in (("", (3, False)), ("?outcome=allow", (3, True)), ("?outcome=block", (1, True))):
        body = admin.get(f"/api/decisions{query}").body
        assert (body["total"], body["total_exact"]) == said
    assert len(admin.get("/api/decisions").body["decisions"]) == 4


def test_the_outcomes_of_the_interface_are_those_of_the_core() -> None:
    """A filter offers each of them and no other."""
    assert get_args(OutcomeName) == tuple(outcome.name.lower() for outcome in Outcome)


@pytest.mark.parametrize(
    ("moment", "digits"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), "00000000-0000"),
        (datetime(1970, 1, 1, microsecond=1, tzinfo=UTC), "00000000-0001"),
        (datetime(1970, 1, 1, microsecond=1000, tzinfo=UTC), "00000000-0001"),
        (datetime(1900, 1, 1, tzinfo=UTC), "00000000-0000"),
        (datetime(2026, 3, 1, tzinfo=UTC), "019ca6b1-dc00"),
        (datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "e6707a6e-b000"),
    ],
)
def test_a_time_is_a_place_among_the_ids(moment: datetime, digits: str) -> None:
    """The ids of its millisecond and later come after the bound, those of before it do not."""
    bound = ids.first(moment)
    assert bound.startswith(f"{digits}-7000-8")
    assert re.fullmatch(ids.PATTERN, bound)


POLICY = {"id": "pol_listed", "name": "Review", "priority": 10}
SHADOW = [{"policy": POLICY, "outcome": outcome} for outcome in ("block", "escalate", "block")]
ANSWERED: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"reason": "RISK_BELOW_AUTO_APPROVE"}, {}),
    ({"reason": "POLICY_MATCHED", "policy": POLICY}, {"tool": "drop_table"}),
    ({"reason": "MCP_TOOL_BLOCKED", "shadow": SHADOW}, {"tool": "drop_table"}),
    ({"reason": "POLICY_MATCHED", "policy": POLICY | {"id": "pol_other"}, "shadow": SHADOW[1:2]}, {"tool": "x" * 300}),
    # What no sidecar of ours writes is kept, and found by nothing of it.
    ({"policy": POLICY | {"id": "p" * 3000}}, {"tool": "drop\0table"}),
    ({"policy": POLICY | {"id": "\0"}}, {"tool": ""}),
)


def answered() -> list[dict[str, Any]]:
    """A decision for each entry of `ANSWERED`, of one agent."""
    said = [decision(agent_id="answered-prod", action={"action_type": "x", **action}) for _, action in ANSWERED]
    for one, (answer, _) in zip(said, ANSWERED, strict=True):
        one["answer"] |= answer
    return said


FOUND = {
    "reason=POLICY_MATCHED": [1, 3],
    "reason=RISK_BELOW_AUTO_APPROVE": [0, 4, 5],
    "policy=pol_listed": [1],
    "tool=drop_table": [1, 2],
    "shadow=block": [2],
    "shadow=escalate": [2, 3],
    "shadow=allow": [],
    "reason=POLICY_MATCHED&shadow=escalate": [3],
    "tool=drop_table&policy=pol_listed&outcome=allow": [1],
    f"tool={'x' * 256}": [],
}
"""Which of `ANSWERED` a filter finds."""


def test_what_was_answered_is_found(store: Served, admin: Rest) -> None:
    """By reason, policy, tool and shadow verdict, alone and together; whatever a sidecar writes there is kept."""
    said = answered()
    report(store, *said)
    for query, places in FOUND.items():
        body = admin.get(f"/api/decisions?agent_id=answered-prod&{query}").body
        shown = [one["decision_id"] for one in body["decisions"]]
        assert (shown, body["total"]) == ([said[place]["decision_id"] for place in reversed(places)], len(places)), (
            query
        )
    assert admin.get("/api/decisions?agent_id=answered-prod").body["total"] == len(said)


FILTERS = {
    "reason=APPROVED": "ix_decisions_reason",
    "outcome=allow&reason=MCP_TOOL_BLOCKED": "ix_decisions_reason",
    "agent_id=listed-0-prod&reason=MCP_TOOL_BLOCKED": "ix_decisions_agent_reason",
    "agent_id=listed-0-prod&reason=MCP_TOOL_BLOCKED&outcome=allow": "ix_decisions_agent_reason",
    "policy=pol_listed&since=2026-01-01T00:00:00Z": "ix_decisions_policy",
    "tool=drop_table": "ix_decisions_tool",
    "shadow=block&until=2030-01-01T00:00:00Z": "ix_decisions_shadow_block",
    "shadow=require_approval": "ix_decisions_shadow_require_approval",
    "since=2026-01-01T00:00:00Z": "decisions_pkey|sqlite_autoindex_decisions_1",
    "agent_id=listed-0-prod&since=2026-01-01T00:00:00Z": "ix_decisions_agent",
    "outcome=block&until=2030-01-01T00:00:00Z": "ix_decisions_outcome",
    "agent_id=listed-0-prod&outcome=block": "ix_decisions_agent_outcome",
}


@pytest.mark.parametrize("query", FILTERS)
def test_a_list_can_be_read_from_one_index(store: Served, listed: list[dict[str, Any]], query: str) -> None:
    """Both databases find a page and count it in the order of the index that is made for the filter."""
    with selects(store) as seen:
        assert store.rest().get(f"/api/decisions?{query}&limit=2").status == 200
    assert len(seen) == 2
    for statement, parameters in seen:
        plan = explained(store, statement, parameters, FILTERS[query])
        assert re.search(rf"\b({FILTERS[query]})\b", plan), plan
        assert not re.search("Sort|B-TREE|Seq Scan|SCAN decisions$", plan, re.MULTILINE), plan


USUAL = {
    "outcome=allow": "decisions_pkey|sqlite_autoindex_decisions_1",
    "reason=RISK_BELOW_AUTO_APPROVE": "decisions_pkey|sqlite_autoindex_decisions_1",
    "agent_id=listed-0-prod&reason=POLICY_MATCHED": "ix_decisions_agent",
    "agent_id=listed-0-prod&outcome=allow": "ix_decisions_agent",
}


@pytest.mark.parametrize("query", USUAL)
def test_a_page_of_what_is_usual_is_read_by_time(store: Served, listed: list[dict[str, Any]], query: str) -> None:
    """From the newest on: most decisions are found, so no index of their own pays."""
    with selects(store) as seen:
        assert store.rest().get(f"/api/decisions?{query}&limit=2").status == 200
    statement, parameters = seen[-1]
    plan = explained(store, statement, parameters, USUAL[query])
    assert re.search(rf"\b({USUAL[query]})\b", plan), plan
    assert not re.search("Sort|B-TREE|Seq Scan", plan), plan


_INDEXES = "SELECT indexname FROM pg_indexes WHERE tablename = 'decisions' AND indexname LIKE 'ix_%'"


@contextmanager
def selects(store: Served) -> Iterator[list[tuple[str, Any]]]:
    """The statements that read decisions meanwhile, with their parameters."""
    engine, seen = store.running._store.database._reader.sync_engine, []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM decisions" in statement:
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def explained(store: Served, statement: str, parameters: Any, index: str) -> str:
    """The database's plan for a statement, where the table is too large to be walked through."""
    database = store.running._store.database

    async def work() -> str:
        async with database.engine.connect() as connection:
            if not database.is_sqlite:
                # Of a small table one index is as good as another: is this one enough by itself?
                for (other,) in await connection.exec_driver_sql(_INDEXES):
                    if not re.fullmatch(index, other):
                        await connection.exec_driver_sql(f"DROP INDEX {other}")
                for way in ("seqscan", "bitmapscan", "sort"):
                    await connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
            explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
            return "\n".join(
                str(row[-1]) for row in await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            )

    return store.run(work())

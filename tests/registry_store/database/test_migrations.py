"""Migrations, up and down on both databases, with data in the tables."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from registry_store import retention
from registry_store.database import decision_tables, migrate, tables
from registry_store.database.columns import Base
from registry_store.database.transactions import Database
from registry_store.settings import Settings
from tests.registry_store.approving import record
from tests.registry_store.conftest import settings_in
from tests.registry_store.decisions.test_decision_lists import answered
from tests.registry_store.reporting import Log, decision, report
from tests.registry_store.serving import Rest, Served, served

REGISTRY = "/api/agents/registry"
POLICY = {"policy_name": "review", "policy_action": "block", "conditions": {"amount_above": 10.5}}
READ = (
    f"{REGISTRY}?limit=500",
    f"{REGISTRY}?tag=red&status=active&type=autonomous",
    f"{REGISTRY}/kept-agent-prod/versions",
    f"{REGISTRY}/kept-agent-prod/policies",
    f"{REGISTRY}/kept-agent-prod/activity",
    "/api/agents/policies",
    "/api/agents/mcp/servers",
)


def fill(admin: Rest) -> None:
    """Records of every kind."""
    admin.register("kept-agent-prod", tags=["red", "blue"], agent_type="autonomous", metadata={"ü": [1, 2.5, None]})
    admin.register("retired-agent-prod", tags=["red"])
    path = f"{REGISTRY}/kept-agent-prod"
    for made in (
        admin.post(f"{path}/activate", {"reason": "reviewed"}),
        admin.put(path, {"auto_approve_below": 10, "max_daily_budget_usd": 12.25}),
        admin.post(f"{path}/policies", POLICY),
        admin.post("/api/agents/policies", {**POLICY, "applies_to": {"tags": ["red"]}}),
        admin.post("/api/agents/mcp/servers", {"server_name": "files", "blocked_tools": ["rm"]}),
        admin.delete(f"{REGISTRY}/retired-agent-prod", {"reason": "replaced"}),
    ):
        assert made.status in (200, 201), made.body


def shown(store: Served, key: str | None) -> list[Any]:
    """What the store says of all of it."""
    rest = Rest(store.running.http_address, key)
    answers = [rest.get(path) for path in READ]
    assert {answer.status for answer in answers} == {200}
    return [answer.body for answer in answers]


def test_the_names_of_the_migrations_are_the_revisions_in_their_order() -> None:
    """The store reads them from the folder, without Alembic; Alembic reads the same from the files."""
    known = ScriptDirectory.from_config(migrate._config()).walk_revisions()
    assert [script.revision for script in known][::-1] == migrate.REVISIONS


def test_a_database_at_the_newest_schema_is_opened_without_alembic(tmp_path: Path) -> None:
    """A start that has nothing to migrate does not import it: that took a fifth of the time of a command."""
    program = (
        "from registry_store.cli import main; main(standalone_mode=False); import sys; print('alembic' in sys.modules)"
    )
    arguments = [sys.executable, "-c", program, "keys", "list", "--database", settings_in(tmp_path).database]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


async def move(settings: Settings, revision: str) -> set[str]:
    """Bring the database up or down to a revision; returns its tables."""

    def work(connection: Connection) -> set[str]:
        step = command.upgrade if revision == "head" else command.downgrade
        step(migrate._config(connection), revision)
        return set(inspect(connection).get_table_names())

    database = Database(settings.url())
    try:
        async with database.engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await database.close()


async def test_data_survives_every_step_down_and_up_again(settings: Settings) -> None:
    """Down to the first revision one by one and up to the newest: the same agents, versions, policies, log and keys."""
    with served(settings) as store:
        admin = store.rest()
        fill(admin)
        before = shown(store, admin.key)
    for _ in range(len(migrate.REVISIONS) - 1):
        await move(settings, "-1")
    assert {Base, tables.Base, decision_tables.Base} == {Base}  # all tables are known
    assert await move(settings, "head") == set(Base.metadata.tables) | {"alembic_version"}
    with served(settings) as store:
        assert shown(store, admin.key) == before
        Rest(store.running.http_address, admin.key).register("later-agent-prod", tags=["red"])
        assert Rest(store.running.http_address, admin.key).get(f"{REGISTRY}?tag=red").body["total"] == 3


async def test_a_key_that_is_bound_opens_nothing_below_the_revision_that_knows_of_it(settings: Settings) -> None:
    """A program that does not know what a key is bound to would let it sync every agent; others stay valid."""
    with served(settings) as store:
        admin = store.rest()
        bounds: list[dict[str, list[str]]] = [{}, {"agents": ["kept-agent-prod"]}, {"tags": ["red"]}]
        made = [admin.post("/api/keys", {"role": "sidecar", "name": "pod", **bound}).body for bound in bounds]
        report(store, decision(), log=Log("node-1"), key=made[0]["key"])
    await move(settings, "0005")
    await move(settings, "head")
    with served(settings) as store:
        rest = Rest(store.running.http_address, admin.key)
        shown = [rest.get(f"/api/keys/{one['key_id']}").body for one in made]
        assert [one["revoked_at"] is None for one in shown] == [True, False, False]
        assert {(one["agents"], one["tags"]) for one in shown} == {(None, None)}
        assert store.sql("SELECT node_id, owner, sequence FROM decision_logs") == [("node-1", None, 1)]


OLD_COLUMNS = "decision_id, node_id, sequence, agent_id, outcome, dry_run, decided_at, received_at, document"


async def insert_old(settings: Settings, *documents: dict[str, Any]) -> None:
    """Insert decisions as a store of the schema 0005 did."""
    database = Database(settings.url())
    values = ", ".join(f":{name}" for name in OLD_COLUMNS.split(", "))
    if not database.is_sqlite:
        values = values.replace(":document", "CAST(:document AS jsonb)")
    inserting = text(f"INSERT INTO decisions ({OLD_COLUMNS}) VALUES ({values})")
    try:
        async with database.engine.begin() as connection:
            for sequence, one in enumerate(documents, 1):
                at: Any = datetime.fromisoformat(one["decided_at"])
                row = {
                    "decision_id": one["decision_id"],
                    "node_id": "node-old",
                    "sequence": sequence,
                    "agent_id": one["action"]["agent_id"],
                    "outcome": one["answer"]["outcome"],
                    "dry_run": False,
                    "decided_at": f"{at:%Y-%m-%d %H:%M:%S.%f}" if database.is_sqlite else at,
                    "document": json.dumps(one),
                }
                await connection.execute(inserting, row | {"received_at": row["decided_at"]})
    finally:
        await database.close()


async def test_decisions_that_came_before_the_filters_are_found_by_them(settings: Settings) -> None:
    """The way up fills from the documents what a store of the newest revision writes as they come."""
    said = [one for one in answered() if "\\u0000" not in json.dumps(one)]
    names = "decision_id, reason, policy_id, tool, shadow_allow, shadow_block, shadow_escalate"
    columns = f"SELECT {names} FROM decisions ORDER BY decision_id"
    with served(settings) as store:
        report(store, *said)
        before = store.sql(columns)
    assert [len(set(column)) for column in zip(*before, strict=True)] == [len(before), 3, 3, 2, 1, 2, 2]
    await move(settings, "0007")
    await insert_old(settings, *said)
    await move(settings, "head")
    with served(settings) as store:
        assert store.sql(columns) == before
        assert (
            Rest(store.running.http_address, store.key("admin")).get("/api/decisions?shadow=block").body["total"] == 1
        )


async def test_decisions_that_came_before_batches_keep_their_documents(settings: Settings) -> None:
    """They are listed and read as before, with members of any version, and are deleted when they are too old."""
    now = datetime.now(UTC)
    said = [decision(at=now - timedelta(days=days)) | {"of_another_version": days} for days in (3, 2)]
    await move(settings, "0014")
    await insert_old(settings, *said)
    await move(settings, "head")
    with served(settings) as store:
        admin = store.rest()
        shown = admin.get("/api/decisions").body["decisions"]
        assert [one["of_another_version"] for one in shown] == [2, 3]
        assert shown[0] == said[1] | {
            "node_id": "node-old",
            "sequence": 2,
            "outcome": None,
            "received_at": said[1]["decided_at"],
        }
        assert admin.get(f"/api/decisions/{said[0]['decision_id']}").body == shown[1]
        running = store.running._store
        store.run(retention.tidy(running.database, running.settings.retention(), now + timedelta(days=87, hours=1)))
        assert store.sql("SELECT decision_id FROM decisions") == [(said[1]["decision_id"],)]


async def test_the_way_up_makes_a_first_version_of_each_policy(settings: Settings) -> None:
    """Its content as it is, with the time and the author of the last change; each change after it is a version more."""
    with served(settings) as store:
        admin = store.rest()
        fill(admin)
        for path in (f"{REGISTRY}/kept-agent-prod/policies", "/api/agents/policies"):
            own = f"{path}/{admin.get(path).body['policies'][0]['policy_id']}"
            Rest(admin.address, store.key("admin", "ann")).put(own, {"priority": 7, "version_notes": "SEC-1"})
    await move(settings, "0009")
    await move(settings, "head")
    with served(settings) as store:
        admin = Rest(store.running.http_address, admin.key)
        for path in (f"{REGISTRY}/kept-agent-prod/policies", "/api/agents/policies"):
            (policy,) = admin.get(path).body["policies"]
            own = f"{path}/{policy['policy_id']}"
            (version,) = admin.get(f"{own}/versions").body["versions"]
            assert (version["version"], version["is_active"], version["created_by"]) == ("1.0.0", True, "ann")
            assert version["created_at"] == policy["updated_at"]
            stored = admin.get(f"{own}/versions/1.0.0").body["configuration"]
            assert stored.items() <= policy.items()
            assert admin.put(own, {"priority": 8}).body["version"] == "1.1.0"
            admin.delete(own)
            back = admin.post(f"{own}/rollback", {"target_version": "1.0.0"}).body
            assert (back["priority"], back["created_at"]) == (7, policy["created_at"])


async def test_approvals_that_are_pending_go_on_in_the_new_schema(settings: Settings) -> None:
    """Those of an older store: people find whether they need MFA, decide them as before, and none is merged."""
    with served(settings) as store:
        key = store.key("admin")
        asked = [record(mfa_required=mfa) for mfa in (False, True)]
        report(store, *asked)
    await move(settings, "0009")
    await insert_old(settings, *asked)
    await move(settings, "head")
    with served(settings) as store:
        admin = Rest(store.running.http_address, key)
        path = "/api/approvals"
        shown = {one["decision_id"]: one for one in admin.get(f"{path}?status=pending").body["approvals"]}
        assert [shown[one["decision_id"]]["mfa_required"] for one in asked] == [False, True]
        assert {(one["min_approvers"], one["next_team"], len(one["approved_by"])) for one in shown.values()} == {
            (1, None, 0)
        }
        report(store, record())
        assert admin.get(f"{path}?status=pending").body["total"] == 3
        for one in shown:
            assert admin.post(f"{path}/{shown[one]['approval_id']}/approve").body["status"] == "approved"


async def test_what_needs_two_people_is_overdue_for_a_program_that_asks_for_one(settings: Settings) -> None:
    """The way down ends it; what one person may decide stays pending, with its team."""
    with served(settings) as store:
        key = store.key("admin")
        for params in ({"min_approvers": 2}, {"team": "security"}):
            report(store, record(params=params))
    await move(settings, "0009")
    await move(settings, "head")
    with served(settings) as store:
        listed = Rest(store.running.http_address, key).get("/api/approvals").body["approvals"]
        assert sorted((one["status"], one["team"]) for one in listed) == [("expired", None), ("pending", "security")]


async def test_the_way_down_counts_what_is_there(settings: Settings) -> None:
    """A program of revision 0007 reads its lists from counts: they are those of the agents, and triggers keep them."""
    with served(settings) as store:
        fill(store.rest())
    await move(settings, "0007")
    counts = "SELECT tag, status, agent_type, agents FROM agent_counts WHERE agents > 0 ORDER BY tag, status"
    database = Database(settings.url())
    async with database.engine.begin() as connection:
        before = (await connection.exec_driver_sql(counts)).all()
        await connection.exec_driver_sql("UPDATE agents SET status = 'draft' WHERE agent_id = 'retired-agent-prod'")
        after = (await connection.exec_driver_sql(counts)).all()
    await database.close()
    kept, draft = ("active", "autonomous", 1), ("draft", "supervised", 1)
    retired = ("retired", "supervised", 1)
    assert before == [("", *kept), ("", *retired), ("blue", *kept), ("red", *kept), ("red", *retired)]
    assert after == [("", *kept), ("", *draft), ("blue", *kept), ("red", *kept), ("red", *draft)]
    await move(settings, "head")
    with served(settings) as store:
        assert store.rest().get(f"{REGISTRY}?tag=red&status=draft").body["total"] == 1


async def test_the_way_down_ends_with_nothing(settings: Settings) -> None:
    """Below the first revision nothing is left, no function or trigger either, that the next way up would meet."""
    with served(settings) as store:
        fill(store.rest())
    assert await move(settings, "base") == {"alembic_version"}
    await move(settings, "head")
    with served(settings) as store:
        store.rest().register("first-agent-prod")


async def test_the_migrations_make_the_tables_that_the_code_uses(settings: Settings) -> None:
    """Alembic finds nothing left to change after the last migration."""

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    await migrate.migrated(settings.url())
    database = Database(settings.url())
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()

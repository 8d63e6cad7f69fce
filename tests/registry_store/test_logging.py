"""What the store logs: changes by whom, refused keys, sidecars that come and go."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from registry_store.access.refusals import MAX_LINES, WINDOW_SECONDS, RefusedKeys
from registry_store.rpc.sync import Pace
from registry_store.settings import Settings
from tests.programs import started
from tests.registry_store.serving import PATIENT, Rest, Served, in_thread, served, subscriber
from tests.waiting import eventually

REGISTRY = "/api/agents/registry"
WRONG = f"owkai_0123456789abcdef_{'x' * 43}"


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    """Lines from `info` up are captured."""
    caplog.set_level(logging.INFO)


def said(caplog: pytest.LogCaptureFixture, module: str) -> list[str]:
    """The messages that one module of the store logged."""
    return [record.getMessage() for record in caplog.records if record.name == f"registry_store.{module}"]


def test_each_committed_change_is_one_line(fresh: Served, caplog: pytest.LogCaptureFixture) -> None:
    """It says what was done to what, by whom and which way; what fails leaves none, and no line holds a secret."""
    admin = fresh.rest()
    caplog.clear()
    admin.register("changed-agent-prod", description="a description")
    admin.post(f"{REGISTRY}/changed-agent-prod/activate", {"reason": "for a reason"}, User_Agent="ascend/0.1")
    assert admin.post(f"{REGISTRY}/changed-agent-prod/activate", {"reason": 7}).status == 422
    made = admin.post("/api/keys", {"role": "viewer", "name": "auditor"}).body
    assert said(caplog, "journal.activity") == [
        "registered: agent `changed-agent-prod`, by `tester` via api",
        "activated: agent `changed-agent-prod`, by `tester` via sdk",
        f"key_created: key `{made['key_id']}`, by `tester` via api",
    ]
    assert made["key"] not in caplog.text
    assert "a description" not in caplog.text
    line = vars(next(record for record in caplog.records if record.name.endswith("activity")))
    assert (line["subject_id"], line["performed_by"]) == ("changed-agent-prod", "tester")
    assert line["key_id"] == str(admin.key).split("_")[1]


def test_a_change_of_many_is_one_line_as_well(fresh: Served, caplog: pytest.LogCaptureFixture) -> None:
    """An emergency stop names the first of its agents, and how many there are."""
    admin = fresh.rest()
    for number in range(3):
        admin.register(f"stopped-{number}-prod", tags=["group"])
        admin.post(f"{REGISTRY}/stopped-{number}-prod/activate")
    caplog.clear()
    assert admin.post("/api/agents/emergency-stop", {"tags": ["group"], "reason": "drill"}).status == 200
    lines = said(caplog, "journal.activity")
    assert len(lines) == len({line.partition(":")[0] for line in lines})
    assert any("stopped-0-prod` and 2 more, by `tester` via api" in line for line in lines)


def test_refused_keys_are_logged_by_source(fresh: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown ones without the key, revoked ones with their id, which is no secret."""
    admin = fresh.rest()
    key = fresh.key("viewer", "leaver")
    key_id = key.split("_")[1]
    admin.delete(f"/api/keys/{key_id}")
    for text in (WRONG, key):
        assert Rest(admin.address, text).get(REGISTRY).status == 401
    assert said(caplog, "access.refusals") == [
        "refused a key from `127.0.0.1`: the key is unknown",
        f"refused a key from `127.0.0.1`: the key is revoked: `{key_id}`",
    ]
    assert key not in caplog.text
    assert WRONG not in caplog.text


def test_a_flood_of_wrong_keys_is_a_few_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its sources; the first line of a later minute says how many were left out."""
    refused = RefusedKeys()
    for number in range(5_000):
        refused.note(f"2001:db8::{number:x}", "the key is unknown", 1_000.0 + number / 100)
    assert len(caplog.messages) == MAX_LINES
    refused.note("192.0.2.1", "the key is unknown", 1_000.0 + WINDOW_SECONDS)
    assert caplog.messages[MAX_LINES:] == [
        f"refused a key from `192.0.2.1`: the key is unknown ({5_000 - MAX_LINES} more refusals were not logged)"
    ]


async def test_sidecars_come_and_go(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Who connects with which key and for what, and why it is gone."""
    with served(settings, PATIENT) as store:
        admin, key = await in_thread(store.rest), await in_thread(store.key, "sidecar", "edge")
        async with subscriber(store.running.grpc_address, key) as stream:
            await stream.hello()
            await stream.snapshot()
            await in_thread(admin.delete, f"/api/keys/{key.split('_')[1]}")
            with pytest.raises(grpc.aio.AioRpcError):
                while True:
                    await stream.next()
        await eventually(lambda: len(said(caplog, "rpc.sync")) == 2)
    came, went = said(caplog, "rpc.sync")
    assert came.startswith("sidecar `")
    assert "connected: node name ``, key `edge`, version `" in came
    assert went.endswith("disconnected: the key is revoked or has expired")


async def test_the_scheduled_end_of_a_stream_is_no_line(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is the return from it: each sidecar does so every few minutes."""
    with served(settings, Pace(silence=60.0, send=60.0, lifetime=(0.1, 0.2))) as store:
        key = await in_thread(store.key, "sidecar")
        for _ in range(2):
            async with subscriber(store.running.grpc_address, key) as stream:
                await stream.hello()
                with pytest.raises(AssertionError, match="the stream has ended"):
                    while True:
                        await stream.read()
        await eventually(lambda: store.running._store.sidecars.count() == 0)
    assert len(said(caplog, "rpc.sync")) == 1


async def test_the_store_logs_as_json(tmp_path: Path) -> None:
    """Each line of its log is an object, from the level that is asked for."""
    where = ("--database", f"sqlite:///{tmp_path / 'registry.db'}", "--http=127.0.0.1:0", "--grpc=127.0.0.1:0")
    began = datetime.now(UTC)
    async with started("registry-store", "serve", *where, "--log-format=json", "--log-level=info") as store:
        line = await store.logged("listening")
        assert datetime.fromisoformat(line["time"]).replace(microsecond=0) >= began.replace(microsecond=0)
        assert (line["level"], line["logger"]) == ("info", "registry_store.cli.serve")
        assert line["http"] in line["message"]
        assert json.dumps(line)
        assert await store.stopped() == 0

"""The client's registry half against a real registry over HTTP."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

import ascend
from ascend import AscendClient, AsyncAscendClient, Registry
from tests.registry_store.approving import record
from tests.registry_store.reporting import Log, Reporter
from tests.whole import Central, store

T = TypeVar("T")
AGENT = "client-books-prod"


@pytest.fixture
async def central(tmp_path: Path) -> AsyncIterator[Central]:
    async with store(tmp_path) as central:
        yield central


@pytest.fixture
async def registry(central: Central) -> AsyncIterator[Registry]:
    with registry_of(central, await key(central, "admin")) as registry:
        yield registry


async def key(central: Central, role: str) -> str:
    answer = await central.rest.call("POST", "/api/keys", {"role": role, "name": f"{role} of the tests"})
    made: str = answer.body["key"]
    return made


def registry_of(central: Central, api_key: str) -> Registry:
    return Registry(f"http://{central.rest.address}/", api_key)


async def off(call: Callable[[], T]) -> T:
    """The result of a blocking call, made where it does not block the store of this test."""
    return await asyncio.to_thread(call)


async def test_an_agent_is_registered_read_and_updated(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """A record has every field; a second registration changes nothing, and warns only of fields that differ."""
    first = await off(lambda: registry.register(agent_id=AGENT, display_name="Books", tags=["b", "a"]))
    await off(lambda: registry.register(agent_id=AGENT, display_name="Books", tags=("b", "a")))
    assert not [record for record in caplog.records if record.name == "ascend"]
    second = await off(lambda: registry.register(agent_id=AGENT, display_name="Other", tags=["c"]))
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "ascend"]
    assert warning == f"agent `{AGENT}` is registered already, and differs in `display_name`, `tags`"
    assert (first["status"], second["display_name"], second["tags"]) == ("active", "Books", first["tags"])
    changed = await off(lambda: registry.update(AGENT, auto_approve_below=20, version_notes="SEC-1"))
    assert (changed["auto_approve_below"], changed["version"]) == (20, "1.1.0")
    assert await off(lambda: registry.get(AGENT)) == {name: changed[name] for name in changed if name != "warnings"}
    assert [record["agent_id"] for record in await off(lambda: list(registry.agents(tag="a")))] == [AGENT]
    assert await off(lambda: list(registry.agents(status="draft", agent_type="custom"))) == []


async def test_versions_are_listed_and_rolled_back_to(registry: Registry) -> None:
    """Newest first; one is active."""
    await off(lambda: registry.register(agent_id=AGENT, display_name="Books"))
    await off(lambda: registry.update(AGENT, auto_approve_below=20))
    await off(lambda: registry.update(AGENT, auto_approve_below=10))
    back = await off(lambda: registry.rollback(AGENT, "1.1.0", "SEC-2"))
    assert (back["version"], back["auto_approve_below"]) == ("1.1.0", 20)
    versions = await off(lambda: list(registry.versions(AGENT)))
    assert [(one["version"], one["is_active"]) for one in versions] == [
        ("1.2.0", False),
        ("1.1.0", True),
        ("1.0.0", False),
    ]


async def test_policies_and_servers_are_added(registry: Registry) -> None:
    """A policy's name may be taken, an MCP server is registered again without an error."""
    await off(lambda: registry.register(agent_id=AGENT, display_name="Books"))
    policy: dict[str, Any] = {"policy_name": "p", "policy_action": "block", "conditions": {"risk_above": 50}}
    added = await off(lambda: registry.add_policy(AGENT, **policy))
    assert (added["agent_id"], added["conditions"]) == (AGENT, {"risk_above": 50})
    with pytest.raises(ascend.Conflict, match="policy name `p` is taken"):
        await off(lambda: registry.add_policy(AGENT, **policy))
    assert await off(lambda: list(registry.policies(AGENT))) == [added]
    server = await off(lambda: registry.register_mcp_server(server_name="files", blocked_tools=["rm"]))
    assert await off(lambda: registry.register_mcp_server(server_name="files")) == server


async def test_versions_are_compared(registry: Registry) -> None:
    """Field by field, with both values."""
    await off(lambda: registry.register(agent_id=AGENT, display_name="Books"))
    await off(lambda: registry.update(AGENT, auto_approve_below=20))
    difference = await off(lambda: registry.difference(AGENT, "1.0.0", "1.1.0"))
    assert difference["changes"] == [{"field": "auto_approve_below", "before": 30, "after": 20}]


@pytest.mark.parametrize("agent_id", [AGENT, None])
async def test_policies_have_versions_of_their_own(
    central: Central, registry: Registry, monkeypatch: pytest.MonkeyPatch, agent_id: str | None
) -> None:
    """Of an agent and of the organisation: listed, compared and rolled back to, also after the policy was removed."""
    monkeypatch.setattr("ascend.registry.PAGE", 2)
    await off(lambda: registry.register(agent_id=AGENT, display_name="Books"))
    path = f"/api/agents/registry/{AGENT}/policies" if agent_id else "/api/agents/policies"
    policy = (await central.rest.call("POST", path, {"policy_name": "p", "policy_action": "block"})).body
    for priority in (7, 9):
        await central.rest.call("PUT", f"{path}/{policy['policy_id']}", {"priority": priority})

    async def versions() -> list[tuple[str, bool]]:
        found = await off(lambda: list(registry.policy_versions(agent_id, policy["policy_id"])))
        return [(one["version"], one["is_active"]) for one in found]

    assert await versions() == [("1.2.0", True), ("1.1.0", False), ("1.0.0", False)]
    difference = await off(lambda: registry.policy_difference(agent_id, policy["policy_id"], "1.1.0", "1.2.0"))
    assert difference["changes"] == [{"field": "priority", "before": 7, "after": 9}]
    with pytest.raises(ascend.Stale):
        await off(
            lambda: registry.rollback_policy(agent_id, policy["policy_id"], "1.1.0", if_revision=policy["revision"])
        )
    back = await off(lambda: registry.rollback_policy(agent_id, policy["policy_id"], "1.1.0", "SEC-5"))
    assert (back["version"], back["priority"]) == ("1.1.0", 7)
    await central.rest.call("DELETE", f"{path}/{policy['policy_id']}")
    assert await versions() == [("1.2.0", False), ("1.1.0", False), ("1.0.0", False)]
    again = await off(lambda: registry.rollback_policy(agent_id, policy["policy_id"], "1.0.0"))
    assert (again["policy_id"], again["priority"]) == (policy["policy_id"], policy["priority"])


async def test_the_status_is_changed_and_everything_is_in_the_activity(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newest first, over as many pages as it takes, as done by the SDK."""
    monkeypatch.setattr("ascend.registry.PAGE", 2)
    await off(lambda: registry.register(agent_id=AGENT, display_name="Books"))
    assert (await off(lambda: registry.suspend(AGENT, "SEC-3")))["status"] == "suspended"
    assert (await off(lambda: registry.activate(AGENT)))["status"] == "active"
    assert (await off(lambda: registry.retire(AGENT, "SEC-4")))["status"] == "retired"
    entries = await off(lambda: list(registry.activity(AGENT)))
    assert [entry["activity_type"] for entry in entries] == ["retired", "activated", "suspended", "registered"]
    assert (entries[2]["activity_description"], entries[0]["performed_via"]) == ("SEC-3", "sdk")


async def test_a_list_is_read_page_by_page(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its end, whatever the size of a page."""
    monkeypatch.setattr("ascend.registry.PAGE", 2)
    ids = [f"client-{number}-prod" for number in range(5)]
    for agent_id in ids:
        await off(lambda agent_id=agent_id: registry.register(agent_id=agent_id, display_name="x"))  # type: ignore[misc]
    assert [record["agent_id"] for record in await off(lambda: list(registry.agents()))] == ids


async def test_an_update_of_an_outdated_revision_is_refused(registry: Registry) -> None:
    """If it names the revision that it is based on."""
    record = await off(lambda: registry.register(agent_id=AGENT, display_name="Books"))
    changed = await off(lambda: registry.update(AGENT, if_revision=record["revision"], auto_approve_below=20))
    with pytest.raises(ascend.Stale) as refused:
        await off(lambda: registry.update(AGENT, if_revision=record["revision"], auto_approve_below=10))
    assert refused.value.status == 412
    with pytest.raises(ascend.Stale):
        await off(lambda: registry.rollback(AGENT, "1.0.0", if_revision=record["revision"]))
    rolled = await off(lambda: registry.rollback(AGENT, "1.0.0", if_revision=changed["revision"]))
    assert rolled["version"] == "1.0.0"


async def test_approvals_are_listed_and_decided(
    central: Central, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, over as many pages as it takes; a denial says why."""
    monkeypatch.setattr("ascend.registry.PAGE", 2)
    asked = [record(agent_id=AGENT, params={"approvers": ["finance"]}, amount=amount) for amount in range(3)]
    async with grpc.aio.insecure_channel(central.grpc_address) as channel:
        await Reporter(channel, central.key_file.read_text()).send(Log().report(*asked))
    first, second, third = (one["opens"]["approval_id"] for one in asked)
    pending = await off(lambda: list(registry.approvals(status="pending", agent_id=AGENT)))
    assert {one["approval_id"] for one in pending} == {first, second, third}
    approved = await off(lambda: registry.approve(first, "FIN-1"))
    assert (approved["status"], approved["comment"]) == ("approved", "FIN-1")
    assert await off(lambda: registry.approval(first)) == approved
    assert (await off(lambda: registry.deny(second, "FIN-2")))["status"] == "denied"
    with pytest.raises(ascend.Conflict, match="is denied"):
        await off(lambda: registry.approve(second))
    with pytest.raises(ascend.Invalid):
        await off(lambda: registry.deny(third, ""))
    waiting = await off(lambda: list(registry.approvals(for_me=True)))
    assert [one["approval_id"] for one in waiting] == [third]
    with registry_of(central, await key(central, "approver")) as approver:
        assert await off(lambda: list(approver.approvals(mine=True))) == []
        assert await off(lambda: list(approver.approvals(for_me=True))) == []
        with pytest.raises(ascend.NotAllowed, match="is for `finance` to decide"):
            await off(lambda: approver.approve(third))
    assert [one["approval_id"] for one in await off(lambda: list(registry.approvals(status="pending")))] == [third]


async def test_every_refusal_has_its_type(central: Central, registry: Registry) -> None:
    """With the status, and every field that is wrong."""
    with pytest.raises(ascend.NotFound, match="no agent `nobody-prod`"):
        await off(lambda: registry.get("nobody-prod"))
    with pytest.raises(ascend.Invalid) as wrong:
        await off(lambda: registry.register(agent_id=AGENT, display_name="x", max_risk_threshold=101, tags=7))
    assert [problem.path for problem in wrong.value.problems] == ["tags", "max_risk_threshold"]
    with registry_of(central, await key(central, "viewer")) as viewer, pytest.raises(ascend.NotAllowed):
        await off(lambda: viewer.register(agent_id=AGENT, display_name="x"))
    with registry_of(central, "owkai_none") as stranger, pytest.raises(ascend.NotAuthenticated) as unknown:
        await off(lambda: stranger.get(AGENT))
    assert unknown.value.status == 401
    with Registry("http://127.0.0.1:1", "k") as nobody, pytest.raises(ascend.Unavailable) as silent:
        await off(lambda: nobody.get(AGENT))
    assert silent.value.status == 0
    assert issubclass(ascend.Unavailable, ascend.RegistryError)


async def test_a_client_of_decisions_has_its_registry(central: Central) -> None:
    """With the same key."""
    url = f"http://{central.rest.address}"
    with AscendClient(await key(central, "admin"), AGENT, "Books", registry_url=url) as client:
        await off(client.register)
        assert (await off(lambda: client.registry.get(AGENT)))["display_name"] == "Books"


@pytest.mark.parametrize("client", [AscendClient, AsyncAscendClient])
@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://registry.internal:8080", "registry.internal"),
        ("HTTP://user:password@10.0.0.7/", "10.0.0.7"),
        ("http://127.0.0.1@evil.example", "evil.example"),
        ("http://[2001:db8::7]:8080", "[2001:db8::7]"),
        ("10.0.0.7:8080", "10.0.0.7"),
    ],
)
def test_a_key_sent_in_clear_beyond_this_host_is_warned_of(
    client: type[AscendClient | AsyncAscendClient], url: str, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each client, with the host of the registry and without the key."""
    client("owkai_secret", AGENT, "Books", registry_url=url)
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ascend", "WARNING", f"the API key is sent in clear to the registry at `{host}`: use an https URL")
    ]


@pytest.mark.parametrize(
    ("api_key", "url"),
    [
        ("owkai_secret", "https://registry.internal:8080"),
        ("owkai_secret", "http://127.0.0.2:8080"),
        ("owkai_secret", "http://[::1]:8080"),
        ("owkai_secret", "http://LocalHost:8080"),
        ("owkai_secret", "http://[registry"),
        ("", "http://registry.internal:8080"),
    ],
)
def test_a_key_that_is_not_sent_in_clear_beyond_this_host_gets_no_warning(
    api_key: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over https, on this host, where no request can be made, and where there is no key."""
    with Registry(url, api_key):
        assert caplog.records == []


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives these statuses in turn, then 200 always; and the headers that it was sent."""
    left, seen = list(statuses), []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append(dict(self.headers))
            status = left.pop(0) if left else 200
            if status == 0:
                self.close_connection = True
                return
            body = json.dumps({"status": status}).encode()
            self.send_response(status)
            self.send_header("retry-after", "0")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names that the library looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [0, 429, 503])
def test_idempotent_requests_are_retried(status: int) -> None:
    """A lost answer, too many requests, a database out of reach."""
    with answering(status, status) as (url, seen), Registry(url, "k") as registry:
        assert registry.get(AGENT) == {"status": 200}
        assert registry.update(AGENT, tags=[]) == {"status": 200}
    assert {one["user-agent"] for one in seen} == {f"ascend/{version('agent-pdp')}"}


@pytest.mark.parametrize(("status", "tries"), [(0, 1), (503, 1), (429, 2)])
def test_other_requests_are_not_retried_if_they_may_have_been_carried_out(status: int, tries: int) -> None:
    """A policy is not added again; nor what the first try may have decided, or made stale."""
    for call in (
        lambda registry: registry.add_policy(AGENT, policy_name="p", policy_action="block"),
        lambda registry: registry.update(AGENT, if_revision=7, tags=[]),
        lambda registry: registry.approve("some id"),
        lambda registry: registry.deny("some id", "why"),
    ):
        with answering(status) as (url, seen), Registry(url, "k") as registry:
            if tries == 1:
                with pytest.raises(ascend.Unavailable):
                    call(registry)
            else:
                assert call(registry) == {"status": 200}
        assert len(seen) == tries


def test_an_answer_of_another_server_is_an_error() -> None:
    """For example, a page of a proxy."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Registry(url, "k") as registry, pytest.raises(ascend.RegistryError, match="but it is not a registry"):
            registry.get(AGENT)
        thread.join()

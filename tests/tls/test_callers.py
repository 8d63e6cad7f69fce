"""Callers of a sidecar on TCP: over TLS, told apart by their certificates, by every protocol."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
import urllib3

from ascend import AscendClient, AsyncAscendClient
from ascend.calls import tls
from pdp.callers.agents_file import CallerAgents
from pdp.injector.claims import AgentsFile
from pdp.serving.addresses import Address
from pdp.serving.tls.certificates import Files
from pdp.serving.tls.reloaded import FileError
from pdp.settings import SettingsError, address
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests import programs
from tests.tls.certificates import Pair, write_pair
from tests.tls.running import central
from tests.waiting import BOUND_SECONDS, eventually, eventually_gives
from tests.whole import AGENT, FINANCIAL, Http, settings, sidecar

OTHER = "support-other-test"
PAYER = "spiffe://example.org/ns/payments/sa/payer"
ACTION = {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api", "risk_score": 10}
FOREIGN = ACTION | {"agent_id": OTHER}
REFUSAL = f"agent_id: the client certificate does not allow agent `{OTHER}`"


class Place(NamedTuple):
    """A sidecar on TCP and on a Unix socket, the pair of a caller that may ask for one of its two agents, the file."""

    grpc: str
    socket: str
    http: str
    http_socket: str
    payer: Pair
    agents: Path
    authority: trustme.CA

    def channel(self, target: str = "") -> grpc.aio.Channel:
        if target:
            return grpc.aio.insecure_channel(target)
        files = (self.payer.ca, self.payer.key, self.payer.cert)
        return grpc.aio.secure_channel(self.grpc, grpc.ssl_channel_credentials(*(one.read_bytes() for one in files)))

    async def post(self, path: str, body: Any, pair: Pair | None = None) -> tuple[int, Any]:
        """The status and the JSON of an answer over HTTPS."""
        pair = pair or self.payer

        def call() -> tuple[int, Any]:
            with urllib3.PoolManager(ca_certs=str(pair.ca), cert_file=str(pair.cert), key_file=str(pair.key)) as pool:
                answer = pool.request("POST", f"https://{self.http}{path}", json=body)
                return answer.status, answer.json()

        return await asyncio.to_thread(call)


async def post_to_socket(address: str, path: str, body: Any) -> int:
    """The status of an answer over HTTP on a Unix socket."""
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


async def test_what_a_caller_may_ask_changes_in_its_open_stream(place: Place) -> None:
    """A stream may be open for days."""
    async with place.channel() as channel:
        stream = PolicyDecisionPointStub(channel).EvaluateStream()

        async def ask() -> str:
            await stream.write(pb.EvaluateStreamRequest(request=pb.EvaluateRequest(action=pb.Action(**FOREIGN))))
            answer: pb.EvaluateStreamResponse = await stream.read()
            return answer.result.WhichOneof("result") or ""

        assert await ask() == "error"
        place.agents.write_text(f"{PAYER}: ['{OTHER}']\n")
        await eventually_gives(ask, lambda kind: kind == "response")
        place.agents.write_text("{}\n")
        await eventually_gives(ask, lambda kind: kind == "error")
        await stream.done_writing()


@pytest.fixture(scope="module", name="authority")
def one_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def place(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Place]:
    server = write_pair(tmp_path / "server", authority)
    payer = write_pair(tmp_path / "payer", authority, PAYER)
    agents = tmp_path / "agents.yaml"
    agents.write_text(f"{PAYER}: [{AGENT[:7]}*]\n")
    async with AsyncExitStack() as life:
        store = await life.enter_async_context(central(tmp_path / "store", None))
        rest = Http(store.running.http_address, store.admin)
        for agent_id in (AGENT, OTHER):
            body = FINANCIAL | {"agent_id": agent_id}
            assert (await rest.call("POST", "/api/agents/registry", body)).status == 201
        rest.close()
        chosen = settings(
            tmp_path,
            store.running.grpc_address,
            key_file=store.key_file,
            listen=(address("--listen", "127.0.0.1:0"), Address(path=str(tmp_path / "pdp.sock"))),
            tls=Files(server.cert, server.key, server.ca),
            caller_agents=agents,
            http=(address("--http", "127.0.0.1:0"), Address(path=str(tmp_path / "http.sock"))),
        )
        beside = await life.enter_async_context(sidecar(chosen))
        await beside.sidecar.ready.wait()
        yield Place(*beside.sidecar.grpc_addresses, *beside.sidecar.http_addresses, payer, agents, authority)


async def test_a_caller_asks_for_its_agents_alone_over_grpc(place: Place) -> None:
    """By every RPC; a caller on the Unix socket, which is of the sidecar's own pod, asks for any."""
    mine, foreign = pb.Action(**ACTION), pb.Action(**FOREIGN)
    async with place.channel() as channel:
        stub = PolicyDecisionPointStub(channel)
        allowed = await stub.Evaluate(pb.EvaluateRequest(action=mine), timeout=BOUND_SECONDS)
        assert allowed.outcome == pb.OUTCOME_ALLOW
        ended = {"decision_id": allowed.decision_id, "result": pb.ACTION_RESULT_SUCCEEDED}
        denied = {
            "Evaluate": stub.Evaluate(pb.EvaluateRequest(action=foreign)),
            "Explain": stub.Explain(pb.ExplainRequest(action=foreign)),
            "ReportOutcome": stub.ReportOutcome(pb.ReportOutcomeRequest(agent_id=OTHER, **ended)),
        }
        for name, call in denied.items():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert (refused.value.code(), refused.value.details()) == (
                grpc.StatusCode.PERMISSION_DENIED,
                REFUSAL,
            ), name
        requests = [pb.EvaluateRequest(action=one) for one in (mine, foreign)]
        batch = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=requests))
        assert [one.WhichOneof("result") for one in batch.results] == ["response", "error"]
        assert batch.results[1].error.message == REFUSAL
        stream = stub.EvaluateStream()
        await stream.write(pb.EvaluateStreamRequest(request=requests[1]))
        assert (await stream.read()).result.error.message == REFUSAL
        stream.cancel()
    async with place.channel(place.socket) as channel:
        answer = await PolicyDecisionPointStub(channel).Evaluate(pb.EvaluateRequest(action=foreign))
        assert answer.outcome == pb.OUTCOME_ALLOW


async def test_a_caller_asks_for_its_agents_alone_over_http(place: Place) -> None:
    """In JSON and by the Connect protocol; a certificate that the file does not name asks for none."""
    evaluate = "/pdp.v1.PolicyDecisionPoint/Evaluate"
    status, answer = await place.post("/v1/evaluate", {"action": ACTION})
    assert (status, answer["outcome"]) == (200, "allow")
    outcome = {"decision_id": answer["decision_id"], "agent_id": OTHER, "result": "succeeded"}
    for path, body in (("/v1/evaluate", FOREIGN), ("/v1/explain", FOREIGN), ("/v1/outcomes", outcome)):
        status, problem = await place.post(path, body if path == "/v1/outcomes" else {"action": body})
        assert (status, problem["title"], problem["detail"]) == (403, "Not your agent", REFUSAL), path
    assert (await place.post(evaluate, {"action": ACTION}))[0] == 200
    assert await place.post(evaluate, {"action": FOREIGN}) == (403, {"code": "permission_denied", "message": REFUSAL})
    assert await post_to_socket(place.http_socket, "/v1/evaluate", {"action": FOREIGN}) == 200
    assert await post_to_socket(place.http_socket, evaluate, {"action": FOREIGN}) == 200
    unknown = write_pair(place.agents.parent / "unknown", place.authority, "unknown.example")
    assert (await place.post("/v1/evaluate", {"action": ACTION}, unknown))[0] == 403


async def test_an_approval_of_a_foreign_agent_is_unknown(place: Place) -> None:
    """As one of an agent that the sidecar does not serve."""
    async with place.channel(place.socket) as at_socket, place.channel() as channel:
        local = PolicyDecisionPointStub(at_socket)
        risky = pb.EvaluateRequest(action=pb.Action(**FOREIGN | {"risk_score": 50}))
        approval_id = (await local.Evaluate(risky)).approval_id
        update = await local.WaitForApproval(pb.WaitForApprovalRequest(approval_id=approval_id)).read()
        assert update.state == pb.APPROVAL_STATE_PENDING
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await (
                PolicyDecisionPointStub(channel)
                .WaitForApproval(pb.WaitForApprovalRequest(approval_id=approval_id))
                .read()
            )


async def test_a_new_file_is_used_and_a_wrong_one_is_not(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong one is logged with its entry."""
    caplog.set_level(logging.INFO)
    place.agents.write_text(f"{PAYER}: ['{OTHER}']\n")
    await eventually_gives(lambda: place.post("/v1/evaluate", {"action": FOREIGN}), lambda answer: answer[0] == 200)
    place.agents.write_text(f"{PAYER}: all\n")
    wrong = f"`--caller-agents`: `{place.agents}`: line 1: `{PAYER}`: is not a list of at most 1000 agents; the file"
    await eventually(lambda: any(line.startswith(wrong) for line in caplog.messages))
    assert (await place.post("/v1/evaluate", {"action": FOREIGN}))[0] == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML: while parsing a flow node"),
        ("- a", "is not a mapping of at most 10000 names"),
        ("a b: [x]", "line 1: `a b` is not a host name or a URI"),
        ("a.example: [x]\nA.example: [y]", "line 2: duplicate name `a.example`"),
        ("a: &x [b]\nc: [d, *x]", 'line 2: `c`: `["b"]` is not an agent id or a glob'),
        ("a: [&x b, *x]", "line 1: aliases are not supported"),
        ("a: [b c]", "line 1: `a`: `b c` is not an agent id or a glob"),
        ("a: {b: c}", "line 1: `a`: is not a list of at most 1000 agents"),
        ("a: " + "[" * 5000, "not YAML: "),
        ("#" * 262_145, "larger than 262144 bytes"),
        ("\ud800", "not YAML: "),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With its line and its entry."""
    path = tmp_path / "agents.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(FileError) as refused:
        CallerAgents(path)
    assert message.split("`[", maxsplit=1)[0] in str(refused.value)


@pytest.mark.parametrize("agent", ["finance-*", "a?c", "[!a-z]9", "x" * 64])
def test_a_glob_is_an_agent_to_sidecar_and_injector(tmp_path: Path, agent: str) -> None:
    """It has the characters of agent ids and of shell globs, and at most 64."""
    assert read_by_both(tmp_path, agent) == [(agent,), (agent,)]


@pytest.mark.parametrize("agent", ["x" * 65, "", "a.b", "a/b", "é"])
def test_another_text_is_an_agent_to_neither_of_them(tmp_path: Path, agent: str) -> None:
    """The error is the same."""
    assert read_by_both(tmp_path, agent) == [f"`{agent}` is not an agent id or a glob"] * 2


def read_by_both(folder: Path, agent: str) -> list[str | tuple[str, ...]]:
    """What `--caller-agents` and `--agents-file` make of an agent in their files, or the end of the error."""
    path, found = folder / "agents.yaml", list[str | tuple[str, ...]]()
    for kind, holder in ((CallerAgents, "a.example"), (AgentsFile, "payments/processor")):
        path.write_text(f"{holder}: ['{agent}']\n")
        try:
            found.append(kind(path).value[holder])
        except FileError as error:
            found.append(str(error).rpartition(": ")[2])
    return found


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("kind", [AscendClient, AsyncAscendClient])
async def test_the_client_speaks_tls(place: Place, kind: type, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a certificate of its own; after new files it uses them."""
    monkeypatch.setattr(tls, "CHECK_SECONDS", 0.0)
    folder = place.agents.parent / "changing"
    pair = write_pair(folder, place.authority, "nobody.example")
    files = {"pdp_ca": str(pair.ca), "pdp_cert": str(pair.cert), "pdp_key": str(pair.key)}
    address = place.grpc if protocol == "grpc" else f"https://{place.http}"
    client = kind("", AGENT, "Test", pdp_address=address, timeout=BOUND_SECONDS, **files)

    async def decide(**fields: Any) -> Any:
        action = {"action_type": "api.read", "resource": "banking_api", "risk_score": 10} | fields
        if isinstance(client, AscendClient):
            return await asyncio.to_thread(lambda: client.evaluate_action(**action))
        return await client.evaluate_action(**action)

    refused = await decide()
    assert (refused.reason, refused.error_code) == ("PDP_UNAVAILABLE", "PERMISSION_DENIED")
    write_pair(folder, place.authority, PAYER)
    for size in (1, 50_000, 1):  # over one connection, in several records of TLS
        assert await decide(attributes={"a": "x" * size})
    if isinstance(client, AscendClient):
        await asyncio.to_thread(client.close)
    else:
        await client.close()


@pytest.mark.parametrize("kind", [AscendClient, AsyncAscendClient])
async def test_the_client_checks_the_certificate_of_https(place: Place, kind: type, tmp_path: Path) -> None:
    """One of an authority that it does not know, or of another host, is a sidecar that cannot be reached."""
    stranger = write_pair(tmp_path / "stranger", trustme.CA())
    port = place.http.rpartition(":")[2]
    for host, ca in (("127.0.0.1", stranger.ca), ("127.0.0.2", place.payer.ca)):
        client = kind("", AGENT, "Test", pdp_address=f"https://{host}:{port}", pdp_ca=str(ca), timeout=BOUND_SECONDS)
        if isinstance(client, AscendClient):
            decision = await asyncio.to_thread(client.evaluate_action, "api.read")
            client.close()
        else:
            decision = await client.evaluate_action("api.read")
            await client.close()
        assert (decision.outcome, decision.error_code) == ("block", "UNAVAILABLE")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pdp_cert": "x", "pdp_key": "y"}, "`pdp_ca` is required with `pdp_cert` and `pdp_key`"),
        ({"pdp_ca": "{ca}", "pdp_cert": "y"}, "`pdp_cert` and `pdp_key` are required together"),
        ({"pdp_ca": "/nonexistent"}, "`pdp_ca`: cannot read: "),
        ({"pdp_address": "https://a:1"}, "`pdp_ca` is required with `https://a:1`"),
        (
            {"pdp_address": "http://a:1", "pdp_ca": "{ca}"},
            "`pdp_ca` requires `https://`, but the address is `http://a:1`",
        ),
        ({"pdp_ca": "{key}"}, "`pdp_ca`: `{key}` holds no certificates of authorities in PEM"),
        ({"pdp_ca": "{ca}", "pdp_cert": "{cert}", "pdp_key": "{ca}"}, "`pdp_cert`: `{cert}` and `{ca}` are not"),
    ],
)
def test_wrong_files_of_the_client_are_named(
    authority: trustme.CA, tmp_path: Path, files: dict[str, str], message: str
) -> None:
    """By the argument."""
    pair = write_pair(tmp_path / "client", authority)
    shown = {name: str(path) for name, path in pair._asdict().items()}
    with pytest.raises(ValueError) as refused:
        AscendClient("", AGENT, "Test", **{name: text.format(**shown) for name, text in files.items()})  # type: ignore[arg-type]
    assert str(refused.value).startswith(message.format(**shown))


async def test_the_command_line_speaks_tls(place: Place) -> None:
    """`pdp evaluate` and `pdp explain`."""
    action = (f"--target={place.grpc}", f"--agent={AGENT}", "--action=api.read", "--resource=banking_api", "--risk=10")
    files = (f"--ca={place.payer.ca}", f"--cert={place.payer.cert}", f"--key={place.payer.key}")
    evaluated, explained = await asyncio.gather(
        programs.run("pdp", "evaluate", *action, *files, "--json"),
        programs.run("pdp", "explain", *action, *files),
    )
    assert json.loads(evaluated.out)["outcome"] == "allow"
    assert explained.out.startswith("allow")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caller_agents": Path("/x")}, "`--caller-agents`: requires `--tls-client-ca`"),
        ({"tls": Files(Path("/x"), Path("/y"))}, "`--tls-cert`: cannot read `/x`: No such file or directory"),
    ],
)
async def test_a_sidecar_with_wrong_files_does_not_start(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """It names the setting."""
    with pytest.raises(SettingsError) as refused:
        async with sidecar(settings(tmp_path, "127.0.0.1:1", **changes)):
            pass
    assert str(refused.value) == message

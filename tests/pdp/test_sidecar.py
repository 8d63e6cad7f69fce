"""A sidecar and its store: registered agents are decided, with the store and without it."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pdp import app
from pdp.core.model import StaleMode
from pdp.serving import calls
from pdp.serving.addresses import Address
from pdp.settings import SettingsError, Subscription
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.ports import reserved
from tests.waiting import BOUND_SECONDS, eventually, eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, QUICK, Answer, Beside, Central, Http, settings, sidecar, store

NOWHERE = "127.0.0.1:1"


async def register(central: Central, **changes: Any) -> None:
    answer = await central.rest.call("POST", "/api/agents/registry", FINANCIAL | changes)
    assert answer.status == 201, answer


async def add_policy(central: Central, **changes: Any) -> str:
    path = f"/api/agents/registry/{AGENT}/policies"
    answer = await central.rest.call("POST", path, HIGH_VALUE | changes)
    assert answer.status == 201, answer
    policy_id: str = answer.body["policy_id"]
    return policy_id


async def health(beside: Beside) -> str:
    stub = health_pb2_grpc.HealthStub(beside.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service="pdp.v1.PolicyDecisionPoint"))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_an_agent_that_is_registered_is_decided_by_its_thresholds_and_policies(tmp_path: Path) -> None:
    """Registration, policy and decision meet: all four outcomes, each with its reason."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        policy_id = await add_policy(central)
        await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        allowed = await beside.evaluate(risk_score=10)
        held = await beside.evaluate("transaction.process", amount=15000)
        escalated = await beside.evaluate(risk_score=85)
        blocked = await beside.evaluate(resource="production_secrets")
    assert (allowed.outcome, allowed.reason) == (pb.OUTCOME_ALLOW, pb.REASON_RISK_BELOW_AUTO_APPROVE)
    assert (held.outcome, held.policy.id) == (pb.OUTCOME_REQUIRE_APPROVAL, policy_id)
    assert list(held.action_params["approvers"]) == ["finance-approvers"]
    assert (escalated.outcome, escalated.reason) == (pb.OUTCOME_ESCALATE, pb.REASON_RISK_ABOVE_MAXIMUM)
    assert (blocked.outcome, blocked.reason) == (pb.OUTCOME_BLOCK, pb.REASON_RESOURCE_BLOCKED)
    assert allowed.source == pb.SOURCE_LIVE


async def test_a_change_reaches_the_sidecar_and_leaves_the_counters_alone(tmp_path: Path) -> None:
    """A changed policy decides the next action, which still counts against the same windows."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        policy_id = await add_policy(central)
        await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        before = await beside.evaluate("transaction.process", amount=15000)
        path = f"/api/agents/registry/{AGENT}/policies/{policy_id}"
        change = {"conditions": {"action_type": "transaction.process", "amount_above": 20000}}
        assert (await central.rest.call("PUT", path, change)).status == 200
        await beside.until("RISK_NEEDS_APPROVAL", action_type="transaction.process", amount=15000)
        after = await beside.evaluate("transaction.process", amount=15000)
        await central.rest.call("POST", f"/api/agents/registry/{AGENT}/suspend", {"reason": "test"})
        await beside.until("AGENT_NOT_ACTIVE")
    assert after.registry_revision > before.registry_revision
    assert after.rate_remaining.hour == before.rate_remaining.hour - 1


async def test_without_the_store_decisions_go_on_and_a_changed_policy_comes_with_its_return(tmp_path: Path) -> None:
    """What changed while the sidecar was cut off is in force once it has reconnected."""
    async with AsyncExitStack() as life:
        at = life.enter_context(reserved())
        async with store(tmp_path, at) as central:
            await register(central)
            beside = await life.enter_async_context(sidecar(settings(tmp_path, at)))
            policy_id = await add_policy(central)
            await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        alone = await beside.evaluate("transaction.process", amount=15000)
        assert alone.reason == pb.REASON_POLICY_MATCHED
        async with store(tmp_path) as elsewhere:
            path = f"/api/agents/registry/{AGENT}/policies/{policy_id}"
            assert (await elsewhere.rest.call("PUT", path, {"policy_action": "block"})).status == 200
        assert (await beside.evaluate("transaction.process", amount=15000)).outcome == pb.OUTCOME_REQUIRE_APPROVAL
        async with store(tmp_path, at):
            await eventually_gives(
                lambda: beside.evaluate("transaction.process", amount=15000, dry_run=True),
                lambda answer: answer.outcome == pb.OUTCOME_BLOCK,
            )
        samples = await beside.samples()
    assert samples["pdp_sync_reconnects_total", ()] >= 1
    assert samples["pdp_sync_snapshots_total", ()] == 1, "the second stream resumed"


async def test_a_sidecar_that_starts_without_the_store_serves_the_last_good_state(tmp_path: Path) -> None:
    """It is ready, says that its data is cached and how old, and has the same node id."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
        node_id = (tmp_path / "sidecar" / "node-id").read_text()
    async with sidecar(settings(tmp_path, NOWHERE)) as beside:
        answer = await beside.evaluate(risk_score=10)
        ready = await beside.http.call("GET", "/readyz")
        assert await health(beside) == "SERVING"
    assert (answer.outcome, answer.source) == (pb.OUTCOME_ALLOW, pb.SOURCE_CACHED)
    assert answer.staleness > 0
    assert ready.status == 200
    assert (tmp_path / "sidecar" / "node-id").read_text() == node_id


@pytest.mark.parametrize(("seconds_ahead", "reason"), [(2, "RISK_BELOW_AUTO_APPROVE"), (86_400, "REGISTRY_STALE")])
async def test_saved_data_from_the_future_is_stale(tmp_path: Path, seconds_ahead: float, reason: str) -> None:
    """After the clock was set back its age is unknown; a small step by NTP is tolerated."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
    path = tmp_path / "sidecar" / "last-good"
    ahead = time.time() + seconds_ahead
    os.utime(path, (ahead, ahead))
    async with sidecar(settings(tmp_path, NOWHERE, max_staleness=3600.0)) as beside:
        assert await beside.reason(risk_score=10) == reason


async def test_a_restarted_sidecar_resumes_and_is_live_again(tmp_path: Path) -> None:
    """From the state on disk it takes up just the changes since, and says that its data is live."""
    async with store(tmp_path) as central:
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await register(central)
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
        await add_policy(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
            answer = await eventually_gives(beside.evaluate, lambda answer: answer.source == pb.SOURCE_LIVE)
            samples = await beside.samples()
    assert answer.registry_revision == 2
    assert samples["pdp_sync_snapshots_total", ()] == 0


async def test_a_damaged_last_good_state_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sidecar starts without it, is not ready, and answers UNAVAILABLE."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
    path = tmp_path / "sidecar" / "last-good"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    async with sidecar(settings(tmp_path, NOWHERE)) as beside:
        ready = await beside.http.call("GET", "/readyz")
        assert await beside.reason() == "UNAVAILABLE"
        assert await health(beside) == "NOT_SERVING"
    assert (ready.status, ready.body["status"]) == (503, "no registry data")
    assert "the checksum does not match" in caplog.text


async def test_the_state_of_another_subscription_is_left_out(tmp_path: Path) -> None:
    """A sidecar that is limited to other agents decides for no agent that it held before."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
    limited = settings(tmp_path, NOWHERE, subscription=Subscription(agents=("another-agent",)))
    async with sidecar(limited) as beside:
        assert await beside.reason(risk_score=10) == "UNAVAILABLE"


async def test_a_sidecar_decides_only_for_its_named_agents(tmp_path: Path) -> None:
    """An agent outside the subscription counts as not registered."""
    async with store(tmp_path) as central:
        await register(central)
        await register(central, agent_id="another-agent")
        named = settings(tmp_path, central.grpc_address, subscription=Subscription(agents=("another-agent",)))
        async with sidecar(named) as beside:
            await beside.until("RISK_BELOW_AUTO_APPROVE", agent_id="another-agent", risk_score=10)
            assert await beside.reason(risk_score=10) == "AGENT_NOT_REGISTERED"


async def test_tags_choose_agents_as_they_come_and_go(tmp_path: Path) -> None:
    """An agent that loses the tag is unknown to the sidecar from then on."""
    async with store(tmp_path) as central:
        await register(central)
        tagged = settings(tmp_path, central.grpc_address, subscription=Subscription(tags=("finance",)))
        async with sidecar(tagged) as beside:
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
            await central.rest.call("PUT", f"/api/agents/registry/{AGENT}", {"tags": ["other"]})
            await beside.until("AGENT_NOT_REGISTERED", risk_score=10)


async def test_a_sidecar_whose_key_is_revoked_serves_on_and_says_so(tmp_path: Path) -> None:
    """It is ready from what it has, and cached; with a new key in the file it is live again."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
        await registry_says(beside, "live")
        [key] = [row for row in (await central.rest.call("GET", "/api/keys")).body["keys"] if row["role"] == "sidecar"]
        assert (await central.rest.call("DELETE", f"/api/keys/{key['key_id']}")).status == 200
        ready = await registry_says(beside, "key_revoked")
        answer = await beside.evaluate(risk_score=10)
        assert (await beside.samples())["pdp_key_revoked", ()] == 1
        made = await central.rest.call("POST", "/api/keys", {"role": "sidecar", "name": "test"})
        assert made.status == 201, made
        central.key_file.write_text(made.body["key"])
        await registry_says(beside, "live")
        samples = await beside.samples()
    assert (ready.status, ready.body["status"]) == (200, "ready")
    assert ready.body["staleness"] >= 0
    assert (answer.outcome, answer.source) == (pb.OUTCOME_ALLOW, pb.SOURCE_CACHED)
    assert samples["pdp_key_revoked", ()] == 0


async def test_a_lost_store_leaves_the_data_cached_and_ageing(tmp_path: Path) -> None:
    """Answers and the probe, which stays 200, show it at once; the clock offset is still reported."""
    async with sidecar_of_a_lost_store(tmp_path) as beside:
        ready = await registry_says(beside, "cached")
        first, second = await beside.evaluate(), await beside.evaluate()
        samples = await beside.samples()
    assert ready.status == 200
    assert (first.source, second.source) == (pb.SOURCE_CACHED, pb.SOURCE_CACHED)
    assert 0 < first.staleness < second.staleness
    assert abs(samples["pdp_clock_offset_seconds", ()]) < 60
    assert samples["pdp_staleness_seconds", ()] > second.staleness


@pytest.mark.parametrize("mode", list(StaleMode))
async def test_a_probe_says_stale_in_each_mode(tmp_path: Path, mode: StaleMode) -> None:
    """Also in the mode `serve`, where the maximum has no other effect."""
    async with sidecar_of_a_lost_store(tmp_path, max_staleness=1e-3, stale_mode=mode) as beside:
        ready = await registry_says(beside, "stale")
    assert ready.status == 200
    assert ready.body["staleness"] > 0


async def test_a_sidecar_that_blocks_for_staleness_allows_again_once_the_store_is_back(tmp_path: Path) -> None:
    """Without a restart: the next heartbeat confirms the data."""
    async with AsyncExitStack() as life:
        at = life.enter_context(reserved())
        async with store(tmp_path, at) as central:
            await register(central)
            beside = await life.enter_async_context(sidecar(settings(tmp_path, at, max_staleness=3.0)))
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
        await beside.until("REGISTRY_STALE", risk_score=10)
        async with store(tmp_path, at):
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)


@asynccontextmanager
async def sidecar_of_a_lost_store(folder: Path, **changes: Any) -> AsyncIterator[Beside]:
    """A sidecar that followed a store which has stopped since."""
    async with AsyncExitStack() as life:
        async with store(folder) as central:
            await register(central)
            given = settings(folder, central.grpc_address, **changes)
            beside = await life.enter_async_context(sidecar(given))
            await eventually_gives(beside.samples, lambda samples: samples["pdp_agents", ()] == 1)
        yield beside


async def registry_says(beside: Beside, standing: str) -> Answer:
    """The first answer of the probe with this status."""
    return await eventually_gives(
        lambda: beside.http.call("GET", "/readyz"), lambda answer: answer.body.get("registry") == standing
    )


async def test_health_is_serving_once_data_is_in(tmp_path: Path) -> None:
    """The probes fail before the first snapshot, and succeed after it."""
    async with sidecar(settings(tmp_path, NOWHERE)) as beside:
        assert await health(beside) == "NOT_SERVING"
        assert (await beside.http.call("GET", "/readyz")).status == 503
        assert (await beside.http.call("GET", "/healthz")).status == 200
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await eventually_gives(lambda: health(beside), lambda status: status == "SERVING")
        assert (await beside.http.call("GET", "/readyz")).status == 200


async def test_metrics_count_the_decisions_of_a_run_exactly(tmp_path: Path) -> None:
    """What a Prometheus parser reads adds up to what was asked, malformed requests apart."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.sidecar.ready.wait()
        await eventually_gives(beside.samples, lambda samples: samples["pdp_agents", ()] == 1)
        for _ in range(7):
            await beside.evaluate(risk_score=10)
        for _ in range(3):
            await beside.evaluate(risk_score=90)
        body = {"action": {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api", "risk_score": 10}}
        for _ in range(2):
            assert (await beside.http.call("POST", "/v1/evaluate", body)).status == 200
        assert await beside.reason(risk_score=101) == "INVALID_ARGUMENT"
        assert (await beside.http.call("POST", "/v1/evaluate", b"{")).status == 400
        samples = await beside.samples()
    decisions = {labels: value for (name, labels), value in samples.items() if name == "pdp_decisions_total"}
    assert decisions == {
        (("outcome", "allow"), ("reason", "RISK_BELOW_AUTO_APPROVE")): 9,
        (("outcome", "escalate"), ("reason", "RISK_ABOVE_MAXIMUM")): 3,
    }
    assert samples["pdp_decision_duration_seconds_count", ()] == 12
    assert samples["pdp_decision_duration_seconds_bucket", (("le", "+Inf"),)] == 12
    assert samples["pdp_malformed_requests_total", (("field", "risk_score"),)] == 1
    assert samples["pdp_malformed_requests_total", (("field", "other"),)] == 1
    assert samples["pdp_registry_revision", ()] == 1
    assert samples["pdp_decisions_in_flight", ()] == 0
    assert 0 <= samples["pdp_staleness_seconds", ()] < 60


async def test_reflection_is_served_when_switched_on(tmp_path: Path) -> None:
    """And not otherwise."""

    async def services(reflection: bool) -> set[str]:
        async with sidecar(settings(tmp_path, NOWHERE, reflection=reflection)) as beside:
            call = reflection_pb2_grpc.ServerReflectionStub(beside.channel).ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            answer = await call.read()
            await call.done_writing()
            return {service.name for service in answer.list_services_response.service}

    assert "pdp.v1.PolicyDecisionPoint" in await services(True)
    with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
        await services(False)


async def test_a_second_sidecar_on_the_same_port_does_not_start(tmp_path: Path) -> None:
    """Two would split the counters; also under another name of the same host."""
    async with sidecar(settings(tmp_path, NOWHERE)) as beside:
        port = int(beside.sidecar.grpc_address.rpartition(":")[2])
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            second = settings(
                tmp_path, NOWHERE, listen=(Address(host, port),), data_dir=tmp_path / "second", plaintext=True
            )
            with pytest.raises(SettingsError, match=f"`--listen`: `{host}:{port}` is in use by another process"):
                async with sidecar(second):
                    pass


async def test_a_second_sidecar_on_the_same_socket_or_folder_does_not_start(tmp_path: Path) -> None:
    """The lock beside the socket and the one in the folder are held for as long as a sidecar runs."""
    path = tmp_path / "pdp.sock"
    first = settings(tmp_path, NOWHERE, listen=(Address(path=str(path)),))
    async with sidecar(first) as beside:
        assert beside.sidecar.grpc_address == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(SettingsError, match=r"`--data-dir`: .* is in use by another sidecar"):
            async with sidecar(first):
                pass
        elsewhere = settings(tmp_path, NOWHERE, listen=first.listen, data_dir=tmp_path / "second")
        with pytest.raises(SettingsError, match=r"`--listen`: `unix:.*` is in use by another sidecar"):
            async with sidecar(elsewhere):
                pass
        assert await beside.reason() == "UNAVAILABLE", "the first still listens"


@pytest.mark.parametrize("mode", [0o600, 0o666])
async def test_the_mode_of_the_socket_is_a_setting(tmp_path: Path, mode: int) -> None:
    """So that an agent under another user can use it where the folder is the boundary."""
    path = tmp_path / "pdp.sock"
    async with sidecar(settings(tmp_path, NOWHERE, listen=(Address(path=str(path)),), socket_mode=mode)) as beside:
        assert path.stat().st_mode & 0o777 == mode
        assert await beside.reason() == "UNAVAILABLE"


async def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    """A socket without a listener is replaced; a socket of another program is an error."""
    path = tmp_path / "pdp.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    here = settings(tmp_path, NOWHERE, listen=(Address(path=str(path)),))
    async with sidecar(here) as beside:
        assert await beside.reason() == "UNAVAILABLE"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        with pytest.raises(SettingsError, match="is in use by another process"):
            async with sidecar(here):
                pass
    path.unlink()
    path.write_text("precious")
    with pytest.raises(SettingsError, match="exists and is not a socket"):
        async with sidecar(here):
            pass
    assert path.read_text() == "precious"


async def test_calls_in_flight_are_answered_before_the_stop(tmp_path: Path) -> None:
    """A stream that was open when the sidecar began to drain still gets its answer, and the probe says no meanwhile."""
    async with store(tmp_path) as central, AsyncExitStack() as life:
        patient = settings(tmp_path, central.grpc_address, drain_seconds=3600)
        running = await life.enter_async_context(app.running(patient, QUICK))
        http = Http(running.http_address)
        await running.ready.wait()
        async with grpc.aio.insecure_channel(running.grpc_address) as channel:
            call = PolicyDecisionPointStub(channel).EvaluateStream()
            await call.write(stream_request(1))
            assert (await call.read()).sequence == 1
            stopping = asyncio.create_task(life.pop_all().aclose())
            draining = await http.until_probed(503)
            await call.write(stream_request(2))
            assert (await call.read()).sequence == 2
            assert not stopping.done()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            await stopping
        http.close()
    assert draining.body["status"] == "draining"


async def test_a_stop_takes_no_new_connections_on_a_unix_socket(tmp_path: Path) -> None:
    """Its path is gone while an open stream is still answered; gRPC would drop a connection that came meanwhile."""
    path = tmp_path / "pdp.sock"
    listen = (Address(path=str(path)),)
    async with AsyncExitStack() as life:
        running = await life.enter_async_context(app.running(settings(tmp_path, NOWHERE, listen=listen), QUICK))
        async with grpc.aio.insecure_channel(running.grpc_address) as channel:
            call = PolicyDecisionPointStub(channel).EvaluateStream()
            await call.write(stream_request(1))
            assert (await call.read()).sequence == 1
            stopping = asyncio.create_task(life.aclose())
            await eventually(lambda: not path.exists())
            await call.write(stream_request(2))
            assert (await call.read()).sequence == 2
            await call.done_writing()
            await stopping


async def test_json_is_answered_on_a_unix_socket(tmp_path: Path) -> None:
    """Beside the port, with the socket's mode; the socket is gone after the stop."""
    path = tmp_path / "http.sock"
    http = (Address("127.0.0.1", 0), Address(path=str(path)))
    async with sidecar(settings(tmp_path, NOWHERE, http=http, socket_mode=0o606)) as beside:
        assert beside.sidecar.http_addresses[1] == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o606
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        second = settings(tmp_path, NOWHERE, http=http[1:], data_dir=tmp_path / "second")
        with pytest.raises(SettingsError, match=r"`--http`: `unix:.*` is in use by another sidecar"):
            await app.running(second).__aenter__()
    assert not path.exists()


async def test_no_call_in_flight_is_cancelled_by_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends call after call gets each answered, or gets UNAVAILABLE."""
    monkeypatch.setattr(calls, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(calls, "MAX_HOLD_SECONDS", BOUND_SECONDS)
    answered, ended = 0, []

    async def ask(stub: PolicyDecisionPointStub) -> None:
        nonlocal answered
        while True:
            try:
                await stub.Evaluate(evaluate_request(), timeout=BOUND_SECONDS)
            except grpc.aio.AioRpcError as error:
                ended.append(error.code())
                return
            answered += 1

    async with store(tmp_path) as central, AsyncExitStack() as life:
        await register(central)
        running = await life.enter_async_context(app.running(settings(tmp_path, central.grpc_address), QUICK))
        await running.ready.wait()
        async with grpc.aio.insecure_channel(running.grpc_address) as channel:
            stub = PolicyDecisionPointStub(channel)
            asking = [asyncio.create_task(ask(stub)) for _ in range(32)]
            await eventually(lambda: answered > 100)
            await life.aclose()
            await asyncio.gather(*asking)
    assert set(ended) == {grpc.StatusCode.UNAVAILABLE}


async def test_a_stream_that_outlasts_the_drain_ends_with_unavailable(tmp_path: Path) -> None:
    """It is UNAVAILABLE and not cancelled."""
    async with AsyncExitStack() as life:
        hasty = settings(tmp_path, NOWHERE, drain_seconds=0.1)
        running = await life.enter_async_context(app.running(hasty, QUICK))
        async with grpc.aio.insecure_channel(running.grpc_address) as channel:
            call = PolicyDecisionPointStub(channel).EvaluateStream()
            await call.write(stream_request(1))
            assert (await call.read()).sequence == 1
            await life.aclose()
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert await call.details() == "the sidecar is stopping: open another stream"


async def test_health_watchers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, and calls are answered."""
    monkeypatch.setattr(app, "MAX_WATCHERS", 2)
    async with sidecar(settings(tmp_path, NOWHERE)) as beside:
        watch = health_pb2_grpc.HealthStub(beside.channel).Watch
        watching = [watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for call in watching:
            await call.read()
        assert await watch(health_pb2.HealthCheckRequest()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await beside.reason() == "UNAVAILABLE"
        for call in watching:
            call.cancel()


def evaluate_request() -> pb.EvaluateRequest:
    return pb.EvaluateRequest(action=pb.Action(agent_id=AGENT, action_type="api.read"))


def stream_request(sequence: int) -> pb.EvaluateStreamRequest:
    action = pb.Action(agent_id=AGENT, action_type="api.read")
    return pb.EvaluateStreamRequest(sequence=sequence, request=pb.EvaluateRequest(action=action))

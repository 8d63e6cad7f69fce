"""Between sidecar and store: who is let in, who is not, and what a wiretap sees."""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
import urllib3

from pdp.serving.addresses import Address
from pdp.serving.tls import diagnosis
from pdp.serving.tls.certificates import ClientFiles
from pdp.serving.tls.reloaded import FileError
from pdp.settings import Settings, SettingsError, Subscription
from registry_store.access.certificates import SidecarNames
from registry_store.errors import StartError
from tests.tls.certificates import EXPIRED, Pair, write_pair
from tests.tls.running import Central, central, client_files, made, wiretapped
from tests.waiting import eventually, eventually_gives
from tests.whole import AGENT, FINANCIAL, settings, sidecar

SPIFFE = "spiffe://example.org/ns/payments/sa/payer"
HIDDEN_ACTION = "transaction.hidden"
NO_SYNC = "no sync with the store at "


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger() -> trustme.CA:
    return trustme.CA()


def following(folder: Path, port: str, files: ClientFiles | None, key_file: Path | None, **changes: Any) -> Settings:
    """The settings of a sidecar that follows the store at this port."""
    return settings(made(folder), f"localhost:{port}", store_tls=files, key_file=key_file, **changes)


async def register(store: Central, pair: Pair, agent_id: str = AGENT) -> None:
    """Register an agent over HTTPS, with a client certificate."""

    def call() -> int:
        with urllib3.PoolManager(ca_certs=str(pair.ca), cert_file=str(pair.cert), key_file=str(pair.key)) as pool:
            url = f"https://{store.running.http_address}/api/agents/registry"
            body = FINANCIAL | {"agent_id": agent_id}
            return pool.request("POST", url, json=body, headers={"authorization": f"Bearer {store.admin}"}).status

    assert await asyncio.to_thread(call) == 201


@pytest.mark.parametrize("encrypted", [True, False], ids=["TLS", "plaintext"])
async def test_a_wiretap_sees_no_key_and_no_action(authority: trustme.CA, tmp_path: Path, encrypted: bool) -> None:
    """Over TLS; without it, the same wiretap sees both, so it would."""
    server, client = write_pair(tmp_path / "server", authority), write_pair(tmp_path / "client", authority)
    async with AsyncExitStack() as life:
        store = await life.enter_async_context(central(tmp_path / "store", server if encrypted else None))
        port, wire = await life.enter_async_context(wiretapped(store.port))
        files = client_files(client) if encrypted else None
        beside = await life.enter_async_context(sidecar(following(tmp_path, port, files, store.key_file)))
        await beside.sidecar.ready.wait()
        await beside.evaluate(HIDDEN_ACTION)
        sent = ("pdp_decisions_shipped_total", ())
        await eventually_gives(beside.samples, lambda found: found.get(sent, 0) >= 1)
        secrets = {store.key_file.read_bytes(), HIDDEN_ACTION.encode(), AGENT.encode()}
        assert len(wire.sent) > 1000
        seen = {secret for secret in secrets if secret in wire.sent}
        assert seen == (set() if encrypted else secrets)


async def test_who_may_not_come_in_is_told_why(
    authority: trustme.CA, stranger: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sidecar logs one clear line, whatever is wrong on either side."""
    server = write_pair(tmp_path / "server", authority)
    good = write_pair(tmp_path / "good", authority)
    foreign = write_pair(tmp_path / "foreign", stranger, trusts=authority)
    misled = write_pair(tmp_path / "misled", authority, trusts=stranger)
    cases = {
        "it demands a client certificate, which takes `--store-cert`": ClientFiles(good.ca),
        "it refuses the certificate in `--store-cert`": client_files(foreign),
        "its certificate is not accepted: unable to get local issuer certificate": client_files(misled),
        "it speaks TLS, which takes `--store-ca`": None,
    }
    async with central(tmp_path / "store", server) as store:
        for number, (reason, files) in enumerate(cases.items()):
            await _refused(following(tmp_path / f"sidecar-{number}", store.port, files, store.key_file), reason, caplog)
        key_id = store.key_file.read_text().split("_")[1]
        with urllib3.PoolManager(ca_certs=str(good.ca), cert_file=str(good.cert), key_file=str(good.key)) as pool:
            url = f"https://{store.running.http_address}/api/keys/{key_id}"
            headers = {"authorization": f"Bearer {store.admin}"}
            assert (await asyncio.to_thread(pool.request, "DELETE", url, headers=headers)).status == 200
        reason = "it refuses the key in `--key-file` (the key is revoked)"
        await _refused(following(tmp_path / "revoked", store.port, client_files(good), store.key_file), reason, caplog)
    elsewhere = write_pair(tmp_path / "elsewhere", authority, "elsewhere.example")
    async with central(tmp_path / "store", elsewhere) as store:
        reason = "its certificate is not accepted: hostname mismatch, certificate is not valid for 'localhost'"
        await _refused(following(tmp_path / "name", store.port, client_files(good), store.key_file), reason, caplog)
    async with central(tmp_path / "store", None) as store:
        reason = "it does not speak TLS, which `--store-ca` demands"
        await _refused(following(tmp_path / "plain", store.port, client_files(good), store.key_file), reason, caplog)


async def _refused(chosen: Settings, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """A sidecar with these settings logs why it does not follow the store."""
    caplog.clear()
    expected = f"{NO_SYNC}{chosen.store}: {reason}; again in"
    async with sidecar(chosen) as beside:
        await eventually(lambda: any(line.startswith(expected) for line in caplog.messages))
        assert not beside.sidecar.ready.is_set()


async def test_an_expired_certificate_of_a_store_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    """A store does not start with one; one that expires while a store runs is refused by sidecars."""
    expired = write_pair(tmp_path / "server", authority, expires=EXPIRED)
    with pytest.raises(StartError, match=rf"`--tls-cert`: `{expired.cert}` expired at {EXPIRED:%Y-%m-%d}T"):
        async with central(tmp_path / "store", expired):
            pass
    server = grpc.aio.server()
    pair = [(expired.key.read_bytes(), expired.cert.read_bytes())]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    await server.start()
    found = await asyncio.to_thread(diagnosis.failure, Address("127.0.0.1", port), ClientFiles(expired.ca), "--store-")
    await server.stop(0)
    assert found == "its certificate is not accepted: certificate has expired"


def test_files_of_a_sidecar_that_cannot_be_used_are_refused(authority: trustme.CA, tmp_path: Path) -> None:
    """At its start, with the name of the setting."""
    expired = write_pair(tmp_path / "expired", authority, expires=EXPIRED)
    good, other = write_pair(tmp_path / "good", authority), write_pair(tmp_path / "other", authority)
    with pytest.raises(SettingsError, match=rf"`--store-cert`: `{expired.cert}` expired at"):
        following(tmp_path, "1", client_files(expired), None)
    mismatch = rf"`--store-key`: `{other.key}` is not the key of the certificate in `{good.cert}`"
    with pytest.raises(SettingsError, match=mismatch):
        following(tmp_path, "1", ClientFiles(good.ca, good.cert, other.key), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"http": "0.0.0.0:0"}, "`--http`: `0.0.0.0:0` is beyond this host: it takes `--tls-cert` and `--tls-key`, or"),
        ({"grpc": "[::]:0"}, "`--grpc`: `[::]:0` is beyond this host: it takes `--tls-cert` and `--tls-key`, or"),
        ({"tls_key": Path("/x")}, "`--tls-cert`: is required with the key"),
        ({"http_without_client_cert": True}, "`--http-without-client-cert`: requires `--tls-client-ca`"),
        ({"sidecar_names": Path("/x")}, "`--sidecar-names`: requires `--tls-client-ca`"),
        (
            {"tls_cert": Path("/x"), "tls_key": Path("/x")},
            "`--tls-cert`: cannot read `/x`: No such file or directory",
        ),
    ],
)
async def test_a_store_that_would_serve_in_clear_does_not_start(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Nor one whose files of TLS are incomplete; the error names the setting."""
    with pytest.raises(StartError) as found:
        async with central(tmp_path, None, **changes):
            pass
    assert str(found.value).startswith(message)


async def test_a_mesh_may_encrypt(tmp_path: Path) -> None:
    """With `--plaintext` a store listens beyond this host."""
    async with central(tmp_path, None, http="0.0.0.0:0", plaintext=True) as store:
        assert store.running.http_address.startswith("0.0.0.0:")


async def test_people_may_come_without_a_client_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    """With `--http-without-client-cert`; sidecars still need one."""
    server = write_pair(tmp_path / "server", authority, expires=datetime(2040, 1, 1, tzinfo=UTC))
    async with central(tmp_path / "store", server, http_without_client_cert=True) as store:
        with urllib3.PoolManager(ca_certs=str(server.ca)) as pool:
            url = f"https://{store.running.http_address}/readyz"
            assert (await asyncio.to_thread(pool.request, "GET", url)).status == 200
            text = (await asyncio.to_thread(pool.request, "GET", url.replace("readyz", "metrics"))).data.decode()
        assert '\nregistry_store_certificate_expiry_timestamp_seconds{certificate="server"} 2.2089888e+09\n' in text
        address = Address("localhost", int(store.port))
        found = await asyncio.to_thread(diagnosis.failure, address, ClientFiles(server.ca), "--store-")
        assert found == "it demands a client certificate, which takes `--store-cert`"


async def test_a_certificate_stands_in_for_a_key(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its holder gets the agents of its entry, and no others; without the entry, its stream ends."""
    caplog.set_level(logging.INFO)
    server = write_pair(tmp_path / "server", authority)
    payer = write_pair(tmp_path / "payer", authority, SPIFFE)
    names = tmp_path / "names.yaml"
    names.write_text(f"{SPIFFE}:\n  node: payer\n  agents: [{AGENT}]\n")
    async with central(tmp_path / "store", server, sidecar_names=names) as store:
        await register(store, payer)
        bound = following(tmp_path, store.port, client_files(payer), None, subscription=Subscription((AGENT,)))
        async with sidecar(bound) as beside:
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
            expires = (await beside.samples())["pdp_certificate_expiry_timestamp_seconds", (("certificate", "store"),)]
            assert 3000 < expires - time.time() <= 3600, "a certificate of an hour"
            await beside.evaluate(risk_score=10)
            await eventually_gives(beside.samples, lambda found: found.get(("pdp_decisions_shipped_total", ()), 0) >= 1)
            names.write_text("")
            refusal = f"the client certificate is known: `{SPIFFE}`"
            await eventually(lambda: any(refusal in line for line in caplog.messages))
        caplog.clear()
        names.write_text(f"{SPIFFE}:\n  node: payer\n  agents: [other-agent]\n")
        await eventually(lambda: any(line.startswith("new file") for line in caplog.messages))
        async with sidecar(bound):
            refusal = "it does not let the certificate in `--store-cert` sync (the key may not sync agent"
            await eventually(lambda: any(refusal in line for line in caplog.messages))


async def test_an_unknown_certificate_needs_a_key(authority: trustme.CA, tmp_path: Path) -> None:
    """One that the file does not name, or that is of several sidecars, is refused; its holder may have a key."""
    server = write_pair(tmp_path / "server", authority)
    unknown, double = write_pair(tmp_path / "unknown", authority, "x.example"), ("a.example", "b.example")
    several = write_pair(tmp_path / "several", authority, *double)
    names = tmp_path / "names.yaml"
    names.write_text("a.example: {node: a, tags: [t]}\nB.example: {node: b, agents: ['*']}\n")
    async with central(tmp_path / "store", server, sidecar_names=names) as store:
        for pair, reason in ((unknown, "no key, and no name of"), (several, "the names of the client certificate are")):
            channel = grpc.ssl_channel_credentials(*(one.read_bytes() for one in (pair.ca, pair.key, pair.cert)))
            async with grpc.aio.secure_channel(f"localhost:{store.port}", channel) as opened:
                with pytest.raises(grpc.aio.AioRpcError, match=f"UNAUTHENTICATED[^$]*{reason}"):
                    await opened.unary_unary("/registry_store.v1.RegistrySync/FindDecision")(b"")
                key = f"Bearer {store.key_file.read_text()}"
                with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
                    await opened.unary_unary("/registry_store.v1.RegistrySync/FindDecision")(
                        b"", metadata=(("authorization", key),)
                    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {agents: [x-agent]}", "line 1: `a`: node: is required"),
        ("a: {node: n, agent: [x]}", "line 1: `a`: agent: unknown field"),
        (
            "\na: {node: n}",
            'line 2: `a`: agents: exactly one of `agents` (`["*"]`: all) and `tags`',
        ),
        ("a: {node: n, tags: [t], agents: ['*']}", "line 1: `a`: agents: exactly one of"),
        ("a: {node: n, agents: ['x*']}", "line 1: `a`: agents[0]: is shorter than 3 characters"),
        ("a: b", "line 1: `a`: `b` is not an object"),
    ],
)
def test_a_wrong_file_of_names_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With its line, its entry and its field."""
    path = tmp_path / "names.yaml"
    path.write_text(text)
    with pytest.raises(FileError) as refused:
        SidecarNames(path)
    assert str(refused.value).startswith(f"`{path}`: "), refused.value
    assert message in str(refused.value)

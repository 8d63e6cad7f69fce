"""The webhook over real TLS: reviews that are right, malformed, oversized, slow and foreign, and its probes."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from pdp.injector import app, review
from pdp.injector.http import MAX_BODY_BYTES
from pdp.serving.tls import reloaded
from pdp.settings import SettingsError
from tests.pdp.injector.calling import PATH, Caller, webhook
from tests.pdp.injector.cases import SETTINGS, admission_review, load, patch_of
from tests.programs import started
from tests.tls.certificates import Pair, write_pair
from tests.waiting import eventually, eventually_gives

CASES = load()
PLAIN = next(case for case in CASES if case.name == "plain")


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "END_SECONDS", 0.0)


async def test_a_review_is_answered_over_tls_1_3(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the patch of the golden file; an older version of TLS is refused."""
    async with webhook(tmp_path) as served:
        async with served.caller() as caller:
            assert caller.tls_version == "TLSv1.3"
            answer = await caller.review(PLAIN.request())
        assert answer.status == 200
        assert (answer.body["kind"], answer.body["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
        response = answer.body["response"]
        assert response["uid"] == PLAIN.request()["request"]["uid"]
        assert (response["allowed"], response["patchType"]) == (True, "JSONPatch")
        assert patch_of(answer.body) == PLAIN.given["patch"]
        older = served.context()
        older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError):  # the alert of TLS, or the connection's end
            await Caller.connect(served.injector.address, older)
        assert "unsupported protocol" in caplog.text


async def test_a_refusal_is_what_kubectl_shows(tmp_path: Path) -> None:
    """The message names the annotation, and the metrics count the reason."""
    case = next(case for case in CASES if case.name == "cpu-too-high")
    async with webhook(tmp_path) as served:
        response = (await served.review(case.request())).body["response"]
        assert response["allowed"] is False
        assert response["status"] == {"code": 403, "message": case.given["message"]}
        assert response["auditAnnotations"] == {"result": "refused", "reason": "annotation_invalid"}
        assert "patch" not in response
        counted = served.metrics()
        assert counted['pdp_injector_refusals_total{reason="annotation_invalid"}'] == 1
        assert counted['pdp_injector_reviews_total{result="refused"}'] == 1
        assert counted["pdp_injector_review_duration_seconds_count"] == 1


MALFORMED = {
    "no JSON": b"{",
    "a list": b"[]",
    "another kind": json.dumps(admission_review(PLAIN.pod) | {"kind": "Pod"}).encode(),
    "an older version": json.dumps(admission_review(PLAIN.pod) | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
    "no request": json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}).encode(),
    "a duplicate name": b'{"kind": "AdmissionReview", "kind": "AdmissionReview"}',
    "nested too deep": b"[" * 100_000 + b"]" * 100_000,
    "an answer": json.dumps(
        {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": "x", "allowed": True}}
    ).encode(),
}
WRONG_MEMBERS: dict[str, Any] = {
    "uid": None,
    "operation": 1,
    "resource": "pods",
    "object": [],
    "namespace": "n" * 254,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_review_is_400(tmp_path: Path, body: bytes) -> None:
    """With what is wrong; the connection goes on."""
    async with webhook(tmp_path) as served, served.caller() as caller:
        answer = await caller.call("POST", PATH, body)
        assert (answer.status, answer.body["status"]) == (400, 400)
        assert answer.body["title"]
        assert (await caller.review(PLAIN.request())).status == 200
        assert served.metrics()["pdp_injector_malformed_requests_total"] == 1


async def test_a_request_with_a_wrong_member_is_400(tmp_path: Path) -> None:
    """The member is named."""
    async with webhook(tmp_path) as served, served.caller() as caller:
        for name, value in WRONG_MEMBERS.items():
            asked = PLAIN.request()
            asked["request"][name] = value
            answer = await caller.review(asked)
            assert answer.status == 400
            assert name in answer.body["title"]


FOREIGN = [
    {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}},
    {"operation": "DELETE"},
    {"operation": "CONNECT", "subResource": "exec"},
    {"subResource": "status", "operation": "UPDATE"},
    {"object": None},
    {"namespace": None},
]


@pytest.mark.parametrize("changes", FOREIGN, ids=str)
async def test_a_foreign_review_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the webhook does not judge it does not allow."""
    asked = PLAIN.request()
    asked["request"] |= changes
    async with webhook(tmp_path) as served:
        response = (await served.review(asked)).body["response"]
        assert response["allowed"] is False
        assert "does not judge" in response["status"]["message"]
        assert served.metrics()['pdp_injector_refusals_total{reason="unexpected_review"}'] == 1


async def test_a_large_review_is_judged_up_to_the_limit(tmp_path: Path) -> None:
    """6 MiB are read, and one byte more is 413; others are answered meanwhile."""
    asked = PLAIN.request()
    bare = len(json.dumps(asked).encode())
    asked["request"]["object"]["metadata"]["annotations"]["note"] = ""
    padding = MAX_BODY_BYTES - len(json.dumps(asked).encode())
    assert padding < MAX_BODY_BYTES - bare
    asked["request"]["object"]["metadata"]["annotations"]["note"] = "x" * padding
    body = json.dumps(asked).encode()
    async with webhook(tmp_path) as served:
        async with served.caller() as large, served.caller() as small:
            answering = asyncio.create_task(large.call("POST", PATH, body))
            assert (await small.review(PLAIN.request())).body["response"]["allowed"]
            answer = await answering
            assert (answer.status, answer.body["response"]["allowed"]) == (200, True)
        async with served.caller() as caller:
            assert (await caller.call("POST", PATH, body + b" ")).status == 413


async def test_a_slow_review_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come is 408, and a connection that is not used is kept for as long as it says."""
    assert (app.BODY_SECONDS, app.IDLE_SECONDS) == (10.0, 120.0)
    monkeypatch.setattr(app, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.1)
    async with webhook(tmp_path) as served:
        async with served.caller() as caller:
            head = b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
            await caller.send(head + b"{")
            assert (await caller.read()).status == 408
        async with served.caller() as caller:
            assert (await caller.call("GET", "/healthz")).status == 200
            assert await caller.ended()


async def test_another_media_type_or_path_is_refused(tmp_path: Path) -> None:
    """415, 404, 405."""
    async with webhook(tmp_path) as served, served.caller() as caller:
        body = json.dumps(PLAIN.request()).encode()
        assert (await caller.call("POST", PATH, body, "application/yaml")).status == 415
        assert (await caller.call("POST", "/mutate/", body)).status == 404
        assert (await caller.call("GET", "/mutate")).status == 405
        assert (await caller.call("POST", PATH, body, "application/json; charset=utf-8")).status == 200


async def test_an_internal_error_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never allowed; the log has the cause."""

    def fails(*_arguments: Any, **_named: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(review, "judge", fails)
    async with webhook(tmp_path) as served:
        response = (await served.review(PLAIN.request())).body["response"]
        assert (response["allowed"], response["status"]["code"]) == (False, 500)
        assert served.metrics()['pdp_injector_refusals_total{reason="internal_error"}'] == 1


async def test_the_probes_and_metrics_answer(tmp_path: Path) -> None:
    """On the port of reviews by TLS, and on one of their own without; reviews are not taken there."""
    async with webhook(tmp_path, metrics="127.0.0.1:0") as served:
        async with served.caller() as caller:
            assert (await caller.call("GET", "/healthz")).body == {"status": "alive"}
            assert (await caller.call("GET", "/readyz")).body == {"status": "ready"}
            text = (await caller.call("GET", "/metrics")).body
        for name in ("process_resident_memory_bytes", "pdp_injector_build_info", "pdp_injector_native 1.0"):
            assert name in text
        expires = served.metrics()['pdp_injector_certificate_expiry_timestamp_seconds{certificate="server"}']
        assert expires > served.metrics()["process_start_time_seconds"]
        host, _, number = served.injector.metrics_address.rpartition(":")
        caller = Caller(*await asyncio.open_connection(host, int(number)))
        assert (await caller.call("GET", "/readyz")).status == 200
        assert (await caller.call("POST", "/mutate", b"{}")).status == 404
        caller.close()


async def test_a_stop_answers_what_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First it is not ready; a review whose body is still coming is answered, and then the connection ends."""
    monkeypatch.setattr(app, "END_SECONDS", 0.2)
    body = json.dumps(PLAIN.request()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    running = webhook(tmp_path)
    served = await running.__aenter__()
    async with served.caller() as caller, served.caller() as prober:
        await caller.send(head.encode() + body[:10])
        stopping = asyncio.create_task(running.__aexit__(None, None, None))
        ready = await eventually_gives(lambda: prober.call("GET", "/readyz"), lambda answer: answer.status == 503)
        assert ready.body == {"status": "draining"}
        await caller.send(body[10:])
        assert (await caller.read()).body["response"]["allowed"] is True
        await stopping
        assert await caller.ended()


async def test_a_changed_agents_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a restart; a wrong one leaves the one before it in force."""
    monkeypatch.setattr(reloaded, "POLL_SECONDS", 0.01)
    path = tmp_path / "agents.yaml"
    path.write_text("agents/other: [x-*]\n")

    async def allowed() -> bool:
        answer = await served.review(PLAIN.request())
        found: bool = answer.body["response"]["allowed"]
        return found

    async with webhook(tmp_path, agents_file=path) as served:
        assert not await allowed()
        path.write_text("agents/default: [finance-*]\n")
        assert await eventually_gives(allowed, bool)
        path.write_text("agents/default: finance-*\n")
        await eventually(lambda: "what it held before stays in force" in caplog.text)
        assert await allowed()
        path.write_text("{}\n")
        assert not await eventually_gives(allowed, lambda found: not found)


async def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    """The setting and the entry are named."""
    path = tmp_path / "agents.yaml"
    path.write_text("agents: [a]\n")
    with pytest.raises(SettingsError, match=r"--agents-file.*line 1.*agents.*namespace/service-account"):
        async with webhook(tmp_path, agents_file=path):
            pass
    with pytest.raises(SettingsError, match="--tls-cert"):
        async with webhook(tmp_path, tls_cert=tmp_path / "none"):
            pass


async def test_metrics_count_what_is_skipped(tmp_path: Path) -> None:
    """By its reason."""
    async with webhook(tmp_path) as served:
        answer = await served.review(admission_review({"metadata": {}, "spec": {}}, namespace="kube-system"))
        assert answer.body["response"]["allowed"] is True
        assert patch_of(answer.body)[0]["value"] == {"pdp.dev/status": "skipped: excluded_namespace"}
        await eventually(lambda: served.metrics()['pdp_injector_skips_total{reason="excluded_namespace"}'] == 1)


async def test_the_command_serves_until_sigterm(tmp_path: Path) -> None:
    """Settings from the command line and the environment; the exit code is 0."""
    authority = trustme.CA()
    pair = write_pair(tmp_path / "tls", authority)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (SETTINGS | pair_options(pair)).items()]
    environment = {"PDP_INJECTOR_REVISION": "2026-11", "PDP_INJECTOR_LOG_FORMAT": "json"}
    async with started("pdp", "injector", *options, **environment) as program:
        address = (await program.logged("listening for reviews"))["https"]
        caller = await Caller.connect(address, ssl.create_default_context(cadata=authority.cert_pem.bytes().decode()))
        answer = await caller.review(PLAIN.request())
        caller.close()
        assert patch_of(answer.body)[-1]["value"] == "injected: 2026-11"
        assert await program.stopped() == 0


def pair_options(pair: Pair) -> dict[str, Path]:
    return {"tls_cert": pair.cert, "tls_key": pair.key}

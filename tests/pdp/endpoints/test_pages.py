"""What the sidecar's HTTP port says of itself is true, small, and asks no other host."""

import json
import re
from typing import Any

import jsonschema_rs
import pytest

from pdp import wire
from pdp.core.action import Action, action_json
from pdp.core.interface import ACTION, ANSWER
from pdp.endpoints import openapi
from pdp.endpoints.pages import Pages
from pdp.serving.pages import prefers_html
from tests.deciding import Bench
from tests.given import agent
from tests.pdp.endpoints.test_http import ACTION as ASKED
from tests.pdp.endpoints.test_http import FOREIGN, port
from tests.whole import Answer

DOCUMENT = openapi.document()
LARGEST_BYTES = 64 * 1024
PATHS = ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics")
POSTED = ("/v1/evaluate", "/v1/explain", "/v1/outcomes")
CONNECT = "/pdp.v1.PolicyDecisionPoint/"


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=5))
    return bench


def check(method: str, path: str, answer: Answer) -> None:
    """That the document has this answer, with what it says."""
    described = DOCUMENT["paths"][path][method.lower()]["responses"][str(answer.status)]
    (content,) = described["content"].values()
    validate(content["schema"], answer.body)


def validate(schema: dict[str, Any], value: Any) -> None:
    jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)


REQUESTS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"action": ASKED}, 200),
    ({"action": ASKED, "dry_run": True, "idempotency_key": "k"}, 200),
    ({"action": ASKED | {"agent_id": "nobody-knows-test"}}, 200),
    ({"action": ASKED | {"risk_score": 60, "amount": 1.5, "estimated_cost_usd": None}}, 200),
    ({"action": ASKED | {"data_classifications": ["pii"], "attributes": {"a": [1]}, "tool": "read"}}, 200),
    (openapi.EXAMPLE, 200),
    ({"action": ASKED | {"risk_score": 101}}, 400),
    ({"action": ASKED | {"resource": "x" * 2049}}, 400),
    ({"action": ASKED, "surprise": 1}, 400),
    ({"action": {"agent_id": "billing-reader-test"}}, 400),
    ({}, 400),
)


@pytest.mark.parametrize(("request_", "status"), REQUESTS)
async def test_requests_and_answers_are_as_described(bench: Bench, request_: dict[str, Any], status: int) -> None:
    """What the description allows is decided, what it forbids is refused, and either answer is of its schema."""
    schema = DOCUMENT["components"]["schemas"]["Request"]
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(request_) == (status == 200)
    async with port(bench) as caller:
        answer = await caller.call("POST", "/v1/evaluate", request_)
    assert answer.status == status
    check("POST", "/v1/evaluate", answer)


async def test_probes_and_refusals_are_as_described(bench: Bench) -> None:
    """Alive, ready, not ready, without registry data, too large, of a foreign page."""
    async with port(bench) as caller:
        for path in ("/healthz", "/readyz", "/metrics"):
            check("GET", path, await caller.call("GET", path))
        check("POST", "/v1/evaluate", await caller.call("POST", "/v1/evaluate", b" " * 600_000))
        check("POST", "/v1/evaluate", await caller.call("POST", "/v1/evaluate", {}, {"origin": "null"}))
    async with port(Bench(), not_ready="draining") as caller:
        check("GET", "/readyz", await caller.call("GET", "/readyz"))
        check("POST", "/v1/evaluate", await caller.call("POST", "/v1/evaluate", {"action": ASKED}))


@pytest.mark.parametrize("name", ["Evaluate", "EvaluateBatch", "Explain"])
async def test_calls_by_connect_are_as_described(bench: Bench, name: str) -> None:
    """The example of the description is decided, and answers and errors are of their schemas."""
    as_json = DOCUMENT["paths"][CONNECT + name]["post"]["requestBody"]["content"]["application/json"]
    asked = as_json.get(
        "example",
        {
            "requests": [
                DOCUMENT["paths"][CONNECT + "Evaluate"]["post"]["requestBody"]["content"]["application/json"]["example"]
            ]
        },
    )
    validate(as_json["schema"], asked)
    async with port(bench) as caller:
        answer = await caller.call("POST", CONNECT + name, asked)
        refused = await caller.call("POST", CONNECT + name, {"surprise": 1})
    assert (answer.status, refused.status) == (200, 400)
    responses = DOCUMENT["paths"][CONNECT + name]["post"]["responses"]
    validate(responses["200"]["content"]["application/json"]["schema"], answer.body)
    validate(responses["default"]["content"]["application/json"]["schema"], refused.body)


async def test_every_route_is_described(bench: Bench) -> None:
    """By a name of its own; what is not described is not there."""
    operations = [one for path in DOCUMENT["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    async with port(bench) as caller:
        for path, methods in DOCUMENT["paths"].items():
            answer = await caller.call("PATCH", path)
            assert (answer.status, set(methods)) == (
                405,
                {"post"} if path in POSTED or path.startswith(CONNECT) else {"get"},
            )


def test_the_schemas_have_every_member() -> None:
    """Those of an action and of an answer as the sidecar writes them, in the log too."""
    assert list(action_json(Action("a", "b"))) == list(ACTION)
    assert list(wire.request_schema()["properties"]["action"]["properties"]) == list(ACTION)
    assert list(DOCUMENT["components"]["schemas"]["Answer"]["properties"]) == list(ANSWER)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("TEXT/HTML, application/json;q=0.5", True),
    ],
)
async def test_the_root_says_what_this_is(bench: Bench, accept: str, html: bool) -> None:
    """To a browser as a page, to all others as JSON; every link leads somewhere."""
    assert prefers_html(accept) == html
    async with port(bench) as caller:
        answer = await caller.call("GET", "/", headers={"accept": accept})
        assert answer.status == 200
        links = re.findall('href="([^"]+)"', answer.body) if html else answer.body["links"]
        assert set(links) == {"/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"}
        for link in links:
            assert (await caller.call("GET", link)).status == 200


def test_the_pages_are_small_and_ask_no_other_host() -> None:
    """No script, no image, no address of another host; the style is the one that the policy allows."""
    pages = Pages()
    assert json.loads(pages.document) == DOCUMENT
    for page in (pages.docs, pages.about("text/html").body):
        text = bytes(page).decode()
        assert len(page) < LARGEST_BYTES
        assert not re.search("<script|<img|<link|src=|url\\(|@import", text)
        assert {link for link in re.findall('href="([^"]+)"', text) if not link.startswith("/")} == set()
        assert all(path in bytes(pages.docs).decode() for path in DOCUMENT["paths"])
    policy = pages.about("text/html").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json"])
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_the_pages_keep_to_the_hosts(bench: Bench, path: str, headers: dict[str, str]) -> None:
    """A page of another origin reads them as little as it asks for decisions."""
    async with port(bench) as caller:
        assert (await caller.call("GET", path, headers=headers)).status == 403


@pytest.mark.parametrize(("method", "path"), [*(("POST", path) for path in POSTED), *(("GET", path) for path in PATHS)])
async def test_an_unknown_parameter_is_refused(bench: Bench, method: str, path: str) -> None:
    """As an unknown field is: no endpoint takes any."""
    async with port(bench) as caller:
        answer = await caller.call(method, f"{path}?dry_run=true", {"action": ASKED} if method == "POST" else None)
        left = (await caller.call("POST", "/v1/evaluate", {"action": ASKED})).body["rate_remaining"]["minute"]
    assert (answer.status, left) == (400, 4)
    assert answer.body["errors"] == [{"path": "dry_run", "message": "unknown parameter"}]
    assert answer.body["title"] == "Invalid request"

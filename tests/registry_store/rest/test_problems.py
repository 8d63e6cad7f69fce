"""Every error is a problem, with the headers that its status needs."""

import re

import pytest

from registry_store.rest.table import routes
from tests.registry_store.serving import Rest, Served

REGISTRY = "/api/agents/registry"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", REGISTRY, "GET, POST"),
        ("POST", f"{REGISTRY}/some-agent-prod", "DELETE, GET, PUT"),
        ("DELETE", f"{REGISTRY}/some-agent-prod/policies", "GET, POST"),
        ("PATCH", "/api/agents/policies/x", "DELETE, GET, PUT"),
        ("PUT", "/api/keys", "GET, POST"),
        ("GET", "/api/agents/emergency-stop", "POST"),
        ("DELETE", "/healthz", "GET"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_405_names_every_method_of_the_path(admin: Rest, method: str, path: str, allowed: str) -> None:
    """Also those that other routes of the same path serve."""
    answer = admin.call(method, path)
    assert (answer.status, answer.body["status"]) == (405, 405)
    assert ", ".join(sorted(answer.headers["allow"].split(", "))) == allowed


@pytest.mark.parametrize("path", ["/api", "//", f"{REGISTRY}/", "/api/approval", f"{REGISTRY}/a/b/c"])
def test_a_path_that_is_none_is_a_404(admin: Rest, path: str) -> None:
    """Never a redirect: what is sent to a slash too many is not sent again."""
    answer = admin.get(path)
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    "path",
    [
        f"{REGISTRY}/a%00b",
        f"{REGISTRY}/%00/versions",
        f"{REGISTRY}?tag=%00",
        "/api/agents/policies/%00",
        "/api/agents/mcp/servers/%00",
        "/api/agents/emergency-stops/%00",
        "/api/keys/%00",
        "/api/activity?performed_by=%00",
        f"{REGISTRY}/{'x' * 300}",
    ],
)
def test_what_no_database_can_hold_is_refused(admin: Rest, path: str) -> None:
    """A NUL, or an id of any length, is a 422 that names the parameter, on every database."""
    answer = admin.get(path)
    assert answer.status == 422
    assert len(answer.body["errors"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"a": NaN}', 400),
        (b'{"a": 1, "a": 2}', 400),
        (b"\xff\xfe{}", 400),
        (b"[" * 100_000, 400),
        (b'"text"', 422),
        (b'{"agent_id": "' + b"x" * (1024 * 1024) + b'"}', 413),
    ],
)
@pytest.mark.parametrize("path", [REGISTRY, "/api/keys", "/api/agents/emergency-stop", "/api/agents/mcp/servers"])
def test_a_bad_body_is_refused_on_every_route(admin: Rest, path: str, body: bytes, status: int) -> None:
    """400 where it is not JSON, 413 where it is too large, 422 where it is not an object."""
    assert admin.post(path, body).status == status


def test_a_401_says_how_to_authenticate(store: Served) -> None:
    """With the header that RFC 9110 asks for."""
    answer = store.rest(None).get("/api/keys")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


def queried(path: str) -> str:
    """A route's path with something in place of its parameters."""
    return re.sub(r"\{\w+\}", "some-agent-prod", path)


ROUTES = [(route.method, queried(route.path)) for route in routes()]
PAGES = [("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json")]


@pytest.mark.parametrize(("method", "path"), [*ROUTES, *PAGES], ids=" ".join)
def test_an_unknown_parameter_is_refused_on_every_route(admin: Rest, method: str, path: str) -> None:
    """422 that names it, as an unknown field of a body is named, before anything is read or changed."""
    answer = admin.call(method, f"{path}?colour=red", {})
    assert (answer.status, answer.body["errors"]) == (422, [{"path": "colour", "message": "unknown parameter"}])


def test_every_bad_parameter_is_named_at_once(admin: Rest) -> None:
    """Unknown, repeated and wrong ones; a parameter that is repeated is not taken from either place."""
    answer = admin.get(f"{REGISTRY}?colour=red&tag=a&tag=b&limit=0&%00=1&colour=blue")
    assert (answer.status, answer.body["detail"]) == (422, "not valid: 4 of the parameters")
    assert {error["path"]: error["message"] for error in answer.body["errors"]} == {
        "colour": "unknown parameter",
        "tag": "is given more than once",
        "\x00": "unknown parameter",
        "limit": "input should be greater than or equal to 1",
    }


def test_a_message_shows_a_value_as_it_was_given(admin: Rest) -> None:
    """Not in lower case."""
    answer = admin.get("/api/activity?since=Noon")
    assert answer.body["errors"] == [
        {"path": "since", "message": "value error, `Noon` is not a time such as 2030-01-31T12:00:00Z"}
    ]


def test_the_key_is_checked_before_the_parameters(store: Served) -> None:
    """Whoever has no key learns nothing of them."""
    assert store.rest(None).get("/api/keys?colour=red").status == 401


def test_many_or_long_parameters_are_refused_in_a_short_answer(admin: Rest) -> None:
    """More than any route has are not read; a name is cut to fit a line."""
    answer = admin.get(f"/api/keys?{'a&' * 10_000}")
    assert (answer.status, answer.body["errors"]) == (422, [{"path": "", "message": "more than 50 query parameters"}])
    (error,) = admin.get(f"/api/keys?{'x' * 10_000}=1").body["errors"]
    assert error == {"path": "x" * 77 + "…", "message": "unknown parameter"}

"""Signing in: a session that is bound to its key, in a cookie that nothing but the pages accepts."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from registry_store.access.sessions import LIFE
from registry_store.rest.table import routes
from registry_store.settings import Settings
from tests.registry_store.approving import opened
from tests.registry_store.browsing import Browser, browser, signed_in, stranger
from tests.registry_store.serving import PATIENT, Rest, Served, served

HTTPS = {"x-forwarded-proto": "https"}


@pytest.mark.parametrize("path", ["/approvals", "/approvals?offset=50", "/approvals/{approval_id}", "/approvals/none"])
def test_without_a_session_every_page_is_the_form_to_sign_in(store: Served, path: str) -> None:
    """With 200, and with nothing of what the page would show."""
    page = stranger(store).get(path.format(approval_id=opened(store, resource="vault_7")))
    assert (page.status, "Your API key" in page.text, "vault_7" in page.body) == (200, True, False)


def test_signing_in_leads_to_the_page_that_was_asked_for(store: Served) -> None:
    """By a redirect, so that a reload does not send the key once more."""
    approval_id = opened(store)
    person = stranger(store)
    answer = person.sign_in(store.key("viewer", "vic"), f"/approvals/{approval_id}")
    assert (answer.status, answer.location) == (303, f"/approvals/{approval_id}")
    page = person.get(answer.location)
    assert (page.status, "vic (viewer)" in page.text, "banking_api" in page.text) == (200, True, True)


def test_the_start_page_takes_the_key_too(store: Served) -> None:
    """And says afterwards what waits."""
    person = stranger(store)
    page = person.get("/", accept="text/html")
    answer = person.send("/sign-in", csrf_token=page.token("/sign-in"), key=store.key("admin"), next="/approvals")
    assert answer.status == 303
    assert "for you" in person.get("/", accept="text/html").text


def test_the_session_is_in_a_cookie_that_no_script_and_no_other_site_gets(store: Served) -> None:
    """It ends by itself, and holds nothing of the key but its id."""
    person, key = stranger(store), store.key("approver")
    (cookie,) = person.sign_in(key).headers.getlist("set-cookie")
    assert cookie.startswith("registry_session=")
    assert cookie.lower().split("; ")[1:] == ["httponly", f"max-age={LIFE.seconds}", "path=/", "samesite=strict"]
    assert key not in cookie
    assert key.split("_", 2)[2] not in cookie


def test_over_https_the_cookie_is_bound_to_the_host(store: Served) -> None:
    """`Secure` and `__Host-`; a cookie of the plain name is not read then."""
    plain = browser(store)
    secure = Browser(store.running.http_address, headers=HTTPS)
    (cookie,) = secure.sign_in(store.key("approver")).headers.getlist("set-cookie")
    assert re.match("__Host-registry_session=.*; Secure", cookie)
    assert "domain" not in cookie.lower()
    assert secure.get("/approvals").token("/sign-out")
    assert "Your API key" in Browser(plain.address, dict(plain.cookies), HTTPS).get("/approvals").text


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/approvals/..//evil",
        "/api/keys",
        "/docs",
        "",
        "/a\r\nb",
    ],
)
def test_signing_in_leads_to_no_other_place(store: Served, path: str) -> None:
    """Not by the form, and not by a link to it."""
    person = stranger(store)
    token = person.get("/sign-in").token("/sign-in")
    answer = person.send("/sign-in", csrf_token=token, key=store.key("viewer"), next=path)
    assert (answer.status, answer.location) == (303, "/approvals")
    assert 'name="next" value="/approvals"' in stranger(store).get("/sign-in?next=https://evil.example").body


@pytest.mark.parametrize("role", ["agent", "sidecar"])
def test_a_key_of_a_program_cannot_sign_in(store: Served, role: str) -> None:
    """403, with the form again, and no session."""
    person = stranger(store)
    page = person.sign_in(store.key(role))
    assert (page.status, f"a key of role {role} cannot sign in" in page.text) == (403, True)
    assert "registry_session" not in person.cookies


def test_wrong_keys_are_throttled_as_everywhere(settings: Settings) -> None:
    """401, then 429 with Retry-After; the right key gets in all the same, and the metric counts."""
    with served(replace(settings, most_failed_keys=1), PATIENT) as store:
        person, admin = stranger(store), store.rest()
        wrong = f"owkai_{'0' * 16}_{'x' * 43}"
        first, second = person.sign_in(wrong), person.sign_in(wrong)
        assert (first.status, "the key is unknown" in first.text) == (401, True)
        assert (second.status, int(second.headers["retry-after"]) > 0) == (429, True)
        assert "too many wrong keys" in second.text
        assert Rest(admin.address, wrong).get("/api/keys").status == 429
        assert person.sign_in(store.key("approver")).status == 303
        assert "registry_store_refused_keys_total 3.0" in admin.get("/metrics").body


def test_a_key_is_taken_with_blanks_around_it(store: Served) -> None:
    """As it is pasted."""
    assert stranger(store).sign_in(f"  {store.key('admin')}\n").status == 303


def test_the_form_to_sign_in_is_of_this_browser(store: Served) -> None:
    """A token of another browser, a made-up one, and one without its cookie are 403; none at all is 422."""
    person, other, key = stranger(store), stranger(store), store.key("admin")
    page, foreign = person.get("/sign-in"), other.get("/sign-in").token("/sign-in")
    for token in (foreign, "x" * 43):
        assert person.send("/sign-in", csrf_token=token, key=key).status == 403
    bare = stranger(store).send("/sign-in", csrf_token=page.token("/sign-in"), key=key)
    assert (bare.status, "out of date" in bare.text) == (403, True)
    assert person.send("/sign-in", key=key).status == 422
    assert person.send("/sign-in", csrf_token=page.token("/sign-in"), key=key).status == 303


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_session_ends_with_its_key(store: Served, how: str) -> None:
    """At the next request: a page is the form to sign in, a decision is not taken."""
    admin, approval_id = store.rest(), opened(store)
    key = admin.post("/api/keys", {"role": "admin", "name": "gone"}).body
    person = signed_in(store, key["key"])
    token = person.token()
    if how == "revoked":
        admin.delete(f"/api/keys/{key['key_id']}")
    else:
        past = "2020-01-01 00:00:00.000000+00:00"
        store.sql(f"UPDATE keys SET expires_at = '{past}' WHERE key_id = '{key['key_id']}'")
    page = person.get("/approvals")
    assert page.status == 200
    assert f"your session has ended: the key {'is revoked' if how == 'revoked' else 'has expired'}" in page.text
    page = person.send(f"/approvals/{approval_id}", csrf_token=token, verdict="approve")
    assert (page.status, "Your API key" in page.text) == (401, True)
    assert admin.get(f"/api/approvals/{approval_id}").body["status"] == "pending"


def test_the_key_of_a_session_counts_as_used(store: Served) -> None:
    """As it does with each request to the interface."""
    admin = store.rest()
    key = admin.post("/api/keys", {"role": "viewer", "name": "vic"}).body
    signed_in(store, key["key"]).get("/approvals")
    (listed,) = (one for one in admin.get("/api/keys?limit=500").body["keys"] if one["key_id"] == key["key_id"])
    assert listed["last_used_at"] is not None


def test_the_interface_accepts_no_cookie(store: Served) -> None:
    """Each route that needs a key is 401 for an admin who is signed in."""
    person = browser(store, "admin")
    keyed = [route for route in routes() if route.roles is not None]
    assert len(keyed) > 30
    for route in keyed:
        path = re.sub(r"\{\w+\}", "nothing", route.path)
        assert person.call(route.method, path, b"{}").status == 401, route


def test_signing_out_ends_the_session(store: Served) -> None:
    """Also for a copy of its cookie, but not other sessions of the key; it takes the token of the session."""
    key = store.key("admin")
    person, elsewhere = signed_in(store, key), signed_in(store, key)
    copy = Browser(person.address, dict(person.cookies))
    assert person.send("/sign-out", csrf_token=elsewhere.token()).status == 403
    answer = person.send("/sign-out", csrf_token=person.token())
    assert (answer.status, answer.location) == (303, "/sign-in")
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert "Your API key" in person.get("/approvals").text
    assert "Your API key" in copy.get("/approvals").text
    assert elsewhere.token()


def test_a_link_from_another_site_reaches_who_is_signed_in(store: Served) -> None:
    """The browser sends no Strict cookie with it, but does with the step that follows from the store's own page."""
    path, person = f"/approvals/{opened(store)}", browser(store)
    again = f"/sign-in?next={path}"
    page = stranger(store).get(path, sec_fetch_site="cross-site")
    assert (page.status, page.headers["refresh"], f'href="{again}"' in page.body) == (200, f"0; url={again}", True)
    assert "set-cookie" not in page.headers
    assert (person.get(again).status, person.get(again).location) == (303, path)
    form = stranger(store).get(again, sec_fetch_site="cross-site")
    assert (form.status, f'name="next" value="{path}"' in form.body) == (200, True)


def test_the_sources_hold_no_script() -> None:
    """And no style beside the one sheet, and no address of another host."""
    for path in (Path(__file__).parents[3] / "registry_store" / "pages" / "templates").iterdir():
        text = path.read_text()
        assert not re.search(r"<script|\son\w+=|style=|https?:|//\w", text), path

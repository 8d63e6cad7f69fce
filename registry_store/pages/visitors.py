"""Who looks at a page: a person who is signed in, or a browser that gets the form to sign in."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request
from fastapi.responses import Response

from registry_store.access.keys import Caller
from registry_store.access.sessions import LIFE, Session, Sessions
from registry_store.errors import NotAllowedError, NotAuthenticatedError
from registry_store.pages.rendering import page
from registry_store.rest.exchange.access import store_of
from registry_store.rest.exchange.problems import FINE, Failure, failure_of

SESSION, FORM = "registry_session", "registry_form"
"""The cookies: the session, and what the token of the form to sign in belongs to. `/api` reads neither."""
HOME = "/approvals"
NEXT = re.compile(r"/approvals(/[0-9A-Za-z-]{1,64})?")
"""The pages that signing in can lead to."""
NONCE = re.compile(r"[0-9A-Za-z_-]{43}")


class SignInNeededError(Exception):
    """Nobody is signed in; the text says why, if a session has ended."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who is signed in, with the token of the forms on pages for this session."""

    caller: Caller
    session: Session
    csrf_token: str


def sessions_of(request: Request) -> Sessions:
    """The sessions of the store that answers this request."""
    sessions: Sessions = request.app.state.sessions
    return sessions


async def person_of(request: Request) -> Person | None:
    """Who is signed in, or None; `NotAuthenticatedError` if the key of the session was revoked or has expired."""
    sessions, now = sessions_of(request), datetime.now(UTC)
    value = request.cookies.get(_name(request, SESSION), "")
    session = sessions.read(value, now)
    if session is None:
        return None
    caller = await store_of(request).authentication.holder(session.key_id, now)
    return Person(caller, session, sessions.csrf_token(value))


async def signed_in(request: Request) -> Person:
    """Who is signed in; `SignInNeededError` if nobody is."""
    try:
        person = await person_of(request)
    except NotAuthenticatedError as error:
        raise SignInNeededError(f"your session has ended: {error}") from None
    if person is None:
        raise SignInNeededError
    return person


SignedIn = Annotated[Person, Depends(signed_in)]


def check_form(request: Request, token: str, cookie: str) -> None:
    """Raises `NotAllowedError` unless the form is of a page that this browser got with this cookie."""
    value = request.cookies.get(_name(request, cookie), "")
    if not value or not sessions_of(request).is_csrf_token(token, value):
        raise NotAllowedError("this form is out of date: send it once more")


def begin_session(request: Request, response: Response, key_id: str) -> None:
    """Sign in: the browser keeps the session for as long as it lasts."""
    value = sessions_of(request).begin(key_id, datetime.now(UTC))
    _set(request, response, SESSION, value, int(LIFE.total_seconds()))


def end_session(request: Request, response: Response, session: Session) -> None:
    """Sign out."""
    sessions_of(request).end(session)
    _set(request, response, SESSION, "", 0)


def page_after(path: str) -> str:
    """The page of this store to go to after signing in; any other path is the list."""
    return path if NEXT.fullmatch(path) else HOME


def sign_in_form(
    request: Request,
    path: str,
    failure: Failure = FINE,
    *,
    notice: str = "",
    template: str = "sign_in.html",
    **values: Any,
) -> Response:
    """A page with the form to sign in, which leads to the page at `path`."""
    nonce = request.cookies.get(_name(request, FORM), "")
    if not NONCE.fullmatch(nonce):
        nonce = secrets.token_urlsafe(32)
    response = page(
        template,
        failure.status,
        failure.headers,
        person=None,
        after=page_after(path),
        csrf_token=sessions_of(request).csrf_token(nonce),
        notice=failure.detail or notice,
        **values,
    )
    _set(request, response, FORM, nonce, int(LIFE.total_seconds()))
    return response


def needs_sign_in(request: Request, error: SignInNeededError) -> Response:
    """The answer to a browser that is not signed in: the form, with 200 unless it has sent one."""
    path = page_after(request.url.path)
    if request.method == "POST":
        lost = NotAuthenticatedError(f"{str(error) or 'nobody is signed in'}; sign in, and send the form once more")
        return sign_in_form(request, path, failure_of(lost))
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link from another site, such as a mail in a browser, comes without the cookie, which is SameSite=Strict.
        # From a page of this store the browser sends it.
        again = f"/sign-in?next={quote(path)}"
        return page("continue.html", headers={"refresh": f"0; url={again}"}, person=None, path=again)
    return sign_in_form(request, path, notice=str(error))


def _name(request: Request, cookie: str) -> str:
    return f"__Host-{cookie}" if request.url.scheme == "https" else cookie


def _set(request: Request, response: Response, cookie: str, value: str, max_age: int) -> None:
    response.set_cookie(
        _name(request, cookie),
        value,
        max_age=max_age,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )

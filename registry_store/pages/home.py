"""The page at `/` for people: who is signed in, what waits, and what else this port answers."""

from collections.abc import Mapping
from datetime import UTC, datetime

from fastapi import Request
from fastapi.responses import Response

from registry_store.approvals import lists
from registry_store.errors import NotAuthenticatedError
from registry_store.pages import visitors
from registry_store.pages.rendering import page
from registry_store.rest.exchange.access import reading, store_of


async def home(request: Request, about: str, links: Mapping[str, str]) -> Response:
    """The page, with these links and what they lead to."""
    try:
        person = await visitors.person_of(request)
    except NotAuthenticatedError:
        person = None
    if person is None:
        return visitors.sign_in_form(request, visitors.HOME, about=about, links=links, template="home.html")
    now, approver_mfa = datetime.now(UTC), store_of(request).settings.approver_mfa
    async with reading(request) as session:
        waiting = await lists.waiting(session, person.caller, now, 0, 0, approver_mfa=approver_mfa)
    return page("home.html", person=person, for_me=waiting.for_me, about=about, links=links)

"""/sign-in and /sign-out: a person signs in with a key of role admin, approver or viewer."""

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from pdp.core.fields import Field
from pdp.core.kinds import Text
from registry_store.errors import NotAllowedError, NotAuthenticatedError, RegistryError
from registry_store.pages import visitors
from registry_store.pages.forms import CSRF_TOKEN, read_form
from registry_store.pages.rendering import redirect
from registry_store.pages.routing import PageRoute
from registry_store.pages.visitors import FORM, HOME, SESSION, SignedIn
from registry_store.rest.exchange.access import READERS, key_holder
from registry_store.rest.exchange.problems import failure_of

logger = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False, route_class=PageRoute)

MAX_PATH = 256
SIGN_IN_FORM: dict[str, Field] = {
    "csrf_token": CSRF_TOKEN,
    "key": Field(Text(256), required=True),
    "next": Field(Text(MAX_PATH), HOME),
}
SIGN_OUT_FORM: dict[str, Field] = {"csrf_token": CSRF_TOKEN}


@router.api_route("/sign-in", methods=["GET", "HEAD"])
async def show_sign_in(
    request: Request, path: Annotated[str, Query(alias="next", max_length=MAX_PATH)] = HOME
) -> Response:
    """The form to sign in, or for who is signed in the page that it would lead to."""
    try:
        person = await visitors.person_of(request)
    except NotAuthenticatedError:
        person = None
    return redirect(visitors.page_after(path)) if person else visitors.sign_in_form(request, path)


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Begin a session of the holder of a key; wrong keys are throttled as everywhere."""
    form = await read_form(request, SIGN_IN_FORM)
    try:
        visitors.check_form(request, form["csrf_token"], FORM)
        caller = await key_holder(request, form["key"].strip())
        if caller.role not in READERS:
            raise NotAllowedError(f"a key of role {caller.role.value} cannot sign in")
    except RegistryError as error:
        return visitors.sign_in_form(request, form["next"], failure_of(error))
    logger.info("`%s` signed in", caller.name, extra={"key_id": caller.key_id})
    response = redirect(visitors.page_after(form["next"]))
    visitors.begin_session(request, response, caller.key_id)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, person: SignedIn) -> Response:
    """End the session."""
    form = await read_form(request, SIGN_OUT_FORM)
    visitors.check_form(request, form["csrf_token"], SESSION)
    logger.info("`%s` signed out", person.caller.name, extra={"key_id": person.caller.key_id})
    response = redirect("/sign-in")
    visitors.end_session(request, response, person.session)
    return response

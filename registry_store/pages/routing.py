"""The route class of pages: every error is a page too, and whoever is not signed in gets the form to sign in."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from pdp.core.errors import Problem
from registry_store.pages.rendering import page
from registry_store.pages.visitors import SignInNeededError, needs_sign_in
from registry_store.rest.exchange.problems import KNOWN, Failure, failure_of
from registry_store.rest.exchange.routing import Retried

VERBS = ("is ", "has ", "holds ")
"""How a message of a field begins that makes a sentence with its name."""


class PageRoute(Retried):
    """A route that answers with pages alone; as strict about parameters as the routes of the interface."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except SignInNeededError as error:
                return needs_sign_in(request, error)
            except KNOWN as error:
                return _error_page(failure_of(error))

        return answer


def words_of(failure: Failure) -> list[str]:
    """What went wrong, in sentences without a full stop."""
    return [_sentence(problem) for problem in failure.errors] or [failure.detail]


def _sentence(problem: Problem) -> str:
    if not problem.path:
        return problem.message
    return f"`{problem.path}`{' ' if problem.message.startswith(VERBS) else ': '}{problem.message}"


def _error_page(failure: Failure) -> Response:
    return page(
        "error.html", failure.status, failure.headers, person=None, code=failure.status, words=words_of(failure)
    )

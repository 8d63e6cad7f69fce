"""A route whose transaction is run again when it fails by a conflict with others."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from registry_store.database.transactions import retried


class Retried(APIRoute):
    """Answers a request anew after a serialisation failure or a deadlock: nothing of the first try was kept.

    A body is read once and kept with the request, so that each try sees the same.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's own handler, a few times if need be."""
        handle = super().get_route_handler()

        async def again(request: Request) -> Response:
            return await retried(handle, request)

        return again

"""Routes: what every request meets before its endpoint, and once more when its transaction conflicts with others."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from pdp.core.fields import join
from pdp.serving.parameters import has_too_many, problems_of
from registry_store.database.transactions import retried


class Strict(APIRoute):
    """A route that refuses query parameters that it does not have, and those that are given more than once.

    The key is checked first, unless they are so many that reading them takes time. One answer names these parameters
    and those whose values are wrong.
    """

    def __init__(self, path: str, endpoint: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> None:
        @wraps(endpoint)
        async def strict(request: Request, **values: Any) -> Any:
            if self._problems(request):
                raise RequestValidationError([])
            return await endpoint(request=request, **values)

        super().__init__(path, strict, **options)
        self._parameters = frozenset(parameter.alias for parameter in self.dependant.query_params)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's own handler, whose refusal of parameters names every one that is wrong."""
        handle = super().get_route_handler()

        async def refusing(request: Request) -> Response:
            if has_too_many(request.scope["query_string"]):
                raise RequestValidationError(self._problems(request))
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise RequestValidationError([*self._problems(request), *error.errors()]) from None

        return refusing

    def _problems(self, request: Request) -> list[dict[str, Any]]:
        found = problems_of(request.scope["query_string"], self._parameters)
        return [{"loc": ("query", join("", name)), "msg": message} for name, message in found]


class Retried(Strict):
    """Answers a request anew after a serialisation failure or a deadlock: nothing of the first try was kept.

    A body is read once and kept with the request, so that each try sees the same.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's own handler, a few times if need be."""
        handle = super().get_route_handler()

        async def again(request: Request) -> Response:
            return await retried(handle, request)

        return again

"""Route classes: strict query parameters, and retries after a conflict of transactions."""

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
    """A route that rejects unknown and duplicate query parameters.

    The key is checked first, unless there are too many parameters to read them quickly. One response names all unknown,
    duplicate and invalid parameters.
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
        """The handler of the route; its 422 response names every invalid parameter."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if has_too_many(request.scope["query_string"]):
                raise RequestValidationError(self._problems(request))
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise RequestValidationError([*self._problems(request), *error.errors()]) from None

        return checked

    def _problems(self, request: Request) -> list[dict[str, Any]]:
        found = problems_of(request.scope["query_string"], self._parameters)
        return [{"loc": ("query", join("", name)), "msg": message} for name, message in found]


class Retried(Strict):
    """A route that retries a request after a serialisation failure or a deadlock, which roll back the first try.

    The body is read once and kept with the request, so that each try gets the same body.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, with retries."""
        handle = super().get_route_handler()

        async def again(request: Request) -> Response:
            return await retried(handle, request)

        return again

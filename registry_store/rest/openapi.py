"""The interface's own description, at /openapi.json."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from registry_store.rest.exchange.answers import gives
from registry_store.rest.exchange.schemas import COMPONENTS
from registry_store.rest.table import routes

INVALID = gives(422)[422]


def described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of the application: answers by reference, errors as problems, the roles of each route."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, summary=app.summary
        )
        enums = {name: schema for name, schema in document["components"]["schemas"].items() if "enum" in schema}
        document["components"]["schemas"] = enums | COMPONENTS
        for operation in _operations(document):
            operation["responses"]["422"] = INVALID  # of any route: an unknown query parameter
        for route in routes():
            if route.roles is not None:
                operation = document["paths"][route.path][route.method.lower()]
                operation["x-roles"] = sorted(role.value for role in route.roles)
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()

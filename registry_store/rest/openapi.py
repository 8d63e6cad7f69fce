"""The interface's own description, at /openapi.json."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from registry_store.rest.exchange.answers import gives
from registry_store.rest.exchange.schemas import COMPONENTS
from registry_store.rest.table import routes

INVALID = gives(422)[422]
TAGS = [
    {"name": name, "description": about}
    for name, about in (
        ("agents", "Register agents, change them and their status"),
        ("versions", "What an agent's configuration was, and how it is brought back"),
        ("agent policies", "Policies of one agent"),
        ("organisation policies", "Policies that bind every agent of a selector"),
        ("MCP servers", "The servers whose tools agents may call"),
        ("declarations", "Agents with their policies, each as one document, as `registry-store apply` uses them"),
        ("emergency stops", "Suspend many agents at once, and let exactly those go again"),
        ("approvals", "What agents wait for, and people's decisions on it"),
        ("decisions", "What sidecars decided"),
        ("usage", "What an agent did and spent"),
        ("activity", "Who changed what, and when"),
        ("keys", "API keys"),
        ("sidecars", "The sidecars of this store, and whose node ids are"),
        ("operations", "Probes and metrics; no key is needed"),
    )
]


def described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of the application: answers by reference, errors as problems, the roles of each route."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        enums = {name: schema for name, schema in document["components"]["schemas"].items() if "enum" in schema}
        document["components"]["schemas"] = enums | COMPONENTS
        for operation in _operations(document):
            operation["summary"] = operation["operationId"].replace("_", " ").capitalize().replace("mcp", "MCP")
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

"""The OpenAPI document of the interface, at /openapi.json."""

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
        ("agents", "Register agents, and change their configuration and status"),
        ("versions", "Earlier configurations of an agent, and rollback"),
        ("agent policies", "Policies of one agent"),
        ("organisation policies", "Policies for every agent of a selector"),
        ("MCP servers", "The servers whose tools agents may call"),
        ("declarations", "Agents with their policies, each as one document; used by `registry-store apply`"),
        ("emergency stops", "Suspend many agents at once, and activate exactly these again"),
        ("approvals", "Actions that wait for approval, and decisions of people on them"),
        ("decisions", "Decisions of sidecars"),
        ("alerts", "What people are told by webhook, by mail and in channels"),
        ("usage", "Actions and cost of an agent"),
        ("activity", "Who changed what, and when"),
        ("keys", "API keys"),
        ("sidecars", "The sidecars of this store, and the owners of node ids"),
        ("operations", "Probes and metrics, without a key"),
    )
]


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the application, with response schemas, errors as problems, and roles."""
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
            operation["responses"]["422"] = INVALID  # any route rejects unknown query parameters
        for route in routes():
            if route.roles is not None:
                operation = document["paths"][route.path][route.method.lower()]
                operation["x-roles"] = sorted(role.value for role in route.roles)
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()

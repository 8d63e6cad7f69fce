"""All routes of the REST interface and the roles that may use them; and the pages for people."""

from collections.abc import Iterator
from typing import NamedTuple

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from registry_store.access.keys import Role
from registry_store.pages import approvals as approval_pages
from registry_store.pages import sign_in
from registry_store.rest.exchange.access import RoleIn
from registry_store.rest.resources import (
    activity,
    agents,
    alerts,
    approvals,
    decisions,
    declarations,
    emergency_stops,
    keys,
    mcp_servers,
    operations,
    policies,
    policy_versions,
    sidecars,
    usage,
    versions,
)

ROUTERS = (
    agents.router,
    versions.router,
    activity.router,
    declarations.router,
    usage.router,
    emergency_stops.router,
    policies.of_agent,
    policies.of_organisation,
    policy_versions.of_agent,
    policy_versions.of_organisation,
    mcp_servers.router,
    approvals.router,
    decisions.router,
    alerts.router,
    keys.router,
    sidecars.router,
    operations.router,
)


PAGES = (sign_in.router, approval_pages.router)
"""The pages for people, which are no part of the interface."""


class Route(NamedTuple):
    """One method of one path; `roles` is None if no key is required."""

    method: str
    path: str
    roles: frozenset[Role] | None
    about: str


def routes() -> Iterator[Route]:
    """Yields every route, in the order of the routers."""
    for route in _all(*ROUTERS):
        about = (route.description or "").partition("\n")[0].rstrip(".")
        for method in sorted(route.methods or ()):
            yield Route(method, route.path, _roles(route.dependant), about)


def allowed(path: str) -> list[str]:
    """The allowed methods of a request path."""
    return sorted(
        {method for route in _all(*ROUTERS, *PAGES) if route.path_regex.match(path) for method in route.methods or ()}
    )


def table() -> str:
    """The routes and their roles, as a Markdown table."""
    heads = [role.value for role in Role]
    lines = [f"| Route | {' | '.join(heads)} | no key |", f"| --- |{' --- |' * (len(heads) + 1)}"]
    for route in routes():
        cells = [_cell(route, role) for role in Role]
        anyone = "yes" if route.roles is None else ""
        lines.append(f"| `{route.method} {route.path}` | {' | '.join(cells)} | {anyone} |")
    return "\n".join(lines) + "\n"


def _cell(route: Route, role: Role) -> str:
    if route.roles is not None and role not in route.roles:
        return ""
    return "itself" if role is Role.AGENT and route.roles is not None else "yes"


def _all(*routers: APIRouter) -> Iterator[APIRoute]:
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield route


def _roles(dependant: Dependant) -> frozenset[Role] | None:
    for needed in dependant.dependencies:
        if isinstance(needed.call, RoleIn):
            return needed.call.roles
    return None

"""The registry's REST API: agents, policies, MCP servers, approvals and activity."""

import json
import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import quote, urlencode

import urllib3

from ascend.errors import Conflict, RegistryError, Unavailable, refusal

logger = logging.getLogger("ascend")

Record = dict[str, Any]

AGENTS = "/api/agents/registry"
ORGANISATION_POLICIES = "/api/agents/policies"
SERVERS = "/api/agents/mcp/servers"
APPROVALS = "/api/approvals"
PAGE = 500
NO_FILTER: Mapping[str, str | None] = {}
USER_AGENT = f"ascend/{version('agent-pdp')}"

# For idempotent requests.
RETRIES = urllib3.Retry(
    total=3,
    redirect=0,
    allowed_methods=None,
    backoff_factor=0.2,
    backoff_jitter=0.2,
    status_forcelist=(429, 502, 503, 504),
    raise_on_status=False,
    retry_after_max=5,
)


class _OnlyUnprocessed(urllib3.Retry):
    """For other requests: resends only a request that was certainly not carried out."""

    RETRY_AFTER_STATUS_CODES = frozenset({429})  # a 503 may come after the change was made


CAREFUL = _OnlyUnprocessed(
    total=3,
    read=0,
    other=0,
    redirect=0,
    allowed_methods=None,
    backoff_factor=0.2,
    backoff_jitter=0.2,
    status_forcelist=(429,),
    raise_on_status=False,
    retry_after_max=5,
)


class Registry:
    """The registry at `url`, called with `api_key`; `timeout` bounds each try of a request, in seconds.

    `ca` is a file with the authorities that an https registry is checked against; without it, those of the system.
    If `url` sends the key in clear beyond this host, the logger `ascend` warns once.

    Thread-safe. Records are dicts as the REST API shows them, with every field. Every method raises a
    `RegistryError`: `NotAuthenticated`, `NotAllowed`, `NotFound`, `Conflict`, `Stale`, `Invalid` or `Unavailable`.
    """

    def __init__(self, url: str, api_key: str, timeout: float = 10.0, *, ca: str | None = None) -> None:
        self._url = url.rstrip("/")
        if api_key and (host := _host_in_clear(self._url)) is not None:
            logger.warning("the API key is sent in clear to the registry at `%s`: use an https URL", host)
        self._pool = urllib3.PoolManager(
            headers={
                "authorization": f"Bearer {api_key}",
                "content-type": "application/json",
                "user-agent": USER_AGENT,
            },
            timeout=timeout,
            ca_certs=ca,
        )

    def register(self, **configuration: Any) -> Record:
        """Register an agent with these fields and return it; an agent that exists is returned unchanged.

        If it exists with other fields, the logger `ascend` warns which of them differ.
        """
        try:
            return self._call("POST", AGENTS, configuration)
        except Conflict:
            record = self.get(configuration["agent_id"])
        if differing := _differing(configuration, record):
            named = ", ".join(f"`{name}`" for name in differing)
            logger.warning("agent `%s` is registered already, and differs in %s", record["agent_id"], named)
        return record

    def get(self, agent_id: str) -> Record:
        """The agent's record."""
        return self._call("GET", _agent(agent_id))

    def agents(
        self, *, status: str | None = None, agent_type: str | None = None, tag: str | None = None
    ) -> Iterator[Record]:
        """All agents with this status, type and tag, by id."""
        filters = {"status": status, "type": agent_type, "tag": tag}
        return self._pages(AGENTS, "agents", filters)

    def update(self, agent_id: str, /, *, if_revision: int | None = None, **fields: Any) -> Record:
        """Change these fields of the agent and return it; `version_notes` says why.

        `if_revision` is the `revision` of the record that was read: `Stale` if it has changed since.
        """
        return self._call("PUT", _agent(agent_id), fields, if_revision=if_revision, idempotent=if_revision is None)

    def activate(self, agent_id: str, reason: str = "") -> Record:
        """Activate the agent and return it."""
        return self._call("POST", f"{_agent(agent_id)}/activate", {"reason": reason})

    def suspend(self, agent_id: str, reason: str = "") -> Record:
        """Suspend the agent and return it; every action of it is blocked from now on."""
        return self._call("POST", f"{_agent(agent_id)}/suspend", {"reason": reason})

    def retire(self, agent_id: str, reason: str = "") -> Record:
        """Retire the agent for ever and return it."""
        return self._call("DELETE", _agent(agent_id), {"reason": reason})

    def policies(self, agent_id: str) -> Iterator[Record]:
        """The agent's policies, in the order in which they are evaluated."""
        return self._pages(f"{_agent(agent_id)}/policies", "policies")

    def add_policy(self, agent_id: str, /, **policy: Any) -> Record:
        """Add a policy with these fields to the agent and return it; `Conflict` if its name is taken."""
        return self._call("POST", f"{_agent(agent_id)}/policies", policy, idempotent=False)

    def policy_versions(self, agent_id: str | None, policy_id: str) -> Iterator[Record]:
        """The policy's versions, newest first, also of a policy that was removed; none is active then.

        `agent_id` is the agent whose policy it is; None: it is a policy of the organisation.
        """
        return self._pages(f"{_policy(agent_id, policy_id)}/versions", "versions")

    def policy_difference(self, agent_id: str | None, policy_id: str, version: str, other: str) -> Record:
        """The fields that differ between two versions of the policy: `changes`, each with its values."""
        return self._call("GET", f"{_policy(agent_id, policy_id)}{_difference(version, other)}")

    def rollback_policy(
        self,
        agent_id: str | None,
        policy_id: str,
        target_version: str,
        reason: str = "",
        *,
        if_revision: int | None = None,
    ) -> Record:
        """Put that version of the policy in force again and return the policy; one that was removed comes back.

        `if_revision` as for `update`.
        """
        return self._roll_back(_policy(agent_id, policy_id), target_version, reason, if_revision)

    def register_mcp_server(self, **server: Any) -> Record:
        """Register an MCP server with these fields and return it; a server that exists is returned unchanged."""
        try:
            return self._call("POST", SERVERS, server)
        except Conflict:
            return self._call("GET", f"{SERVERS}/{quote(server['server_name'], safe='')}")

    def versions(self, agent_id: str) -> Iterator[Record]:
        """The agent's versions, newest first."""
        return self._pages(f"{_agent(agent_id)}/versions", "versions")

    def difference(self, agent_id: str, version: str, other: str) -> Record:
        """The fields that differ between two versions of the agent: `changes`, each with its values."""
        return self._call("GET", f"{_agent(agent_id)}{_difference(version, other)}")

    def rollback(
        self, agent_id: str, target_version: str, reason: str = "", *, if_revision: int | None = None
    ) -> Record:
        """Make that version's configuration active again and return the agent; `if_revision` as for `update`."""
        return self._roll_back(_agent(agent_id), target_version, reason, if_revision)

    def activity(self, agent_id: str) -> Iterator[Record]:
        """The activity entries of the agent, newest first."""
        path, before = f"{_agent(agent_id)}/activity", dict[str, int]()
        while True:  # paged by sequence, so that new entries do not shift the pages
            page = self._call("GET", f"{path}?{urlencode({'limit': PAGE, **before})}")["activities"]
            yield from page
            if len(page) < PAGE:
                return
            before = {"before": page[-1]["sequence"]}

    def approvals(
        self, *, status: str | None = None, agent_id: str | None = None, mine: bool = False, for_me: bool = False
    ) -> Iterator[Record]:
        """All approvals with this status (pending, approved, denied, expired, used) and agent, newest first.

        `mine`: only those that are for this key to decide; `for_me`: only those that it may decide now.
        """
        filters = {
            "status": status,
            "agent_id": agent_id,
            "mine": "true" if mine else None,
            "for": "me" if for_me else None,
        }
        return self._pages(APPROVALS, "approvals", filters)

    def approval(self, approval_id: str) -> Record:
        """The approval with its action and its state."""
        return self._call("GET", _approval(approval_id))

    def approve(self, approval_id: str, comment: str = "") -> Record:
        """Approve and return the approval: the agent may do this action once, if it needs no second person.

        An escalation needs a `comment`. `Conflict` if it is not pending, or if this key's holder has approved it.
        """
        return self._call("POST", f"{_approval(approval_id)}/approve", {"comment": comment}, idempotent=False)

    def deny(self, approval_id: str, comment: str) -> Record:
        """Deny and return the approval; the agent sees the `comment`; `Conflict` if it is not pending."""
        return self._call("POST", f"{_approval(approval_id)}/deny", {"comment": comment}, idempotent=False)

    def close(self) -> None:
        """Closes its connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _roll_back(self, path: str, target_version: str, reason: str, if_revision: int | None) -> Record:
        body = {"target_version": target_version, "reason": reason}
        return self._call("POST", f"{path}/rollback", body, if_revision=if_revision, idempotent=False)

    def _pages(self, path: str, noun: str, filters: Mapping[str, str | None] = NO_FILTER) -> Iterator[Record]:
        given, offset = {name: value for name, value in filters.items() if value is not None}, 0
        while True:
            query = urlencode({"limit": PAGE, "offset": offset, **given})
            page = self._call("GET", f"{path}?{query}")
            yield from page[noun]
            offset += len(page[noun])
            if offset >= page["total"] or not page[noun]:
                return

    def _call(
        self,
        method: str,
        path: str,
        body: Record | None = None,
        *,
        if_revision: int | None = None,
        idempotent: bool = True,
    ) -> Record:
        data = None if body is None else json.dumps(body).encode()
        headers = dict(self._pool.headers)
        if if_revision is not None:
            headers["if-match"] = f'"{if_revision}"'
        try:
            response = self._pool.request(
                method, self._url + path, body=data, headers=headers, retries=RETRIES if idempotent else CAREFUL
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"cannot reach the registry at `{self._url}`: {error}") from error
        answer = _read(response.data)
        if response.status >= 400:
            raise refusal(response.status, answer or {}, response.headers.get("retry-after"))
        if answer is None:
            raise RegistryError(f"`{self._url}` answered {response.status}, but it is not a registry", response.status)
        return answer


def _host_in_clear(url: str) -> str | None:
    """The host beyond this one that is sent requests to `url` without encryption; None if there is none."""
    try:
        parts = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:  # no request can be made
        return None
    in_clear = parts.scheme in ("http", None)  # to urllib3, a URL without a scheme is one of http
    return parts.host if in_clear and parts.host is not None and not _is_loopback(parts.host) else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _differing(given: Record, record: Record) -> list[str]:
    """The fields that are given and have another value in the record."""
    return [name for name, value in json.loads(json.dumps(given)).items() if record.get(name) != value]


def _agent(agent_id: str) -> str:
    return f"{AGENTS}/{quote(agent_id, safe='')}"


def _policy(agent_id: str | None, policy_id: str) -> str:
    """The path of an agent's policy; None: of a policy of the organisation."""
    policies = ORGANISATION_POLICIES if agent_id is None else f"{_agent(agent_id)}/policies"
    return f"{policies}/{quote(policy_id, safe='')}"


def _difference(version: str, other: str) -> str:
    return f"/versions/{quote(version, safe='')}/diff/{quote(other, safe='')}"


def _approval(approval_id: str) -> str:
    return f"{APPROVALS}/{quote(approval_id, safe='')}"


def _read(data: bytes) -> Record | None:
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None

"""Which agents a caller may ask for: all, unless `--caller-agents` says what the names in its certificate may."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

from pdp.core.fields import quote
from pdp.serving.requests import Peer
from pdp.serving.tls import names
from pdp.serving.tls.names import Names

Agents = Mapping[str, tuple[str, ...]]
"""Agent ids, or globs of them, by the name in a certificate."""


class ForeignAgentError(Exception):
    """The caller's certificate does not let it ask for this agent."""


class Caller(NamedTuple):
    """What one caller may ask for: agents by id or glob; None: any."""

    agents: tuple[str, ...] | None = None

    def may_ask(self, agent_id: str) -> bool:
        """Whether it may ask for this agent."""
        return self.agents is None or any(fnmatchcase(agent_id, pattern) for pattern in self.agents)

    def check(self, agent_id: str) -> None:
        """Raise `ForeignAgentError` unless it may ask for this agent."""
        if not self.may_ask(agent_id):
            raise ForeignAgentError(f"agent_id: the client certificate does not allow agent {quote(agent_id)}")


ANY = Caller()
NONE = Caller(())


class Context(Protocol):
    """The part of gRPC's context that tells of the caller; Connect's has it too."""

    def peer(self) -> str: ...

    def auth_context(self) -> Mapping[str, Any]: ...


class Callers:
    """Tells callers apart by `agents`, read anew for each call; without it all are alike."""

    def __init__(self, agents: Callable[[], Agents] | None = None) -> None:
        self._agents = agents
        self.are_alike = agents is None

    def of(self, context: Context) -> Caller:
        """The caller of an RPC."""
        if self._agents is None:
            return ANY
        found = names.of_call(context.auth_context())
        return self._named(found, over_socket=context.peer().startswith("unix:"))

    def of_request(self, peer: Peer) -> Caller:
        """The caller of an HTTP request."""
        if self._agents is None:
            return ANY
        found = None if peer.certificate is None else names.of_certificate(peer.certificate)
        return self._named(found, over_socket=peer.over_socket)

    def _named(self, found: Names | None, *, over_socket: bool) -> Caller:
        """A caller on a Unix socket shows no certificate, and may ask for any agent: it is one of the sidecar's pod."""
        if found is None or self._agents is None:
            return ANY if over_socket else NONE
        return Caller(tuple(agent for agents in found.found_in(self._agents()) for agent in agents))

"""Client certificates of sidecars that stand in for keys: `--sidecar-names` says what the names in them may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pdp.core.action import AGENT_ID
from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import Field, quote, read_fields
from pdp.core.kinds import ListOf, OrNull
from pdp.core.records import NAME, TAGS
from pdp.serving.tls import names
from pdp.serving.tls.name_files import NameFile, Plain
from pdp.serving.tls.names import Names
from pdp.serving.tls.validity import not_after
from registry_store.access.keys import MAX_AGENTS, Caller, Role
from registry_store.errors import LapsedKeyError, NotAuthenticatedError

ANY_AGENT = ["*"]
ENTRY: dict[str, Field] = {
    "node": Field(NAME, required=True, about="The name of the sidecar, in place of a key's"),
    "agents": Field(OrNull(ListOf(AGENT_ID, MAX_AGENTS, 1)), None, about="The agents that it may sync"),
    "tags": Field(OrNull(ListOf(TAGS.item, TAGS.max_items, 1)), None, about="Tags, of which its agents have one"),
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """The verified certificate of a caller: its names, and when it expires."""

    names: Names
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """What the holder of a certificate is: a sidecar, bound to `agents`, to `tags`, or (both None) to none."""

    node: str
    agents: frozenset[str] | None
    tags: frozenset[str] | None


class SidecarNames(NameFile[Entry]):
    """The file of `--sidecar-names`; `FileError` if it cannot be used at first."""

    def __init__(self, path: Path) -> None:
        super().__init__("sidecar-names", path, _entry)

    def caller(self, certificate: Certificate, now: datetime) -> Caller:
        """The sidecar that holds the certificate; `NotAuthenticatedError` if it is none, or not exactly one."""
        if certificate.expires_at <= now:
            raise LapsedKeyError("the client certificate has expired")
        found = certificate.names.found_in(self.value)
        shown = ", ".join(quote(name) for name in sorted(certificate.names.hosts | certificate.names.uris)) or "none"
        if not found:
            raise NotAuthenticatedError(f"no key, and no name of the client certificate is known: {shown}")
        if len(set(found)) > 1:
            raise NotAuthenticatedError(f"the names of the client certificate are those of several sidecars: {shown}")
        (entry,) = set(found)
        return Caller("", entry.node, Role.SIDECAR, None, agents=entry.agents, tags=entry.tags)


def of_call(authentication: Mapping[str, Any]) -> Certificate | None:
    """The certificate of a gRPC caller, from its `auth_context()`; None without one."""
    found = names.of_call(authentication)
    if found is None:
        return None
    expires_at = not_after(b"".join(authentication["x509_pem_cert"]))
    return None if expires_at is None else Certificate(found, expires_at)


def _entry(value: Plain) -> Entry:
    """Reads one entry; `ValueError` says what is wrong."""
    document, any_agent = value, False
    if isinstance(value, dict) and value.get("agents") == ANY_AGENT:
        document, any_agent = {name: content for name, content in value.items() if name != "agents"}, True
    problems = Problems()
    values = read_fields(document, ENTRY, "", problems)
    given = sum((any_agent, values["agents"] is not None, values["tags"] is not None))
    if not problems and given != 1:
        problems.append(Problem("agents", 'exactly one of `agents` (`["*"]`: all) and `tags` is required'))
    if problems:
        raise ValueError(str(InvalidRecordError(problems)))
    agents, tags = (None if values[name] is None else frozenset(values[name]) for name in ("agents", "tags"))
    return Entry(values["node"], agents, tags)

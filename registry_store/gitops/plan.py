"""The plan that changes a registry to what a folder declares: a list of steps, each one request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from pdp.core.errors import InvalidRecordError
from registry_store.documents import Document
from registry_store.errors import RegistryError
from registry_store.gitops.differences import differences
from registry_store.gitops.folder import AGENT, MCP_SERVER, ORGANISATION_POLICY, Object, ObjectKind, file_document
from registry_store.gitops.remote import Remote, Reply

AGENTS = "/api/agents/registry"
DECLARATIONS = "/api/agents/declarations"
LISTS = {
    MCP_SERVER.name: ("/api/agents/mcp/servers", "servers"),
    ORGANISATION_POLICY.name: ("/api/agents/policies", "policies"),
}
SIGNS = {"create": "+", "change": "~", "remove": "-", "retire": "-"}


class ApplyError(RegistryError):
    """The folder declares changes that no request can make; the message lists all of them."""


class Step(NamedTuple):
    """A request, the lines that describe it to people, and its preconditions (`headers`)."""

    verb: str
    kind: ObjectKind
    id: str
    lines: Sequence[str]
    method: str
    path: str
    body: Document | None
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{SIGNS[self.verb]} {self.kind.name} `{self.id}`"


@dataclass
class Plan:
    """The steps that bring the registry to the declared state, and notes for people."""

    steps: list[Step] = field(default_factory=list)
    unchanged: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def plan(remote: Remote, declared: Sequence[Object], *, prune: bool) -> Plan:
    """Plans the steps for these objects; `prune`: all others are removed. `ApplyError` with every problem."""
    objects = {
        kind.name: [found for found in declared if found.kind is kind]
        for kind in (MCP_SERVER, ORGANISATION_POLICY, AGENT)
    }
    if prune and not any(objects.values()):
        raise ApplyError("the folder declares nothing, and `--prune` would remove everything")
    made = Plan()
    removals = [_plan_listed(remote, kind, objects[kind.name], made) for kind in (MCP_SERVER, ORGANISATION_POLICY)]
    registered = sum(_plan_agent(remote, found, made, prune=prune) for found in objects[AGENT.name])
    if prune:
        retirements = _retirements(remote, {found.id for found in objects[AGENT.name]})
        # Agents first and servers last, so that no agent runs without a rule that applies to it.
        made.steps.extend([*retirements, *removals[1], *removals[0]])
    else:
        _note_kept(made, removals)
        _note_other_agents(made, remote.call("GET", f"{DECLARATIONS}?limit=1").document["total"] - registered)
    if made.problems:
        raise ApplyError("; ".join(made.problems))
    return made


def _plan_listed(remote: Remote, kind: ObjectKind, objects: Sequence[Object], made: Plan) -> list[Step]:
    """Plans the changes to one list of the registry; returns the steps that would remove its other records."""
    path, noun = LISTS[kind.name]
    present = {record[kind.id_field]: record for record in remote.pages(path, noun)}
    for found in objects:
        record = present.pop(found.id, None)
        if record is None:
            made.steps.append(_creation(found, "POST", path, {}))
            continue
        lines = list(differences(_body(kind, record), found.document))
        if not lines:
            made.unchanged += 1
            continue
        tag = {"if_match": f'"{record["revision"]}"'}
        made.steps.append(Step("change", kind, found.id, lines, "PUT", _path(kind, record), found.document, tag))
    return [
        Step("remove", kind, name, (), "DELETE", _path(kind, record), {}, {"if_match": f'"{record["revision"]}"'})
        for name, record in present.items()
    ]


def _plan_agent(remote: Remote, found: Object, made: Plan, *, prune: bool) -> bool:
    """Plans the changes to an agent; returns whether the registry has it and it is not retired."""
    path = f"{DECLARATIONS}/{quote(found.id, safe='')}"
    reply = remote.find(path)
    if reply is None:
        made.steps.append(_creation(found, "PUT", path, {"if_none_match": "*"}))
        return False
    if reply.document["status"] == "retired":
        made.problems.append(f"agent `{found.id}` is retired, and ids are never reused")
        return False
    _plan_change_of_agent(found, reply, path, made, prune=prune)
    return True


def _plan_change_of_agent(found: Object, reply: Reply, path: str, made: Plan, *, prune: bool) -> None:
    present = _read(AGENT, reply.document)
    wanted = found.document | {"status": _status(found, present["status"], made)}
    if not prune:
        wanted["policies"] = [*wanted["policies"], *_kept_policies(found, present, made)]
    lines = list(differences(present, wanted))
    if lines:
        tag = {"if_match": reply.tag}
        made.steps.append(Step("change", AGENT, found.id, lines, "PUT", path, wanted, tag))
    else:
        made.unchanged += 1


def _status(found: Object, present: str, made: Plan) -> str:
    wanted = found.document["status"] or present
    if wanted == "draft" and present != "draft":
        made.problems.append(f"agent `{found.id}` is {present} and cannot become a draft again")
    if wanted == "active" and present == "suspended":
        made.notes.append(
            f"agent `{found.id}` is suspended and stays suspended: its file says active, but only `activate`, or"
            " `release` of an emergency stop, ends a suspension"
        )
        return present
    return str(wanted)


def _kept_policies(found: Object, present: Document, made: Plan) -> list[Document]:
    names = {body["policy_name"] for body in found.document["policies"]}
    kept = [body for body in present["policies"] if body["policy_name"] not in names]
    for body in kept:
        made.notes.append(
            f"policy `{body['policy_name']}` of agent `{found.id}` is not in the folder and stays; --prune removes it"
        )
    return kept


def _retirements(remote: Remote, named: set[str]) -> Iterator[Step]:
    for record in remote.pages(AGENTS, "agents"):
        if record["status"] != "retired" and record["agent_id"] not in named:
            path = f"{AGENTS}/{quote(record['agent_id'], safe='')}"
            lines = ("retired permanently: its id is never reused",)
            tag = {"if_match": f'"{record["revision"]}"'}
            yield Step("retire", AGENT, record["agent_id"], lines, "DELETE", path, {}, tag)


def _note_kept(made: Plan, removals: Sequence[Sequence[Step]]) -> None:
    for steps in removals:
        for step in steps:
            made.notes.append(f"{step.kind.name} `{step.id}` is not in the folder and stays; --prune removes it")


def _note_other_agents(made: Plan, number: int) -> None:
    if number == 1:
        made.notes.append("1 agent is not in the folder and stays; --prune retires it permanently")
    elif number > 1:
        made.notes.append(f"{number} agents are not in the folder and stay; --prune retires them permanently")


def _creation(found: Object, method: str, path: str, headers: dict[str, str]) -> Step:
    lines = list(differences({}, {name: value for name, value in file_document(found).items() if name != "kind"}))
    return Step("create", found.kind, found.id, lines, method, path, found.document, headers)


def _path(kind: ObjectKind, record: Document) -> str:
    identity = record["policy_id"] if kind is ORGANISATION_POLICY else record[kind.id_field]
    return f"{LISTS[kind.name][0]}/{quote(identity, safe='')}"


def _body(kind: ObjectKind, record: Document) -> Document:
    return _read(kind, {name: value for name, value in record.items() if name in kind.fields})


def _read(kind: ObjectKind, document: Any) -> Document:
    try:
        return kind.read(document)
    except InvalidRecordError as error:
        raise ApplyError(f"the registry holds a {kind.name} that this version cannot read: {error}") from None


def read_objects(remote: Remote) -> Iterator[Object]:
    """Reads every object of the registry, except retired agents."""
    for kind in (MCP_SERVER, ORGANISATION_POLICY):
        for record in remote.pages(*LISTS[kind.name]):
            yield Object(kind, record[kind.id_field], _body(kind, record))
    for record in remote.pages(DECLARATIONS, "declarations"):
        yield Object(AGENT, record["agent_id"], _read(AGENT, record))

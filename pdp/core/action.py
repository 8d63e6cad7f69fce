"""The action that an agent wants to take, and the one table of its fields.

A field is one line of `Action`: its Python type, its kind, its description and its default. The protobuf and JSON
endpoints, the decision log, the metrics and `pdp evaluate` take the fields from here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

from pdp.core.errors import Problems
from pdp.core.fields import Field, Kind, Schema
from pdp.core.json.canonical_json import double, doubles
from pdp.core.kinds import Choice, Flag, Json, ListOf, Number, OrNull, Text, Whole
from pdp.core.model import Result

MAX_ACTION_BYTES = 64 * 1024
MAX_ATTRIBUTE_DEPTH = 16
MAX_DOLLARS = 1_000_000_000
MAX_KEY_CHARACTERS = 256
MAX_ID_CHARACTERS = 64
MAX_ERROR_CHARACTERS = 4096

AGENT_ID = Text(
    64,
    3,
    r"[a-zA-Z0-9][a-zA-Z0-9\-_]{2,63}",
    "3 to 64 letters, digits, - and _ that start with a letter or digit",
)
AGENT_GLOB = re.compile(r"[a-zA-Z0-9_*?\[\]!-]{1,64}")
"""An agent id, or a shell glob of agent ids."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A kind whose values an `Action` holds in another form: `convert` makes that form, `restore` reverses it.

    Without `restore` that form is JSON too.
    """

    kind: Kind
    convert: Callable[[Any], Any]
    restore: Callable[[Any], Any] | None = None

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        before = len(problems)
        read = self.kind.read(value, path, problems)
        return read if len(problems) > before else self.convert(read)

    def schema(self) -> Schema:
        return self.kind.schema()


def _micros(dollars: float) -> int:
    return round(dollars * 1_000_000)


def _dollars(micros: int) -> float:
    return double(micros / 1_000_000)


NAME = Text(256)
AMOUNT = Converted(Number(0), double, double)
COST = Converted(Number(0, MAX_DOLLARS), _micros, _dollars)
LABELS = ListOf(Text(MAX_ACTION_BYTES), 64, distinct=False)
ATTRIBUTES = Converted(Json(MAX_ACTION_BYTES, MAX_ATTRIBUTE_DEPTH, only_object=True), doubles)


@dataclass(slots=True)
class Action:
    """What an agent wants to do. An empty text means: not given. Costs are in whole micro-dollars.

    A text after a `Field` is the name of the field in the interfaces, if it differs from the attribute name.
    `attributes` is read only if a policy needs it, so a shell may pass a mapping that decodes itself on first use.
    """

    agent_id: Annotated[str, Field(AGENT_ID, about="Id of the agent")]
    action_type: Annotated[str, Field(Text(256, 1), about="Type of the action, such as transaction.process")]
    resource: Annotated[str, Field(Text(2048), about="Resource that the action uses")] = ""
    resource_id: Annotated[str, Field(Text(1024), about="Id of the resource")] = ""
    risk_score: Annotated[int | None, Field(OrNull(Whole(0, 100)), about="The runtime's risk score")] = None
    amount: Annotated[float | None, Field(OrNull(AMOUNT), about="Amount of the transaction")] = None
    estimated_cost_micros: Annotated[
        int | None, Field(OrNull(COST), about="Estimated cost in US dollars"), "estimated_cost_usd"
    ] = None
    data_classifications: Annotated[tuple[str, ...], Field(LABELS, about="Classification of the data; repeatable")] = ()
    mcp_server: Annotated[str, Field(NAME, about="Name of the MCP server")] = ""
    tool: Annotated[str, Field(NAME, about="Name of the tool")] = ""
    environment: Annotated[str, Field(NAME, about="Environment of the agent, such as production")] = ""
    attributes: Annotated[Mapping[str, Any], Field(ATTRIBUTES, about="Further values for policies, a JSON object")] = (
        field(default_factory=dict)
    )
    mfa_verified: Annotated[bool, Field(Flag(), about="The user has passed MFA")] = False


def _table() -> tuple[dict[str, Field], dict[str, str]]:
    table, attributes = {}, {}
    for one in fields(Action):
        entry, *names = one.type.__metadata__  # type: ignore[union-attr]
        name = names[0] if names else one.name
        default = one.default if one.default_factory is MISSING else one.default_factory()
        required = default is MISSING
        table[name] = replace(entry, default=None if required else default, required=required)
        attributes[name] = one.name
    return table, attributes


FIELDS, ATTRIBUTE_OF = _table()
"""The fields of an action and the attributes of `Action` that hold them, both by field name in the interfaces."""

REQUEST: dict[str, Field] = {
    "action": Field(Json(MAX_ACTION_BYTES, MAX_ATTRIBUTE_DEPTH + 2, only_object=True), {}, required=True),
    "idempotency_key": Field(Text(MAX_KEY_CHARACTERS), ""),
    "approval_id": Field(Text(MAX_ID_CHARACTERS), ""),
    "dry_run": Field(Flag(), False),
}
"""The fields of a request."""


REPORT: dict[str, Field] = {
    "decision_id": Field(Text(MAX_ID_CHARACTERS, 1), required=True, about="The decision that allowed the action"),
    "result": Field(Choice(Result), required=True, about="How the action ended"),
    "actual_cost_usd": Field(OrNull(COST), None, about="What it cost in US dollars; null: its estimate"),
    "error": Field(Text(MAX_ERROR_CHARACTERS), "", about="Why it failed"),
    "agent_id": Field(Text(MAX_ID_CHARACTERS), "", about="The agent whose action it was; empty: not checked"),
}
"""The fields of a report of how an action ended."""


class OutcomeReport(NamedTuple):
    """How an action ended; the fields are those of `REPORT`. `agent_id` is empty if the caller names no agent."""

    decision_id: str
    result: Result
    actual_cost_micros: int | None = None
    error: str = ""
    agent_id: str = ""


def kind_of(name: str) -> Kind:
    """The kind of a field without its `OrNull`."""
    kind = FIELDS[name].kind
    return kind.kind if isinstance(kind, OrNull) else kind


_values = attrgetter(*ATTRIBUTE_OF.values())
RESTORE = {name: kind.restore for name in FIELDS if isinstance(kind := kind_of(name), Converted) and kind.restore}
"""By field name: what makes a value of JSON of the value of an `Action`, where they differ."""
_texts = attrgetter(*(ATTRIBUTE_OF[name] for name in FIELDS if isinstance(kind_of(name), Text)))
_LISTS = [ATTRIBUTE_OF[name] for name in FIELDS if isinstance(kind_of(name), ListOf)]


def action_json(action: Action) -> dict[str, Any]:
    """An action as a JSON object with the field names of the interfaces: every field; null or empty if not given."""
    document = dict(zip(FIELDS, _values(action), strict=True))
    for name, restore in RESTORE.items():
        if document[name] is not None:
            document[name] = restore(document[name])
    return document


def texts_of(action: Action) -> tuple[str, ...]:
    """All texts of an action except those in its attributes."""
    texts: tuple[str, ...] = _texts(action)
    for name in _LISTS:
        texts += getattr(action, name)
    return texts

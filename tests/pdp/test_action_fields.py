"""The fields of an action stand in one table, and everything that knows them takes them from there."""

import dataclasses
import hashlib

import click
import pytest
from hypothesis import given

from ascend import ActionFields, AgentAction
from pdp import cli, metrics, wire
from pdp.core.action import ATTRIBUTE_OF, FIELDS, REQUEST, Action, action_json
from pdp.core.json.canonical_json import dumps
from pdp.v1 import decision_pb2 as pb
from tests.core.worlds import actions

PROTO = [field.name for field in pb.Action.DESCRIPTOR.fields]


def test_the_table_has_the_fields_of_the_message() -> None:
    """In the same order, and a request has its fields too."""
    assert list(FIELDS) == PROTO
    assert list(REQUEST) == [field.name for field in pb.EvaluateRequest.DESCRIPTOR.fields]
    assert list(ATTRIBUTE_OF.values()) == list(Action.__slots__)


def test_a_record_has_every_field() -> None:
    """So have the metrics of malformed requests."""
    assert list(action_json(Action("agent-a", "api.read"))) == PROTO
    assert set(PROTO) < metrics.REQUEST_FIELDS


@given(actions)
def test_the_digest_is_that_of_the_documents_canonical_form(action: Action) -> None:
    """So an approval is of the same action in the sidecar and in the store."""
    document = dumps(action_json(action))
    assert wire.canonical_text(action).encode() == document
    assert wire.digest(action) == hashlib.sha256(document).digest()


@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_a_command_has_an_option_for_every_field(command: str) -> None:
    """With its description."""
    options = {one.name: one for one in cli.cli.commands[command].params if isinstance(one, click.Option)}
    assert options.keys() >= set(PROTO)
    for name, field in FIELDS.items():
        assert (options[name].help or "").startswith(field.about)


def test_the_client_takes_every_field_but_its_own_id() -> None:
    """As an attribute of an `AgentAction`, and as an argument of `evaluate_action`, with its type."""
    names = [name for name in PROTO if name != "agent_id"]
    assert [field.name for field in dataclasses.fields(AgentAction)] == names
    assert ["action_type", "resource", *ActionFields.__annotations__] == names

"""The differences between two JSON documents, as lines for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pdp.core.fields import join
from pdp.core.json.equality import same_json
from pdp.core.records import POLICY_BODY
from registry_store.documents import Document, without_defaults

MAX_SHOWN = 160
"""Maximum number of characters of one value in a line."""


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """A line for each value that was added (+), removed (-) or changed (~), with its path."""
    if same_json(before, after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _of_members(before, after, path)
    elif _is_policies(before) and _is_policies(after):
        yield from _of_policies(_by_name(before), _by_name(after), path)
    elif _is_set(before) and _is_set(after) and set(before) != set(after):
        yield from (f"- {path}: {shown(item)}" for item in before if item not in after)
        yield from (f"+ {path}: {shown(item)}" for item in after if item not in before)
    else:
        yield f"~ {path}: {shown(before)} → {shown(after)}"


def shown(value: Any) -> str:
    """A value on one line, truncated to `MAX_SHOWN` characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _of_members(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in {**before, **after}:
        if name not in after:
            yield f"- {join(path, name)}: {shown(before[name])}"
        elif name not in before:
            yield f"+ {join(path, name)}: {shown(after[name])}"
        else:
            yield from differences(before[name], after[name], join(path, name))


def _of_policies(before: Mapping[str, Document], after: Mapping[str, Document], path: str) -> Iterator[str]:
    """Compares policies by name, in any order."""
    for name in {**before, **after}:
        inner = f"{path}[{json.dumps(name, ensure_ascii=False)}]"
        if name not in after:
            yield f"- {inner}: {shown(without_defaults(before[name], POLICY_BODY))}"
        elif name not in before:
            yield f"+ {inner}: {shown(without_defaults(after[name], POLICY_BODY))}"
        else:
            yield from differences(before[name], after[name], inner)


def _is_policies(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(item, Mapping) and item.keys() >= POLICY_BODY.keys() for item in value
    )


def _by_name(policies: Sequence[Document]) -> dict[str, Document]:
    return {policy["policy_name"]: policy for policy in policies}


def _is_set(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)

"""The files of `deploy/k8s/monitoring`, read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/k8s/monitoring"
VARIABLES = {"$namespace": ".*", "$__rate_interval": "5m"}


def rule_file() -> dict[str, Any]:
    """The rules as Prometheus itself reads them."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus-rule.yaml").read_text())["spec"]
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule."""
    return [rule for group in rule_file()["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Every alert rule."""
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    """The names of the recorded series."""
    return {rule["record"] for rule in rules() if "record" in rule}


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that show something."""
    return [panel for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[str]:
    """The expression of each target of a panel, with values in place of the dashboard's variables."""
    found = []
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            found.append(text)
    return found


def expressions() -> list[str]:
    """Every expression of a rule or a panel."""
    return [*(rule["expr"] for rule in rules()), *panel_expressions()]


def nodes(node: Any) -> Iterator[Any]:
    """A parsed expression and all of its parts."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (part := getattr(node, name, None)) is not None:
            yield from nodes(part)
    for part in getattr(node, "args", ()):
        yield from nodes(part)


def selectors(node: Any) -> list[promql.VectorSelector]:
    """The selectors of series in a parsed expression."""
    return [part for part in nodes(node) if isinstance(part, promql.VectorSelector)]

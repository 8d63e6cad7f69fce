"""What the HTTP port says of itself: at `/`, at `/openapi.json`, and for people at `/docs`; made when first asked."""

import json
from collections.abc import Iterator
from functools import cached_property
from html import escape
from typing import Any

from pdp.serving.pages import html_page, index
from pdp.serving.version import VERSION

LINKS = {
    "/docs": "the interface, for people",
    "/openapi.json": "the same, for programs",
    "/healthz": "whether the process answers",
    "/readyz": "whether it should get requests",
    "/metrics": "metrics for Prometheus",
}
ABOUT = "The policy decision point beside an agent. Ask it with POST /v1/evaluate before each action."


class Pages:
    """The bytes of the pages; most sidecars never show them, so what makes them is not even imported before."""

    def __init__(self) -> None:
        self.about = index("pdp", VERSION, ABOUT, LINKS)

    @cached_property
    def document(self) -> bytes:
        """The description in OpenAPI."""
        return json.dumps(_described()).encode()

    @cached_property
    def docs(self) -> bytes:
        """The same for people."""
        return html_page("pdp: HTTP interface", "".join(_parts(_described())))


def _described() -> dict[str, Any]:
    from pdp.endpoints import openapi

    return openapi.document()


def _parts(document: dict[str, Any]) -> Iterator[str]:
    yield f'<p>{escape(document["info"]["description"])}. For programs: <a href="/openapi.json">/openapi.json</a>.</p>'
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['description'])}</p>"
            yield from _example(path, operation)
            yield _table(
                ("Status", "Means"),
                [(status, answer["description"]) for status, answer in sorted(operation["responses"].items())],
            )
    for name, schema in document["components"]["schemas"].items():
        yield f"<h2>{escape(name)}</h2>"
        yield _table(("Member", "Type", "Means"), list(_members(schema, "")))


def _example(path: str, operation: dict[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    if "example" in (as_json := content.get("application/json", {})):
        head = " -H 'content-type: application/json'" if len(content) > 1 else ""
        body = json.dumps(as_json["example"])
        yield f"<pre>curl http://127.0.0.1:8181{escape(path)}{escape(head)} -d '{escape(body)}'</pre>"


def _members(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """Each member by its path, whatever its depth: a name, a type, what it means."""
    for name, member in schema.get("properties", {}).items():
        about = member.get("description", "")
        needed = " (required)" if path == "" and name in schema.get("required", ()) else ""
        yield f"{path}{name}", f"{_type(member)}{needed}", about
        for part, mark in ((member, "."), *((part, ".") for part in member.get("anyOf", ()))):
            yield from _members(part, f"{path}{name}{mark}")
        yield from _members(member.get("items", {}), f"{path}{name}[].")


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(map(_type, schema["anyOf"]))
    if schema.get("type") == "array" and "$ref" in schema["items"]:
        return f"array of {_type(schema['items'])}"
    kinds = schema.get("type", "any")
    bounds = "".join(f", {name} {schema[key]}" for key, name in _BOUNDS.items() if key in schema)
    return (kinds if isinstance(kinds, str) else " | ".join(kinds)) + bounds


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


_BOUNDS = {"minimum": "at least", "maximum": "at most", "minLength": "at least", "maxLength": "at most"}

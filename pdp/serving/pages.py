"""Small static pages, built once, without content from other hosts."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from html import escape

from starlette.responses import Response

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font-size:.9em}pre{overflow:auto;padding:.5rem;border:1px solid #8888}"
    "table{border-collapse:collapse}"
    "td,th{text-align:left;vertical-align:top;padding:.2rem .6rem;border:1px solid #8888}"
)


def security_headers(style: str, form_action: str = "'none'") -> dict[str, str]:
    """The headers of a page with this inline style: no scripts, no requests, no other style, in no frame."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return {
        "content-security-policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none';"
        f" form-action {form_action}; frame-ancestors 'none'",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


HEADERS = security_headers(STYLE)


def html_page(title: str, body: str) -> bytes:
    """Builds an HTML page; `title` is text, `body` is HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    ).encode()


def html_answer(page: bytes) -> Response:
    """The response with a page; its content security policy allows no scripts and no requests."""
    return Response(page, headers=HEADERS, media_type="text/html")


def index(name: str, version: str, about: str, links: Mapping[str, str]) -> Callable[[str], Response]:
    """Builds the index of a port, served at `/`: HTML or JSON, depending on the `Accept` header."""
    items = "".join(
        f'<li><a href="{escape(path)}"><code>{escape(path)}</code></a> {escape(what)}</li>'
        for path, what in links.items()
    )
    page = html_page(name, f"<p>{escape(about)} Version {escape(version)}.</p><ul>{items}</ul>")
    content = json.dumps({"name": name, "version": version, "about": about, "links": dict(links)}).encode()

    def answer(accept: str) -> Response:
        if prefers_html(accept):
            return Response(page, headers=HEADERS | {"vary": "accept"}, media_type="text/html")
        return Response(content, headers={"vary": "accept"}, media_type="application/json")

    return answer


def prefers_html(accept: str) -> bool:
    """Whether an `Accept` header names HTML with at least the weight of JSON."""
    weights: dict[str, float] = {}
    for part in accept.split(",")[:20]:
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        weights[kind] = _weight(parameters)
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= weights.get("application/json", 0.0)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0

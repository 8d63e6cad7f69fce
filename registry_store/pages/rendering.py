"""Pages from templates: each text of a caller is escaped, and characters that cannot be seen are shown."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from fastapi.responses import RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pdp.serving.pages import security_headers
from pdp.serving.printable import printable

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "style.css").read_text()
HEADERS = security_headers(STYLE, form_action="'self'") | {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
MAX_CHARACTERS = 131_072
"""Of one value on a page; the page says how many more there are."""
MAX_LISTED = 100
UNITS = ((timedelta(days=2), 86_400, "days"), (timedelta(hours=2), 3600, "h"), (timedelta(minutes=2), 60, "min"))


def page(template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> Response:
    """The response with a page."""
    body = _TEMPLATES.get_template(template).render(values)
    return Response(body, status, {**HEADERS, **(headers or {})}, media_type="text/html")


def redirect(path: str) -> Response:
    """The response to a form that was accepted: the browser reads `path`, a path of this store."""
    return RedirectResponse(path, 303, HEADERS)


def line(text: str) -> Markup:
    """A text in one line, isolated, so that its direction does not reach the text around it."""
    return Markup("<bdi>{}</bdi>").format(_bounded(text, _visible))


def lines(text: str) -> Markup:
    """A text with its line breaks."""
    return Markup('<bdi class="lines">{}</bdi>').format(_bounded(text, _visible_lines))


def value(shown: Any) -> Markup:
    """Any JSON value: texts and numbers for people, the rest as JSON."""
    if isinstance(shown, str):
        return line(shown)
    if isinstance(shown, bool):
        return escape("yes" if shown else "no")
    if isinstance(shown, int | float):
        return escape(f"{shown:,}")
    if isinstance(shown, list) and len(shown) <= MAX_LISTED and all(isinstance(item, str) for item in shown):
        return Markup(", ").join(map(line, shown))
    return document(shown)


def document(shown: Any) -> Markup:
    """A JSON value as indented JSON."""
    text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    if len(text) <= MAX_CHARACTERS:
        text = json.dumps(shown, ensure_ascii=False, indent=2)
    return Markup('<pre tabindex="0">{}</pre>').format(_bounded(text, _visible_lines))


def moment(at: datetime | str) -> Markup:
    """A time, or one as a document of the store has it, in UTC to the second."""
    utc = (datetime.fromisoformat(at) if isinstance(at, str) else at).astimezone(UTC)
    return Markup('<time datetime="{:%Y-%m-%dT%H:%M:%SZ}">{:%Y-%m-%d %H:%M:%S} UTC</time>').format(utc, utc)


def span(length: timedelta) -> str:
    """A length of time, rounded down: `42 min`."""
    for least, seconds, unit in UNITS:
        if length >= least:
            return f"{int(length.total_seconds()) // seconds} {unit}"
    return f"{max(0, int(length.total_seconds()))} s"


def _bounded(text: str, shown: Callable[[str], Markup]) -> Markup:
    if len(text) <= MAX_CHARACTERS:
        return shown(text)
    more = Markup("<mark>… and {:,} more characters, which this page does not show</mark>")
    return shown(text[:MAX_CHARACTERS]) + more.format(len(text) - MAX_CHARACTERS)


def _visible(text: str) -> Markup:
    if text.isprintable():
        return escape(text)
    parts = ((seen, "".join(run)) for seen, run in groupby(text, str.isprintable))
    return Markup("").join(part if seen else Markup("<mark>{}</mark>").format(printable(part)) for seen, part in parts)


def _visible_lines(text: str) -> Markup:
    return Markup("\n").join(map(_visible, text.split("\n")))


_TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_TEMPLATES.globals["style"] = Markup(STYLE)  # noqa: S704  # a file of this package
_TEMPLATES.filters.update(line=line, lines=lines, value=value, document=document, moment=moment, span=span)

"""Who may call the HTTP port from a browser: no web page but its own, by no name that leads here unasked.

Whatever runs on a machine can open a page that posts to its loopback addresses, and a name whose address changes
(DNS rebinding) makes such a page one of the port's own. Browsers tell of both, by headers that no page can set.
"""

import re
from collections.abc import Collection
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pdp.core.fields import quote
from pdp.serving.requests import PROBES, problem

OWN_SITES = ("none", "same-origin")
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::[0-9]*)?")


class OwnOrigins:
    """Refuses with 403 what a browser sends for a page of another origin, or to a host that is not among `hosts`."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(("localhost", *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        app = self._app if refusal is None else problem(403, refusal)
        await app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> str | None:
        host = headers.get("host")
        if host is not None and not self._is_ours(host):
            return f"the host {quote(host)} is not an IP address, `localhost` or one of `--http-hosts`"
        if path in PROBES:
            return None
        site = headers.get("sec-fetch-site", "none")
        if site not in OWN_SITES:
            return f"a web page of another origin asks (`Sec-Fetch-Site: {site[:20]}`)"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return f"a web page of the origin {quote(origin)} asks"
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        return name.removesuffix(".") in self._hosts or _is_ip_address(name)


def _is_ip_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

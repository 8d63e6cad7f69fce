"""Browser access to the HTTP port: only from its own pages, and only under a known host name.

Any web page can post to the loopback addresses of the machine, and DNS rebinding gives such a page the same origin as
the port. Browsers reveal both in headers that no page can set.
"""

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pdp.core.fields import quote
from pdp.serving.http1.plain import Answer, Find
from pdp.serving.requests import PROBES, problem

OWN_SITES = ("none", "same-origin")
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::[0-9]*)?")


class OwnOrigins:
    """Refuses with 403 the requests of web pages of other origins, and requests to a host that is not in `hosts`."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], direct: Find) -> None:
        self._app = app
        self._direct = direct
        self._hosts = frozenset(("localhost", *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        app = self._app if refusal is None else problem(403, refusal)
        await app(scope, receive, send)

    def direct(self, path: bytes, headers: Mapping[bytes, bytes]) -> Answer | None:
        """What answers a plain request that is not refused."""
        refusal = self._refusal(path.decode(), {name.decode(): value.decode() for name, value in headers.items()})
        return self._direct(path, headers) if refusal is None else None

    def _refusal(self, path: str, headers: Mapping[str, str]) -> str | None:
        host = headers.get("host")
        if host is not None and not self._is_ours(host):
            return f"the host {quote(host)} is not an IP address, `localhost` or one of `--http-hosts`"
        if path in PROBES:
            return None
        site = headers.get("sec-fetch-site", "none")
        if site not in OWN_SITES:
            return f"the request is from a web page of another origin (`Sec-Fetch-Site: {site[:20]}`)"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return f"the request is from a web page of the origin {quote(origin)}"
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

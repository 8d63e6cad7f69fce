"""A browser without a screen: it keeps cookies, follows no redirect by itself, and sends the forms of pages."""

import re
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import urlencode

import urllib3

from tests.registry_store.serving import WAIT_SECONDS, Rest, Served

FORM = "application/x-www-form-urlencoded"
INLINE = re.compile(r"</?(bdi|mark|span|time|code)\b[^>]*>")
TOKEN = re.compile(r'<form[^>]*action="([^"]+)">\s*<input type="hidden" name="csrf_token" value="([^"]+)">')


@dataclass(frozen=True)
class Page:
    """What a browser got."""

    status: int
    body: str
    headers: urllib3.HTTPHeaderDict

    @property
    def location(self) -> str:
        return self.headers.get("location", "")

    @property
    def text(self) -> str:
        """What a person reads of it."""
        body = INLINE.sub("", self.body.partition("<body>")[2])
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body))).strip()

    def token(self, action: str) -> str:
        """The token in the form that is sent to this path."""
        return dict(TOKEN.findall(self.body))[action]


@dataclass
class Browser:
    """The cookies of one person at one store."""

    address: str
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Page:
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        url = f"http://{self.address}{path}"
        got = self.pool.request(method, url, body=body, headers=sent, timeout=WAIT_SECONDS, redirect=False)
        for cookie in got.headers.getlist("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
        return Page(got.status, got.data.decode(), got.headers)

    def get(self, path: str, **headers: str) -> Page:
        return self.call("GET", path, **headers)

    def send(self, path: str, **fields: str) -> Page:
        """Send a form as it stands, with no token but one among `fields`."""
        return self.call("POST", path, urlencode(fields).encode(), content_type=FORM)

    def sign_in(self, key: str, path: str = "/approvals") -> Page:
        """Send the form to sign in that stands on the page at `path`."""
        page = self.get(path)
        shown = re.search(r'name="next" value="([^"]+)"', page.body)
        assert page.status == 200 and shown, page.text
        return self.send("/sign-in", csrf_token=page.token("/sign-in"), key=key, next=shown[1])

    def decide(self, approval_id: str, verdict: str, comment: str = "") -> Page:
        """Send the form of an approval's page."""
        path = f"/approvals/{approval_id}"
        return self.send(path, csrf_token=self.token(), verdict=verdict, comment=comment)

    def token(self) -> str:
        """The token of this session."""
        return self.get("/approvals").token("/sign-out")


def browser(store: Served, role: str = "approver", name: str = "ann", *groups: str, **fields: object) -> Browser:
    """A person who is signed in with a new key."""
    admin = store.rest()
    body = {"role": role, "name": name, "groups": groups, **fields}
    return signed_in(store, admin.post("/api/keys", body).body["key"])


def signed_in(store: Served, key: str) -> Browser:
    """A person who is signed in with this key."""
    person = Browser(store.running.http_address)
    assert person.sign_in(key).status == 303
    return person


def stranger(store: Served | Rest) -> Browser:
    """A browser in which nobody is signed in."""
    return Browser(store.running.http_address if isinstance(store, Served) else store.address)

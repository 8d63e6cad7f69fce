"""Client of a registry store's REST interface, for the command line."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import urllib3

from registry_store.documents import Document
from registry_store.errors import RegistryError

PAGE = 500
TIMEOUT_SECONDS = 30


class _SafeRetry(urllib3.Retry):
    """Never repeats a request that the store may have executed: it fails, and the next plan shows the result."""

    RETRY_AFTER_STATUS_CODES = frozenset({429})  # a 503 may follow a change that was made


RETRIES = _SafeRetry(
    total=4,
    connect=2,
    read=0,
    redirect=0,
    other=0,
    backoff_factor=0.3,
    status_forcelist=(429,),
    allowed_methods=None,
    raise_on_status=False,
    retry_after_max=10,
)


class RegistryRequestError(RegistryError):
    """The store rejected a request, or sent no usable answer (status 0)."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class Reply(NamedTuple):
    """An answer: the record and its entity tag."""

    document: Any
    tag: str


class Remote:
    """The store at `url`, called with one key; `ca` is a file of authorities, by default the system's."""

    def __init__(self, url: str, key: str, ca: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._pool = urllib3.PoolManager(
            headers={
                "authorization": f"Bearer {key}",
                "content-type": "application/json",
                "user-agent": f"registry-store/{version('agent-pdp')}",
            },
            timeout=TIMEOUT_SECONDS,
            retries=RETRIES,
            ca_certs=None if ca is None else str(ca),
        )

    def call(self, method: str, path: str, body: Document | None = None, **headers: str) -> Reply:
        """Sends a request; header names have `_` for `-`. `RegistryRequestError` unless it succeeds."""
        sent = dict(self._pool.headers) | {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        try:
            got = self._pool.request(method, self._url + path, body=data, headers=sent)
        except urllib3.exceptions.HTTPError as error:
            raise RegistryRequestError(f"`{self._url}` does not answer: {_reason(error)}") from None
        document = _read(got.data)
        if got.status >= 300 or (document is None and got.data):
            raise RegistryRequestError(_error_text(got.status, document), got.status)
        return Reply(document, got.headers.get("etag", ""))

    def find(self, path: str) -> Reply | None:
        """Reads the record at this path; None if there is none."""
        try:
            return self.call("GET", path)
        except RegistryRequestError as error:
            if error.status == 404:
                return None
            raise

    def pages(self, path: str, noun: str) -> Iterator[Document]:
        """Reads every record of a list, page by page."""
        offset = 0
        while True:
            page = self.call("GET", f"{path}?limit={PAGE}&offset={offset}").document
            yield from page[noun]
            offset += len(page[noun])
            if offset >= page["total"] or not page[noun]:
                return

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _error_text(status: int, answer: Any) -> str:
    if not isinstance(answer, dict):
        return f"the answer with status {status} is not from a registry store"
    problems = [f"{problem.get('path')}: {problem.get('message')}" for problem in answer.get("errors", [])]
    return "; ".join(problems) or str(answer.get("detail") or answer.get("title") or f"status {status}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)

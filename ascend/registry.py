"""The registry over HTTP, as far as an agent's own key reaches."""

import json
from typing import Any
from urllib.parse import quote

import urllib3

# A POST too: to register twice is no error.
RETRIES = urllib3.Retry(
    total=3,
    redirect=0,
    allowed_methods=None,
    backoff_factor=0.2,
    backoff_jitter=0.2,
    status_forcelist=(429, 502, 503, 504),
    raise_on_status=False,
    retry_after_max=5,
)


class RegistryError(Exception):
    """The registry refused a request or cannot be reached; `status` is its HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class Registry:
    """The REST API at `url`, called with `api_key`."""

    def __init__(self, url: str, api_key: str, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._pool = urllib3.PoolManager(
            headers={"authorization": f"Bearer {api_key}", "content-type": "application/json"},
            timeout=timeout,
            retries=RETRIES,
        )

    def register(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """The agent's record as registered now, or as it is when it was registered before."""
        try:
            return self._call("POST", "/api/agents/registry", configuration)
        except RegistryError as error:
            if error.status != 409:
                raise
            return self.read(configuration["agent_id"])

    def read(self, agent_id: str) -> dict[str, Any]:
        """The agent's record."""
        return self._call("GET", f"/api/agents/registry/{quote(agent_id, safe='')}")

    def close(self) -> None:
        """Closes its connections."""
        self._pool.clear()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        try:
            response = self._pool.request(method, self._url + path, body=data)
        except urllib3.exceptions.HTTPError as error:
            raise RegistryError(f"cannot reach the registry at `{self._url}`: {error}") from error
        answer = _read(response.data)
        if response.status >= 400:
            raise RegistryError(_told(response.status, answer), response.status)
        return answer


def _read(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {}


def _told(status: int, answer: dict[str, Any]) -> str:
    problems = [f"{problem.get('path')}: {problem.get('message')}" for problem in answer.get("errors", [])]
    detail = "; ".join(problems) or answer.get("detail") or answer.get("title") or "no detail"
    return f"the registry answered {status}: {detail}"

"""A client's way to the registry: its own agent's registration, asked for or at the first action."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ascend.errors import RegistryError

if TYPE_CHECKING:
    from ascend.registry import Registry

REGISTER_AGAIN_SECONDS = 30.0

logger = logging.getLogger("ascend")


class Registration:
    """Registers one agent at the registry at `url`, if there is one; thread-safe."""

    def __init__(
        self, agent_id: str, agent_name: str, url: str | None, api_key: str, timeout: float, *, ca: str | None = None
    ) -> None:
        self._agent_id = agent_id
        self._agent_name = agent_name
        self._registry = None if url is None else _registry(url, api_key, timeout, ca)
        self._trying = threading.Lock()
        self._not_before = 0.0

    @property
    def registry(self) -> "Registry":
        """The registry; `ValueError` without a URL."""
        if self._registry is None:
            raise ValueError("`registry_url` is required for calls to the registry")
        return self._registry

    def register(
        self,
        agent_type: str = "supervised",
        capabilities: Sequence[str] = (),
        allowed_resources: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Register the agent and return its record; `RegistryError` if that fails."""
        return self.registry.register(
            agent_id=self._agent_id,
            display_name=self._agent_name,
            agent_type=agent_type,
            allowed_action_types=list(capabilities),
            allowed_resources=list(allowed_resources),
            metadata=dict(metadata or {}),
        )

    def possible(self, agent_id: str) -> bool:
        """Whether this agent can be registered from here."""
        return self._registry is not None and agent_id == self._agent_id

    def attempt(self) -> bool:
        """Register the agent; after a failure, not again for a while, since each try delays an action."""
        with self._trying:
            if time.monotonic() < self._not_before:
                return False
            try:
                self.register()
            except RegistryError as error:
                self._not_before = time.monotonic() + REGISTER_AGAIN_SECONDS
                logger.warning("agent `%s` is not registered: %s", self._agent_id, error)
                return False
            return True

    def close(self) -> None:
        """Close the connections to the registry."""
        if self._registry is not None:
            self._registry.close()


def _registry(url: str, api_key: str, timeout: float, ca: str | None) -> "Registry":
    from ascend.registry import Registry  # with urllib3, which a client without a registry does not need

    return Registry(url, api_key, timeout, ca=ca)

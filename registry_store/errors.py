"""The errors of the registry; the interfaces map them to HTTP statuses and gRPC codes."""

from math import ceil


class RegistryError(Exception):
    """A request cannot be executed; the message is for the caller."""


class NotFoundError(RegistryError):
    """There is no such record."""


class ConflictError(RegistryError):
    """The current state of the record does not allow the request."""


class StaleTagError(RegistryError):
    """The record was changed after the caller read it."""


class NotAuthenticatedError(RegistryError):
    """The key is missing, unknown, expired or revoked."""


class LapsedKeyError(NotAuthenticatedError):
    """The key was valid once, but is revoked or expired."""


class TooManyFailuresError(RegistryError):
    """Too many wrong keys from one address; `wait` is the number of seconds until the next try is allowed."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"too many wrong keys: wait {ceil(wait)} s")
        self.wait = wait


class NotAllowedError(RegistryError):
    """The key is valid, but its role does not allow the request."""


class StartError(Exception):
    """A setting is wrong, a port is taken or the database is out of reach."""

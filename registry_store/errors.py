"""What goes wrong in the registry, as values of meaning; the shells give them their HTTP statuses and gRPC codes."""

from math import ceil


class RegistryError(Exception):
    """A request that cannot be carried out; the message is for the one who sent it."""


class NotFoundError(RegistryError):
    """There is no such record."""


class ConflictError(RegistryError):
    """The record's present state forbids it."""


class StaleTagError(RegistryError):
    """The record has changed since the caller read it."""


class NotAuthenticatedError(RegistryError):
    """No key, or one that is unknown, expired or revoked."""


class LapsedKeyError(NotAuthenticatedError):
    """A key that was right once: revoked or expired."""


class TooManyFailuresError(RegistryError):
    """One more wrong key after too many from there; `wait` says for how many seconds not to try again."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"too many wrong keys: wait {ceil(wait)} s")
        self.wait = wait


class NotAllowedError(RegistryError):
    """A valid key whose role does not cover the request."""


class StartError(Exception):
    """A setting is wrong, a port is taken or the database is out of reach."""

"""Sessions of people: after they sign in with a key, their browser holds a signed value that names the key.

The value is no secret of the key: the key is read from the database at each request, so that a session ends with it.
"""

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from itsdangerous import BadData, Signer, URLSafeSerializer

from registry_store.access.keys import Pepper

LIFE = timedelta(hours=8)
"""How long a session lasts after signing in."""
MAX_CHARACTERS = 256
"""Of a value or a form token; the ones that are made here are shorter."""
MAX_ENDED = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """A person who signed in with the key of `key_id` at `began_at`."""

    session_id: str
    key_id: str
    began_at: datetime


class Sessions:
    """Begins, reads and ends sessions, and makes the form tokens that only pages of a session know.

    All stores that share a pepper accept the same values. A session that is ended is remembered by this store alone.
    """

    def __init__(self, pepper: Pepper) -> None:
        secret = pepper.hash("sessions of people")
        how = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        self._values = URLSafeSerializer(secret, salt="session", signer_kwargs=how)
        self._forms = Signer(secret, salt="form", key_derivation="hmac", digest_method=hashlib.sha256)
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self, key_id: str, now: datetime) -> str:
        """The value of a new session."""
        value = self._values.dumps([secrets.token_urlsafe(16), key_id, int(now.timestamp())])
        return value if isinstance(value, str) else value.decode()

    def read(self, value: str, now: datetime) -> Session | None:
        """The session of a value; None if it was not signed here, is too old or has ended."""
        if len(value) > MAX_CHARACTERS:
            return None
        try:
            session_id, key_id, began = self._values.loads(value)
        except BadData:
            return None
        session = Session(session_id, key_id, datetime.fromtimestamp(began, UTC))
        # `abs`, so that a clock that is set back does not make a session last longer.
        return session if abs(now - session.began_at) < LIFE and session_id not in self._ended else None

    def end(self, session: Session) -> None:
        """End a session before its time."""
        self._ended[session.session_id] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def csrf_token(self, value: str) -> str:
        """The token of the forms on pages that are sent to the browser with this cookie value."""
        return self._forms.get_signature(value).decode()

    def is_csrf_token(self, token: str, value: str) -> bool:
        """Whether it is the token of this cookie value."""
        return len(token) <= MAX_CHARACTERS and self._forms.verify_signature(value, token)

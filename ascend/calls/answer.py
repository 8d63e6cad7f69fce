"""One HTTP answer, read as it arrives, within bounds of size."""

import httptools

from ascend.calls.calls import UnreadableAnswerError

MAX_HEAD_BYTES = 16 * 1024
MAX_BYTES = 4 << 20
"""Of a message with its framing, as gRPC bounds an answer."""


class Answer:
    """One answer. After an `UnreadableAnswerError` it is not to be used, and neither is its connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._unread_bytes = 0
        self._begun = 0
        self.status = 0
        """Its HTTP status, once the head has arrived."""
        self.content_type = ""
        self.is_complete = False
        self.keeps_connection = False
        self.body = bytearray()
        """What has arrived of the body, and was not taken."""

    def feed(self, data: bytes) -> None:
        """Read what has arrived; `UnreadableAnswerError` if it is not HTTP or too large."""
        self._unread_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error.__context__, UnreadableAnswerError):  # of a callback
                raise error.__context__ from None
            raise UnreadableAnswerError(f"it is not HTTP: {error}") from None
        if self._begun > 1:
            raise UnreadableAnswerError("it is more than one answer")
        if not self.status and self._unread_bytes > MAX_HEAD_BYTES:
            raise UnreadableAnswerError(f"its head is larger than {MAX_HEAD_BYTES} bytes")
        if self._unread_bytes > MAX_BYTES:
            raise UnreadableAnswerError(f"it is larger than {MAX_BYTES} bytes")

    def take(self, size: int) -> bytes:
        """The first bytes of the body, which make room for more."""
        taken = bytes(self.body[:size])
        del self.body[:size]
        self._unread_bytes = len(self.body)
        return taken

    def on_message_begin(self) -> None:
        """Called by httptools, as the following are."""
        self._begun += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self.content_type = value.partition(b";")[0].strip().lower().decode("latin-1")
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnreadableAnswerError("it is compressed, which was not asked for")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            raise UnreadableAnswerError(f"it has the status {self.status}")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_complete = True
        self.keeps_connection = self._parser.should_keep_alive()

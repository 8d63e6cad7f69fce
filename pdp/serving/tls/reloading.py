"""The certificates of a running server: new files are taken without a restart and without a failed handshake."""

import asyncio
import logging
import ssl
from datetime import UTC, datetime

import grpc

from pdp.serving.tls.certificates import CertificateError, Files, ServerContents, ServerPair, load, read

POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


class ServerCertificates:
    """The newest complete pair of a server's files; `watch` looks for new ones. `CertificateError` if there is none.

    Files that do not fit together stay unused, and are logged once: the pair before them stays in force.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._pair = load(files, read(files), datetime.now(UTC))
        self._unusable: ServerContents | str | None = None
        """What the last look at the files found and could not use: their contents, or why they cannot be read."""
        self._is_logged = False
        self.context = self.listener()
        """The context of a listener that demands client certificates if the files have authorities for them."""

    @property
    def not_after(self) -> float:
        """When the certificate in force expires, in seconds since 1970."""
        return self._pair.not_after.timestamp()

    def listener(self, *, client_certs: bool = True) -> ssl.SSLContext:
        """A context for a listener: each handshake takes the newest pair, never half of one and half of another.

        Without `client_certs` it asks for no client certificate.
        """
        context = load(self._files, self._pair.contents, datetime.now(UTC)).context
        context.sni_callback = self._choose
        if not client_certs:
            context.verify_mode = ssl.CERT_NONE  # the pair that is chosen changes the authorities, but not this
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials for one port of a gRPC server, which asks for the newest pair at each handshake."""
        served = self._pair

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            if self._pair is served:
                return None
            served = self._pair
            return _configuration(served.contents)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(served.contents),
            newest,  # type: ignore[arg-type]  # None, which the stub leaves out, means that nothing has changed
            require_client_authentication=self._files.client_ca is not None,
        )

    async def watch(self) -> None:
        """Look for new files, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.reload)

    def reload(self) -> None:
        """Take what the files hold now, if it is new and complete."""
        try:
            found = read(self._files)
        except CertificateError as error:
            self._leave(str(error), error)
            return
        # Compared by content: Kubernetes replaces a link to the folder, and the times of the files may be old.
        if found == self._pair.contents:
            self._unusable = None
            return
        try:
            pair = load(self._files, found, datetime.now(UTC))
        except CertificateError as error:
            self._leave(found, error)
            return
        self._take(pair)

    def _take(self, pair: ServerPair) -> None:
        self._pair, self._unusable = pair, None
        logger.info("new certificate in `%s`, valid until %s", self._files.cert, f"{pair.not_after:%Y-%m-%dT%H:%M:%SZ}")

    def _leave(self, found: ServerContents | str, error: CertificateError) -> None:
        """Keep the pair in force, and log that once the same was found twice: nobody is just writing the files."""
        if found != self._unusable:
            self._unusable, self._is_logged = found, False
        elif not self._is_logged:
            self._is_logged = True
            logger.error("`--tls-%s`: %s; the certificate before it stays in force", error.file, error)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._pair.context


def _configuration(contents: ServerContents) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(contents.key, contents.cert)], contents.client_ca)

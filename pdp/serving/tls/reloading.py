"""The certificates of a running server: new files are taken without a restart and without a failed handshake."""

import logging
import ssl
from datetime import UTC, datetime

import grpc

from pdp.serving.tls.certificates import Files, ServerContents, ServerPair, load, read
from pdp.serving.tls.reloaded import Reloaded

logger = logging.getLogger(__name__)


class ServerCertificates(Reloaded[ServerContents, ServerPair]):
    """The newest complete pair of a server's files; `CertificateError` if there is none at first."""

    def __init__(self, files: Files) -> None:
        self._files = files
        super().__init__(
            lambda: read(files),
            lambda contents: load(files, contents, datetime.now(UTC)),
            prefix="--tls-",
            kept="the certificate before it",
            taken=self._log_taken,
        )
        self.context = self.listener()
        """The context of a listener that demands client certificates if the files have authorities for them."""

    @property
    def not_after(self) -> float:
        """When the certificate in force expires, in seconds since 1970."""
        return self.value.not_after.timestamp()

    def listener(self, *, client_certs: bool = True) -> ssl.SSLContext:
        """A context for a listener: each handshake takes the newest pair, never half of one and half of another.

        Without `client_certs` it asks for no client certificate.
        """
        context = load(self._files, self.value.contents, datetime.now(UTC)).context
        context.sni_callback = self._choose
        if not client_certs:
            context.verify_mode = ssl.CERT_NONE  # the pair that is chosen changes the authorities, but not this
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials for one port of a gRPC server, which asks for the newest pair at each handshake."""
        served = self.value

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            if self.value is served:
                return None
            served = self.value
            return _configuration(served.contents)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(served.contents),
            newest,  # type: ignore[arg-type]  # None, which the stub leaves out, means that nothing has changed
            require_client_authentication=self._files.client_ca is not None,
        )

    def _log_taken(self, pair: ServerPair) -> None:
        logger.info("new certificate in `%s`, valid until %s", self._files.cert, f"{pair.not_after:%Y-%m-%dT%H:%M:%SZ}")

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self.value.context


def _configuration(contents: ServerContents) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(contents.key, contents.cert)], contents.client_ca)

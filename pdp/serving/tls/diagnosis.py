"""Why a TLS connection fails, found by one more connection: gRPC often says only that the socket was closed."""

import socket
import ssl

from pdp.serving.addresses import Address
from pdp.serving.tls.certificates import CertificateError, ClientFiles, client_context

TIMEOUT_SECONDS = 2.0


def failure(address: Address, files: ClientFiles | None, prefix: str) -> str | None:
    """What is wrong with TLS between here and a gRPC server; None if nothing is, or if it cannot be reached.

    Without `files`, whether it demands TLS. `prefix` begins the names of the settings of the files. It blocks.
    """
    try:
        context = _context(files)
    except CertificateError as error:
        return f"`{prefix}{error.file}`: {error}"
    try:
        with socket.create_connection((address.host, address.port), TIMEOUT_SECONDS) as connection:
            return _handshake(connection, address.host, context, files, prefix)
    except OSError:
        return None


def _context(files: ClientFiles | None) -> ssl.SSLContext:
    if files is not None:
        context = client_context(files)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _handshake(
    connection: socket.socket, host: str, context: ssl.SSLContext, files: ClientFiles | None, prefix: str
) -> str | None:
    try:
        with context.wrap_socket(connection, server_hostname=host) as secured:
            if files is None:
                return f"it speaks TLS, which takes `{prefix}ca`"
            # With TLS 1.3 a client learns only now that its certificate is refused; gRPC just closes the connection.
            return None if secured.recv(1) else _refused(files, prefix)
    except ConnectionResetError:
        return _refused(files, prefix)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message.lower().removesuffix('.')}"
    except ssl.SSLError as error:
        return _alert(error.reason or "", files, prefix)


def _alert(reason: str, files: ClientFiles | None, prefix: str) -> str | None:
    if files is None:
        return None
    if reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING"):
        return f"it does not speak TLS, which `{prefix}ca` demands"
    return _refused(files, prefix, f" ({reason.lower().replace('_', ' ')})")


def _refused(files: ClientFiles | None, prefix: str, why: str = "") -> str | None:
    if files is None:
        return None
    if files.cert is None:
        return f"it demands a client certificate, which takes `{prefix}cert`{why}"
    return f"it refuses the certificate in `{prefix}cert`{why}"

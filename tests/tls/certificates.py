"""Certificates of authorities of the tests' own, in files as the programs want them."""

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

EXPIRED = datetime.now(UTC) - timedelta(hours=1)


class Pair(NamedTuple):
    """Where a certificate and its key are, and the authorities that the other side is checked against."""

    cert: Path
    key: Path
    ca: Path


def write_pair(
    folder: Path, authority: trustme.CA, *names: str, trusts: trustme.CA | None = None, expires: datetime | None = None
) -> Pair:
    """A new certificate for these names, `trusts` beside it; in place of one that the folder has, all at once.

    As Kubernetes does it: the files are links through a link to a folder, and that link is replaced.
    """
    folder.mkdir(exist_ok=True)
    version = folder / f"..{secrets.token_hex(4)}"
    version.mkdir()
    if names and names[0].startswith("spiffe://"):
        _write(version, *_workload(authority, names[0]))
    else:
        issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=expires)
        _write(version, b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes())
    (version / "ca.crt").write_bytes((trusts or authority).cert_pem.bytes())
    link = folder / "..new"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    return Pair(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def _write(folder: Path, cert: bytes, key: bytes) -> None:
    (folder / "tls.crt").write_bytes(cert)
    with os.fdopen(os.open(folder / "tls.key", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(key)


def _workload(authority: trustme.CA, spiffe_id: str) -> tuple[bytes, bytes]:
    """A certificate for an hour as SPIFFE makes them, with a URI as its only name, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    signer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        .sign(signer, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return built.public_bytes(serialization.Encoding.PEM), key.private_bytes(*form)

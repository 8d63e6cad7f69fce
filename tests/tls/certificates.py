"""Certificates of authorities of the tests' own, in files as the programs want them."""

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme

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
    _write(version, authority.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=expires))
    (version / "ca.crt").write_bytes((trusts or authority).cert_pem.bytes())
    link = folder / "..new"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    return Pair(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def _write(folder: Path, issued: trustme.LeafCert) -> None:
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    with os.fdopen(os.open(folder / "tls.key", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as key:
        key.write(issued.private_key_pem.bytes())

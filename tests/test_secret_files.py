"""A secret is read only from a file that is closed to other users; one that is written is so from the start."""

import os
from pathlib import Path

import pytest

from pdp.serving import secret_files
from pdp.serving.secret_files import SecretFileError, others_can_read

ROOT, ME, OTHER = 0, 1000, 1001


@pytest.mark.parametrize(
    ("mode", "owner", "read_only", "expected"),
    [
        (0o600, ME, False, False),
        (0o400, ME, False, False),
        (0o640, ME, False, True),
        (0o604, ME, False, True),
        (0o644, ME, True, True),
        (0o440, ROOT, False, False),
        (0o400, OTHER, False, False),
        (0o640, OTHER, False, False),
        (0o644, ROOT, False, True),
        (0o644, ROOT, True, False),
        (0o444, ROOT, True, False),
        (0o644, OTHER, True, True),
    ],
)
def test_who_else_can_read_a_file(mode: int, owner: int, read_only: bool, expected: bool) -> None:
    """A group is given on purpose where another user owns the file; root on a read-only mount decides for itself."""
    assert others_can_read(0o100000 | mode, owner, ME, read_only=read_only) is expected


def test_root_is_no_exception_to_its_own_files() -> None:
    """A program that runs as root in a container reads its mounted Secret, and no open file of its own."""
    assert not others_can_read(0o100440, ROOT, ROOT, read_only=True)
    assert others_can_read(0o100644, ROOT, ROOT, read_only=False)


def test_an_open_file_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    """The message names the file, its mode and the command that helps; through a symlink, the file itself counts."""
    path, link = tmp_path / "..data" / "key", tmp_path / "key"
    path.parent.mkdir()
    path.write_bytes(b" secret\n")
    path.chmod(0o644)
    link.symlink_to(path)
    with pytest.raises(SecretFileError) as refused:
        secret_files.read(link)
    assert str(refused.value) == f"other users can read `{link}` (mode 0644): run `chmod 600 {link}`"
    path.chmod(0o600)
    assert secret_files.read(link) == b"secret"


def test_a_file_that_is_missing_or_too_large_is_told(tmp_path: Path) -> None:
    """Each in words that follow the name of the setting."""
    with pytest.raises(SecretFileError, match=r"cannot read `.*/none`: No such file or directory"):
        secret_files.read(tmp_path / "none")
    large = tmp_path / "large"
    secret_files.write_new(large, b"x" * (secret_files.MAX_BYTES + 1))
    with pytest.raises(SecretFileError, match="is larger than 65536 bytes"):
        secret_files.read(large)


def test_a_secret_is_written_to_a_new_file_alone(tmp_path: Path) -> None:
    """With mode 0600 whatever the umask, and nothing is left beside it."""
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        secret_files.write_new(path, b"one")
    finally:
        os.umask(before)
    with pytest.raises(FileExistsError):
        secret_files.write_new(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    assert list(tmp_path.iterdir()) == [path]

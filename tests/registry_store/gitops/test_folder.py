"""What is read of a folder, and what in it is an error: nothing that may declare an agent is skipped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from registry_store.gitops import folder as folders
from registry_store.gitops.folder import FolderError

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    declare(tmp_path / "folder" / "good.yaml", "good")
    return tmp_path / "folder"


def declare(file: Path, name: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"kind: mcp_server\nserver_name: {name}\n")
    return file


def names(folder: Path) -> list[str]:
    return [found.id for found in folders.read(folder)]


def faults(folder: Path) -> list[str]:
    with pytest.raises(FolderError) as refused:
        folders.read(folder)
    return [str(fault) for fault in refused.value.faults]


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user to whom permissions apply: root reads everything."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(mine)


def test_files_are_read_in_the_order_of_their_paths(folder: Path) -> None:
    """In subfolders, whatever they are called; other files and what is hidden are not."""
    declare(folder / "sub.yaml" / "inside.yml", "inside")
    declare(folder / "a" / "b" / "deep.yaml", "deep")
    declare(folder / "z.yaml", "last")
    declare(folder / "read.txt", "text")
    declare(folder / ".hidden.yaml", "hidden")
    declare(folder / ".git" / "git.yaml", "git")
    (folder / ".git" / "gone.yaml").symlink_to("gone")
    assert names(folder) == ["deep", "good", "inside", "last"]


def test_a_symlink_to_a_file_is_read(folder: Path, tmp_path: Path) -> None:
    """As a mounted ConfigMap has them; the folder itself may be a symlink too."""
    declare(folder / "..data" / "linked.yaml", "linked")
    (folder / "linked.yaml").symlink_to("..data/linked.yaml")
    (tmp_path / "link").symlink_to(folder)
    assert names(tmp_path / "link") == ["good", "linked"]


@pytest.mark.parametrize("name", ["gone.yaml", "gone.yml", "gone"])
def test_a_symlink_to_nothing_is_an_error(folder: Path, name: str) -> None:
    """Of any name: it may have been a folder of agents."""
    (folder / name).symlink_to("nowhere")
    assert faults(folder) == [f"{folder / name}:1: is a broken symlink"]


def test_a_symlink_to_itself_is_an_error(folder: Path) -> None:
    """And no loop."""
    (folder / "loop.yaml").symlink_to("loop.yaml")
    assert faults(folder) == [f"{folder / 'loop.yaml'}:1: cannot be read: Too many levels of symbolic links"]


def test_a_symlink_to_a_folder_is_an_error(folder: Path, tmp_path: Path) -> None:
    """It is not followed, so that there are no loops, and not skipped either."""
    declare(tmp_path / "elsewhere" / "agent.yaml", "elsewhere")
    (folder / "agents").symlink_to(tmp_path / "elsewhere")
    (folder / "up").symlink_to(folder)
    message = "is a symlink to a folder: only symlinks to files are followed"
    assert sorted(faults(folder)) == [f"{folder / 'agents'}:1: {message}", f"{folder / 'up'}:1: {message}"]


def test_what_is_no_file_is_an_error(folder: Path) -> None:
    """Without waiting for someone to write to a pipe, or reading a device without end."""
    os.mkfifo(folder / "pipe.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    assert sorted(faults(folder)) == [
        f"{folder / 'pipe.yaml'}:1: is not a regular file",
        f"{folder / 'zero.yaml'}:1: is not a regular file",
    ]


def test_what_may_not_be_read_is_an_error() -> None:
    """A file, a subfolder, and what a subfolder lists but does not give out."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        declare(folder / "file.yaml", "file").chmod(0)
        declare(folder / "agents" / "agent.yaml", "agent").parent.chmod(0)
        declare(folder / "listed" / "server.yaml", "server").parent.chmod(0o444)
        try:
            with unprivileged():
                found = faults(folder)
        finally:
            for inside in ("agents", "listed"):
                (folder / inside).chmod(0o755)
    assert sorted(found) == [
        f"{folder / name}:1: cannot be read: Permission denied"
        for name in ("agents", "file.yaml", "listed/server.yaml")
    ]


def test_a_folder_that_may_not_be_read_is_an_error() -> None:
    """And not one that declares nothing."""
    with TemporaryDirectory() as temporary:
        Path(temporary).chmod(0)
        with unprivileged():
            assert faults(Path(temporary)) == [f"{temporary}:1: cannot be read: Permission denied"]


def test_a_file_that_is_too_large_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no further than the bound."""
    monkeypatch.setattr(folders, "MAX_BYTES", 1024)
    (folder / "large.yaml").write_text("#" * 1025)
    assert faults(folder) == [f"{folder / 'large.yaml'}:1: larger than 1024 bytes"]

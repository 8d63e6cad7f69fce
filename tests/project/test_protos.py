"""`make breaking` compares the protos with the commit before, where there is one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PDP = Path("protos/pdp/v1/decision.proto")
SYNC = Path("protos/registry_store/v1/sync.proto")
AUTHOR = {f"GIT_{who}_{what}": "tester@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
NOT_CHECKED = "buf breaking: not checked: there is no commit before this one\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the target needs, without the history."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    for name in ("Makefile", "buf.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def breaking(folder: Path) -> subprocess.CompletedProcess[str]:
    """The target, with the tools of this environment and without installing them."""
    # A git that finds no repository in the folder must not find one above it.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    make = ["make", "--silent", "--old-file=install", "breaking", f"BIN={BIN}"]
    return subprocess.run(make, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def commit(folder: Path, *, renamed: tuple[Path, str] | None = None) -> None:
    """Commit everything, after renaming a field."""
    if renamed:
        path, field = folder / renamed[0], renamed[1]
        path.write_text(path.read_text().replace(f" {field} = ", f" {field}_renamed = "))
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--allow-empty", "--message", "a"]):
        subprocess.run(["git", *command], cwd=folder, env=os.environ | AUTHOR, check=True)


def test_a_field_of_the_decision_protocol_keeps_its_name(copy: Path) -> None:
    """A renamed field fails, and is named with its file."""
    commit(copy)
    commit(copy, renamed=(PDP, "risk_score"))
    ended = breaking(copy)
    assert ended.returncode != 0
    assert f"{PDP}:" in ended.stdout and '"risk_score_renamed"' in ended.stdout


def test_the_sync_protocol_may_change(copy: Path) -> None:
    """Store and sidecar are released together."""
    commit(copy)
    commit(copy, renamed=(SYNC, "node_id"))
    ended = breaking(copy)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_first_commit_has_nothing_before_it(copy: Path) -> None:
    """So has a shallow clone: it says so, and passes."""
    commit(copy)
    ended = breaking(copy)
    assert (ended.returncode, ended.stdout) == (0, NOT_CHECKED)


def test_an_unpacked_archive_has_no_history(copy: Path) -> None:
    """Without git's folder it says so, and passes."""
    ended = breaking(copy)
    assert (ended.returncode, ended.stdout) == (0, NOT_CHECKED)

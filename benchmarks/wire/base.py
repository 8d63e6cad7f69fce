"""An earlier commit to compare with: its files, and a virtual environment with what it needed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import ROOT

FOLDER = ROOT / ".venv-bench-base"
LOCKED = ("--require-hashes", "--only-binary", ":all:")


class Base(NamedTuple):
    """An installed commit: its programs, a folder to run from, and whether it serves protobuf by HTTP itself."""

    commit: str
    bin: Path
    folder: Path
    has_connect: bool

    def described(self) -> str:
        """The commit, and the versions that it runs with of what its gRPC server is made of."""
        names = (path.name for path in self.bin.parent.glob("lib/python*/site-packages/*.dist-info"))
        versions = (name.removesuffix(".dist-info").replace("-", " ") for name in sorted(names))
        used = [version for version in versions if version.partition(" ")[0] in ("grpcio", "protobuf")]
        return f"{self.commit} ({', '.join(used)})"


def installed(commit: str) -> Base:
    """The commit under `.venv-bench-base`, made there when it is first asked for."""
    name = _git("rev-parse", "--short=7", f"{commit}^{{commit}}").decode().strip()
    folder, done = FOLDER / name, FOLDER / name / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        tree = folder / "tree"
        tree.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", str(tree)], input=_git("archive", name), check=True)  # noqa: S607
        _install(folder / "venv", tree)
        _copy_peers(folder / "launch")
        done.touch()
    return Base(name, folder / "venv" / "bin", folder / "launch", (folder / "tree/pdp/endpoints/connect.py").exists())


def _install(venv: Path, tree: Path) -> None:
    """With the versions of its locks; the newest ones where it had none."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    locks = [tree / "requirements" / f"{name}.txt" for name in ("build", "store")]
    if all(lock.exists() for lock in locks):
        subprocess.run([*pip, *LOCKED, *(f"--requirement={lock}" for lock in locks)], check=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(tree)], check=True)
    else:
        subprocess.run([*pip, f"{tree}[store]"], check=True)
    subprocess.run([*pip, "httptools"], check=True)


def _copy_peers(launch: Path) -> None:
    """`benchmarks.peers` where Python finds it before the commit's own `benchmarks`."""
    peers = launch / "benchmarks" / "peers"
    peers.mkdir(parents=True)
    for name in ("floor.py", "base_http.py"):
        shutil.copy(ROOT / "benchmarks" / "peers" / name, peers)
    for package in (launch / "benchmarks", peers):
        (package / "__init__.py").touch()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout  # noqa: S607

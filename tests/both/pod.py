"""Runs one container of a pod as a process: its command and environment, its user, its mounts on a read-only root.

As a program (`unshare --mount --propagation private python pod.py SPECIFICATION`) it makes the container's view of the
files, becomes its user and then its command, as a container runtime does. It needs root.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
OWN = ("etc", "root", "var")
"""Folders of the machine that a container does not see; `/root` also hides what only root may enter."""
WRITABLE = ("dev", "proc", "sys")
FILES = ("hosts", "localtime", "nsswitch.conf")


def command_line(container: dict[str, Any], volumes: dict[str, Path], user: int) -> list[str]:
    """The program to start for a container; `volumes` are the folders that stand for the pod's volumes."""
    specification = {
        "command": container["command"] + container.get("args", []),
        "environment": {entry["name"]: entry["value"] for entry in container.get("env", [])},
        "mounts": [
            {"from": str(volumes[mount["name"]]), "to": mount["mountPath"], "read_only": mount.get("readOnly", False)}
            for mount in container["volumeMounts"]
        ],
        "user": user,
    }
    program = [sys.executable, __file__, json.dumps(specification)]
    return ["unshare", "--mount", "--propagation", "private", *program]


def possible() -> bool:
    """Whether this process may make mounts of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


def _run(specification: dict[str, Any]) -> None:
    root = Path(tempfile.mkdtemp())
    _mount("-t", "tmpfs", "-o", "mode=755", "none", root)
    shown = _show_machine(root)
    for mount in specification["mounts"]:
        target = root / mount["to"].lstrip("/")
        target.mkdir(parents=True)
        _mount("--bind", mount["from"], target)
        if mount["read_only"]:
            _mount("-o", "remount,bind,ro", target)
    for target in shown:
        _mount("-o", "remount,bind,ro", target)
    _mount("-o", "remount,ro", root)
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(specification["user"])
    os.setuid(specification["user"])
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = specification["command"]
    os.execvpe(command[0], command, environment | specification["environment"])


def _show_machine(root: Path) -> list[Path]:
    """Put the machine's folders below `root`, with Python and the project at the paths that they have."""
    shown = []
    for entry in Path("/").iterdir():
        target = root / entry.name
        if entry.is_symlink():
            target.symlink_to(entry.readlink())
        elif entry.is_dir() and entry.name not in OWN:
            target.mkdir()
            _mount("--rbind", entry, target)
            shown += [] if entry.name in WRITABLE else [target]
    for name in ("etc", "var/run", "var/lib"):
        (root / name).mkdir(parents=True)
    for name in FILES:
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    for folder in map(Path, (sys.base_prefix, sys.prefix, PROJECT)):
        target = root / str(folder).lstrip("/")
        if not target.exists():
            target.mkdir(parents=True)
            _mount("--rbind", folder, target)
            shown.append(target)
    return shown


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))

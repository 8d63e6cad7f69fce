"""Run one program of a root folder as a container runtime does, on the network of this machine.

`enter.py SPEC` takes a JSON object: `root`, `volumes` ({path inside: folder outside}), `cwd`, `env`, `user` (UID:GID)
and `command`. The program is process 1 of its own process namespace and sees the root read-only. It has no capability
and can gain none. SIGTERM is passed on to it; its exit code becomes this one's.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
DEVICES = ("null", "zero", "full", "random", "urandom")
LIBC = ctypes.CDLL(None, use_errno=True)


def main(spec: dict[str, Any]) -> int:
    """Start the program and wait for its end."""
    _must(LIBC.unshare(CLONE_NEWNS | CLONE_NEWPID))
    child = os.fork()
    if child == 0:
        _mount(Path(spec["root"]), spec["volumes"])
        os.chroot(spec["root"])
        os.chdir(spec["cwd"])
        _drop_privileges(*map(int, spec["user"].split(":")))
        os.execvpe(spec["command"][0], spec["command"], spec["env"])
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _mount(root: Path, volumes: dict[str, str]) -> None:
    def mount(*arguments: object) -> None:
        subprocess.run(["mount", *map(str, arguments)], check=True)

    mount("--make-rprivate", "/")
    mount("--bind", root, root)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "dev")
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", root / "dev" / name)
    for inside, outside in volumes.items():
        mount("--bind", outside, f"{root}{inside}")
    mount("-o", "remount,ro", root / "dev")
    mount("-o", "remount,bind,ro", root)


def _drop_privileges(user: int, group: int) -> None:
    capability = 0
    while LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    _must(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    _must(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _must(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

"""The image under test: built from the sources, or named by the environment's IMAGE, and its programs as processes."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests import programs
from tests.image import bases
from tests.image.buildah import Buildah, own_storage

ROOT = Path(__file__).parents[2]
ENTER = str(Path(__file__).with_name("enter.py"))
SECRET = "built-with-this-secret"
"""A comment in the settings of pip that the build gets: no layer may hold it."""


class Image:
    """An image, and a container of it that is mounted and never changes."""

    def __init__(self, buildah: Buildah, name: str) -> None:
        self.known = buildah.inspect(name)
        self.config: dict[str, Any] = self.known["OCIv1"]["config"]
        self._buildah = buildah
        self._container = buildah("from", "--pull-never", name).stdout.strip()
        self.root = Path(buildah("mount", self._container).stdout.strip())

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command by buildah, as the user and with the environment of the image."""
        return self._buildah("run", "--isolation", "chroot", self._container, "--", *command, check=False)

    def size_bytes(self) -> int:
        """The bytes of all files, not compressed."""
        return sum(path.lstat().st_size for path in self.files())

    def files(self) -> Iterator[Path]:
        """All files and links of the root."""
        return (path for path in self.root.rglob("*") if path.is_symlink() or path.is_file())

    def write_secret(self, path: Path, content: str) -> None:
        """Write a file that the image's user alone may read."""
        path.touch(0o600)
        path.write_text(content)
        os.chown(path, *self._user())

    def confined(self, volume: Path, *command: str) -> list[str]:
        """The command that runs one of the image's on a read-only root, with one volume at /data."""
        os.chown(volume, *self._user())
        env = dict(entry.split("=", 1) for entry in self.config["Env"])
        spec = {"root": str(self.root), "volumes": {"/data": str(volume)}, "cwd": self.config["WorkingDir"]}
        return [ENTER, json.dumps(spec | {"env": env, "user": self.config["User"], "command": command})]

    async def ended(self, volume: Path, *command: str) -> programs.Ended:
        """Run a program to its end, confined."""
        return await programs.run("python", *self.confined(volume, *command))

    @asynccontextmanager
    async def started(self, volume: Path, *command: str) -> AsyncIterator[programs.Running]:
        """A confined program that runs until the block is left."""
        async with programs.started("python", *self.confined(volume, *command)) as running:
            yield running

    def _user(self) -> tuple[int, int]:
        user, _, group = self.config["User"].partition(":")
        return int(user), int(group)

    def remove(self) -> None:
        """Remove the container; the image stays."""
        self._buildah("rm", self._container)


@contextmanager
def opened() -> Iterator[Image]:
    """The image that IMAGE names in the storage of this machine, else one built for the test."""
    name = os.environ.get("IMAGE")
    if name:
        image = Image(Buildah({}), name)
        try:
            yield image
        finally:
            image.remove()
        return
    with own_storage() as (buildah, folder):
        yield Image(buildah, _built(buildah, folder))


def _built(buildah: Buildah, folder: Path) -> str:
    name = "localhost/agent-pdp"
    runtime = bases.make_runtime(buildah, folder)
    build = bases.make_build(buildah, folder)
    flags = ["--pull-never", f"--build-arg=BUILD_BASE={build}", f"--build-arg=RUNTIME_BASE={runtime}"]
    with TemporaryDirectory() as secrets:
        flags += [f"--secret=id={path.name},src={path}" for path in _pip_settings(Path(secrets))]
        command = ["make", "image", f"IMAGE={name}", f"IMAGE_FLAGS={' '.join(flags)}"]
        done = subprocess.run(
            command, cwd=ROOT, env=buildah.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    return name


def _pip_settings(folder: Path) -> list[Path]:
    """What pip needs of this machine to reach its index, as files: `pip.conf`, and `ca.crt` where it has its own."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    lines = ["[global]", f"# {SECRET}"]
    for name in ("index-url", "extra-index-url", "trusted-host", "proxy"):
        remote = [word for word in found.get(name, "").split() if not word.startswith(("/", "file:"))]
        lines += [f"{name} = {' '.join(remote)}"] if remote else []
    conf = folder / "pip.conf"
    conf.write_text("\n".join(lines) + "\n")
    if "cert" not in found:
        return [conf]
    return [conf, Path(shutil.copy(found["cert"], folder / "ca.crt"))]

"""buildah on a storage of its own, which leaves with its folder."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class Buildah:
    """Images and containers, on the storage that `environment` names."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = os.environ | environment | {"BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["buildah", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done

    def import_root(self, root: Path, name: str) -> str:
        """Make a folder the only layer of a new image, and delete the folder."""
        container = self("from", "scratch").stdout.strip()
        self("add", "--quiet", container, str(root), "/")
        self("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
        self("commit", "--quiet", "--rm", container, name)
        shutil.rmtree(root)
        return name

    def inspect(self, name: str) -> dict[str, Any]:
        """What is known of an image, its configuration and history among it."""
        known: dict[str, Any] = json.loads(self("inspect", "--type", "image", name).stdout)
        return known


@contextmanager
def own_storage() -> Iterator[tuple[Buildah, Path]]:
    """An empty storage and a folder beside it; both are deleted."""
    with TemporaryDirectory(prefix="image-", dir="/var/tmp") as name:
        folder = Path(name)
        conf = folder / "storage.conf"
        conf.write_text(f'[storage]\ndriver = ""\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n')
        buildah = Buildah({"CONTAINERS_STORAGE_CONF": str(conf)})
        try:
            yield buildah, folder
        finally:
            buildah("rm", "--all")
            buildah("rmi", "--all", "--force")
            subprocess.run(["umount", "--quiet", f"{folder}/storage/overlay"], check=False)

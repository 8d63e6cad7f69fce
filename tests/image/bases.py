"""Both bases of the image, made from Debian's packages where no public image can be pulled.

The runtime base holds the packages of gcr.io/distroless/python3-debian13 and no program but Python. In the build base
Python is in /usr/local/bin, as in docker.io/library/python.
"""

import shutil
import subprocess
from pathlib import Path

from tests.image.buildah import Buildah

SUITE = "trixie"
PYTHON = "python3.13"
BUILD_PACKAGES = ("python3", "python3-venv", "ca-certificates")
RUNTIME_PACKAGES = (
    *("base-files", "ca-certificates", "media-types", "netbase", "tzdata"),
    *("gcc-14-base", "libc-bin", "libc6", "libgcc-s1", "libgomp1", "libssl3t64", "libstdc++6", "libzstd1", "zlib1g"),
    *("libbz2-1.0", "libcom-err2", "libcrypt1", "libdb5.3t64", "libexpat1", "libffi8", "libgssapi-krb5-2"),
    *("libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "liblzma5", "libncursesw6", "libnsl2"),
    *("libreadline8t64", "libsqlite3-0", "libtinfo6", "libtirpc3t64", "libuuid1"),
    *("libpython3.13-minimal", "libpython3.13-stdlib", "python3.13-minimal", "python3.13-venv"),
)
PASSWD = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
GROUP = "root:x:0:\nnonroot:x:65532:\n"


def make_build(buildah: Buildah, folder: Path) -> str:
    """The name of a new image with Python, venv and a shell."""
    root = folder / "build"
    _debian(root, "essential", BUILD_PACKAGES)
    local = root / "usr/local/bin"
    shutil.move(root / "usr/bin" / PYTHON, local / PYTHON)
    (local / "python3").symlink_to(PYTHON)
    return buildah.import_root(root, "localhost/build-base")


def make_runtime(buildah: Buildah, folder: Path) -> str:
    """The name of a new image with Python and what it needs: packages are unpacked, and none of their scripts runs."""
    root = folder / "runtime"
    _debian(root, "extract", RUNTIME_PACKAGES)
    for program in [*root.glob("usr/bin/*"), *root.glob("usr/sbin/*")]:
        if program.name != PYTHON:
            program.unlink()
    shutil.rmtree(root / "usr/share/python-wheels")
    (root / "usr/bin/python3").symlink_to(PYTHON)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return buildah.import_root(root, "localhost/runtime-base")


def _debian(root: Path, variant: str, packages: tuple[str, ...]) -> None:
    """Unpack Debian into a new folder; what is mounted there meanwhile leaves with the process, however it ends."""
    options = [
        "--mode=root",
        "--quiet",
        "--format=directory",
        f"--variant={variant}",
        f"--include={','.join(packages)}",
    ]
    command = ["unshare", "--mount", "mmdebstrap", *options, SUITE, str(root), _mirror()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(root / "dev")
    (root / "dev").mkdir()


def _mirror() -> str:
    """The mirror of Debian that this machine uses."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]

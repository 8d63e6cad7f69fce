"""The container image: what is in it, what it may do, and that its programs work together."""

import asyncio
import base64
import json
import re
import ssl
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3

from tests.hostile.installation import Api
from tests.image.images import SECRET, Image
from tests.ports import reserved
from tests.waiting import eventually_gives

pytestmark = pytest.mark.image
AGENT = "image-agent"
SHELLS = {"sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "tcsh", "zsh"}
INSTALLERS = {"pip", "setuptools", "wheel", "uv"}
MAX_BYTES = 200_000_000
MODULES = """
import json, sys
import pdp.app, pdp.cli, registry_store.app, registry_store.__main__
print(json.dumps([[m.__file__, m.__cached__] for m in list(sys.modules.values()) if getattr(m, "__cached__", None)]))
"""
POD = {"group": "", "version": "v1"}
REVIEW: dict[str, Any] = {
    "kind": "AdmissionReview",
    "apiVersion": "admission.k8s.io/v1",
    "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": POD | {"kind": "Pod"},
        "resource": POD | {"resource": "pods"},
        "namespace": "agents",
        "operation": "CREATE",
        "object": {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "agent", "annotations": {"pdp.dev/agent-id": AGENT}},
            "spec": {"containers": [{"name": "agent", "image": "agent:1"}]},
        },
    },
}
WHO = """
import os
print(os.getpid(), os.getuid(), os.getgid(), os.getgroups())
print(open("/proc/self/status").read())
"""
WRITES = """
import os, sys
for folder in sys.argv[1:]:
    try:
        os.close(os.open(os.path.join(folder, "new"), os.O_CREAT | os.O_WRONLY))
        print(folder)
    except OSError:
        pass
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder for one program, which the image's user may reach."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("program", ["pdp", "registry-store"])
def test_a_program_says_its_version(image: Image, program: str) -> None:
    """The one of the image's label."""
    version = image.config["Labels"]["org.opencontainers.image.version"]
    assert image.run(program, "--version").stdout == f"{program}, version {version}\n"


@pytest.mark.parametrize("program", ["pdp", "registry-store"])
def test_every_command_is_there(image: Image, program: str) -> None:
    """It shows its help, for which it is imported."""
    commands = re.findall(r"^  (\S+) ", image.run(program, "--help").stdout.partition("Commands:\n")[2], re.MULTILINE)
    assert "serve" in commands
    for command in commands:
        done = image.run(program, command, "--help")
        assert done.stdout.startswith(f"Usage: {program} {command} "), done.stderr


def test_its_configuration(image: Image) -> None:
    """Not root, SIGTERM to stop, no entry point that a command would have to replace, and labels that name it."""
    assert image.config["User"] == "65532:65532"
    assert image.config["WorkingDir"] == "/data"
    assert image.config["StopSignal"] == "SIGTERM"
    assert image.config["Cmd"] == ["pdp", "--help"]
    assert not image.config.get("Entrypoint")
    labels = image.config["Labels"]
    names = {"title", "description", "licenses", "version", "revision", "base.name"}
    assert all(labels[f"org.opencontainers.image.{name}"] for name in names)


def test_it_has_no_shell(image: Image) -> None:
    """No file has the name of one, and what starts a shell fails."""
    assert [str(path) for path in image.files() if path.name in SHELLS] == []
    assert image.run("/bin/sh", "-c", "true").returncode != 0
    tried = image.run("python3", "-c", "import subprocess; subprocess.run('true', shell=True)")
    assert "FileNotFoundError: [Errno 2] No such file or directory: '/bin/sh'" in tried.stderr


def test_it_installs_nothing(image: Image) -> None:
    """Neither pip nor a wheel of it."""
    folders = {path.name for path in image.root.rglob("site-packages/*") if path.is_dir()}
    assert folders & INSTALLERS == set()
    assert [str(path) for path in image.files() if path.suffix == ".whl"] == []


def test_nobody_gains_a_privilege_by_a_file(image: Image) -> None:
    """There is no set-user-ID program, and the image's user may change nothing but /data and what is for all."""
    modes = {path: path.lstat() for path in image.root.rglob("*") if not path.is_symlink()}
    assert [
        path for path, mode in modes.items() if mode.st_mode & (stat.S_ISUID | stat.S_ISGID) and path.is_file()
    ] == []
    assert {path.relative_to(image.root) for path, mode in modes.items() if mode.st_uid == 65532} == {Path("data")}
    shared = {path for path, mode in modes.items() if mode.st_mode & stat.S_IWOTH}
    assert {path.relative_to(image.root).parts[-1] for path in shared} <= {"tmp", "lock"}


async def test_nothing_outside_of_the_volume_can_be_written(image: Image, volume: Path) -> None:
    """On a read-only root."""
    folders = [f"/{path.relative_to(image.root)}" for path in image.root.glob("*") if path.is_dir()]
    tried = await image.ended(
        volume, "python3", "-c", WRITES, *folders, "/opt/pdp/bin", "/usr/lib", "/etc/ssl", "/dev/shm"
    )
    assert tried.err == ""
    assert tried.out.split() == ["/data"]


async def test_a_program_has_no_privilege(image: Image, volume: Path) -> None:
    """As Kubernetes' restricted standard has it: its own user, no capability, none to gain; it is process 1."""
    first, *lines = (await image.ended(volume, "python3", "-c", WHO)).out.splitlines()
    assert first == "1 65532 65532 []"
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_every_module_is_compiled(image: Image) -> None:
    """Those of the programs, of libraries and of Python; none is compared with its source."""
    modules = json.loads(image.run("python3", "-c", MODULES).stdout)
    assert len(modules) > 500
    assert {"/opt/pdp", "/usr/lib"} <= {"/".join(file.split("/")[:3]) for file, _ in modules}
    for file, cached in modules:
        compiled = image.root / cached.lstrip("/")
        assert compiled.exists(), file
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", file


def test_nothing_of_the_builder_is_in_it(image: Image) -> None:
    """Its settings of pip are in no file and in no line of the history."""
    assert SECRET not in json.dumps(image.known)
    assert not (image.root / "etc/pip.conf").exists()
    assert not list(image.root.glob("run/secrets/*"))
    assert [str(path) for path in image.files() if not path.is_symlink() and SECRET.encode() in path.read_bytes()] == []


def test_it_is_small(image: Image) -> None:
    """All files, as they lie on a node's disk."""
    assert image.size_bytes() <= MAX_BYTES


async def test_store_and_sidecar_decide(image: Image, tmp_path: Path) -> None:
    """On read-only roots, over TCP and a Unix socket; each stops on SIGTERM with code 0, though it is process 1."""
    volumes = {name: tmp_path / name for name in ("store", "sidecar")}
    for folder in volumes.values():
        folder.mkdir()
    with ExitStack() as stack:
        rest, grpc, http = (stack.enter_context(reserved()) for _ in range(3))
        made = await image.ended(
            volumes["store"], "registry-store", "keys", "create", "--role", "admin", "--name", "ann"
        )
        assert made.code == 0, made.err
        admin = Api(rest, made.out.strip())
        serve = ("registry-store", "serve", "--http", rest, "--grpc", grpc, "--auto-activate", "--log-format", "json")
        async with image.started(volumes["store"], *serve) as store:
            await until_ready(rest)
            agent = {"agent_id": AGENT, "display_name": "An agent", "blocked_resources": ["secrets"]}
            await admin.call("POST", "/api/agents/registry", agent)
            key = await admin.call("POST", "/api/keys", {"role": "sidecar", "name": "sidecar"})
            image.write_secret(volumes["sidecar"] / "key", key["key"])
            serve = ("pdp", "serve", "--store", grpc, "--key-file", "key", "--all-agents", "--data-dir", "state")
            listen = ("--listen", "unix:pdp.sock", "--http", http, "--log-format", "json")
            async with image.started(volumes["sidecar"], *serve, *listen) as sidecar:
                await until_ready(http)
                assert await asked(http, "ledger") == ("allow", "RISK_BELOW_AUTO_APPROVE")
                ask = ("evaluate", "--target", "unix:pdp.sock", "--agent", AGENT, "--action", "read", "--json")
                answer = await image.ended(volumes["sidecar"], "pdp", *ask, "--resource", "secrets", "--risk", "1")
                assert json.loads(answer.out)["reason"] == "RESOURCE_BLOCKED", answer.err
                assert await sidecar.stopped() == 0
            assert await store.stopped() == 0


async def test_the_injector_answers_a_review(image: Image, volume: Path) -> None:
    """On a read-only root, over TLS 1.3 with the certificate of its volume; it stops on SIGTERM with code 0."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    image.write_secret(volume / "tls.crt", certificate.cert_chain_pems[0].bytes().decode())
    image.write_secret(volume / "tls.key", certificate.private_key_pem.bytes().decode())
    settings = ("--image", "pdp:1", "--store", "store.example:50052", "--plaintext", "--key-secret", "key")
    with reserved() as https, reserved() as probes:
        listen = ("--listen", https, "--tls-cert", "tls.crt", "--tls-key", "tls.key", "--metrics", probes)
        async with image.started(volume, "pdp", "injector", *listen, *settings, "--log-format", "json") as injector:
            await until_ready(probes)
            answer = await asyncio.to_thread(
                reviewed, f"https://localhost:{https.rpartition(':')[2]}/mutate", authority
            )
            assert (answer["uid"], answer["allowed"], answer["patchType"]) == (
                REVIEW["request"]["uid"],
                True,
                "JSONPatch",
            )
            assert b"pdp-sidecar" in base64.b64decode(answer["patch"])
            assert await injector.stopped() == 0


def reviewed(url: str, authority: trustme.CA) -> Any:
    """The response to a review."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with urllib3.PoolManager(ssl_context=context, retries=False, timeout=60.0) as pool:
        return pool.request("POST", url, json=REVIEW).json()["response"]


async def asked(address: str, resource: str) -> tuple[str, str]:
    """The outcome and the reason of one action."""
    action = {"agent_id": AGENT, "action_type": "read", "resource": resource, "risk_score": 1}
    answer: Any = await Api(address, "").call("POST", "/v1/evaluate", {"action": action})
    return answer["outcome"], answer["reason"]


async def until_ready(address: str) -> None:
    """Return once the program there is ready."""
    api = Api(address, "")
    await eventually_gives(lambda: api.answer("GET", "/readyz"), lambda answer: answer[0] == 200)

"""`docs/kubernetes.md`: what of it needs no cluster is run as printed."""

import base64
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests import console
from tests.deploy import schemas
from tests.deploy.building import BUILDS, ROOT, build, kustomize, need_kubectl, one
from tests.deploy.references import PAGE, documented_secrets

PAGE_TEXT = PAGE.read_text()
COMMANDS = [command.text for command in console.commands(re.sub(r"^ {3}", "", PAGE_TEXT, flags=re.MULTILINE))]
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OVERLAY, WITHOUT, TRACES, TRACES_EGRESS, *_ = BLOCK.findall(PAGE_TEXT)
BOTH_IMAGES = next(block for block in re.findall(r"^ {3}```yaml\n(.*?)^ {3}```$", PAGE_TEXT, re.DOTALL | re.MULTILINE))
CORP = "registry.corp.example/agent-pdp:0.1.0"
NAMES = ("registry-store", "pdp-injector")


def run(folder: Path, *commands: str) -> str:
    """What commands print, one after the other, in a folder."""
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands with openssl were run."""
    need_kubectl()
    folder = tmp_path_factory.mktemp("made")
    run(folder, *(command for command in COMMANDS if "openssl " in command))
    (folder / "url").write_text("postgresql://registry@db.example.com/registry")
    (folder / "key").write_text("owkai_key")
    return folder


def overlay(folder: Path, *parts: str) -> list[dict[str, Any]]:
    """What the overlay of the page makes, with further parts of the page."""
    (folder / "deploy").symlink_to(ROOT / "deploy")
    whole: dict[str, Any] = {}
    for part in parts:
        whole |= yaml.safe_load(part)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return kustomize(folder)


def test_the_certificates_are_what_clients_verify(made: Path) -> None:
    """Signed by the authority, for the name of the Service, and strictly, as Python 3.13 verifies."""
    for name in NAMES:
        host = f"{name}.pdp-system.svc"
        run(made, f"openssl verify -x509_strict -CAfile ca.crt -verify_hostname {host} -purpose sslserver {name}.crt")
        assert "CA:FALSE" in run(made, f"openssl x509 -in {name}.crt -noout -ext basicConstraints")


def test_the_secrets_are_those_of_the_table(made: Path) -> None:
    """Each has the items that the manifests name, and none is missing."""
    made_by = [f"{command} --dry-run=client -o yaml" for command in COMMANDS if "kubectl create secret" in command]
    secrets = {secret["metadata"]["name"]: secret for text in made_by for secret in [yaml.safe_load(run(made, text))]}
    assert {name: set(secret["data"]) for name, secret in secrets.items()} == documented_secrets()
    for name in NAMES:
        data = secrets[f"{name}-tls"]["data"]
        assert base64.b64decode(data["tls.crt"]) == (made / f"{name}.crt").read_bytes()
        assert base64.b64decode(data["tls.key"]) == (made / f"{name}.key").read_bytes()


def test_the_authority_gets_into_the_webhook(made: Path) -> None:
    """By the patch of the page."""
    webhook = one(build("production-without-cert-manager"), "MutatingWebhookConfiguration", "pdp-injector")
    (made / "webhook.yaml").write_text(yaml.safe_dump(webhook))
    command = next(command for command in COMMANDS if "caBundle" in command)
    local = command.replace("mutatingwebhookconfiguration pdp-injector", "--local -f webhook.yaml -o yaml")
    patched = yaml.safe_load(run(made, local))
    assert base64.b64decode(patched["webhooks"][0]["clientConfig"]["caBundle"]) == (made / "ca.crt").read_bytes()


def images(objects: list[dict[str, Any]], injector: str = "pdp-injector") -> set[str]:
    """Every image that an overlay uses, in pods and for sidecars."""
    templates = [each["spec"]["template"]["spec"] for each in objects if each["kind"] in ("Deployment", "Job")]
    told = one(objects, "ConfigMap", injector)["data"]["PDP_INJECTOR_IMAGE"]
    return {container["image"] for template in templates for container in template["containers"]} | {told}


def test_an_overlay_sets_the_image_everywhere(tmp_path: Path) -> None:
    """In the pods, for the sidecars, and for the policies."""
    objects = overlay(tmp_path, OVERLAY)
    assert images(objects) == {CORP}
    assert one(objects, "ConfigMap", "pdp-sidecar-policy")["data"]["images"] == CORP


def test_an_overlay_without_cert_manager(tmp_path: Path) -> None:
    """Nothing of cert-manager is left."""
    objects = overlay(tmp_path, OVERLAY, WITHOUT)
    assert images(objects) == {CORP}
    assert "cert-manager.io" not in str([each for each in objects if each["kind"] != "ValidatingAdmissionPolicy"])


def test_an_overlay_that_allows_a_second_image(tmp_path: Path) -> None:
    """The first stays that of the injector, whatever the patch says."""
    objects = overlay(tmp_path, OVERLAY, re.sub(r"^ {3}", "", BOTH_IMAGES, flags=re.MULTILINE))
    allowed = one(objects, "ConfigMap", "pdp-sidecar-policy")["data"]["images"].split("\n")
    assert allowed == [CORP, "registry.corp.example/agent-pdp:0.2.0"]


def test_an_overlay_with_a_collector(tmp_path: Path) -> None:
    """The injector and the policies get the same one, and may reach it as the page says."""
    objects = overlay(tmp_path, OVERLAY, TRACES)
    settings = one(objects, "ConfigMap", "pdp-injector")["data"]
    told = one(objects, "ConfigMap", "pdp-sidecar-policy")["data"]
    assert settings["PDP_INJECTOR_OTLP_ENDPOINT"] == told["otlp-endpoint"]
    policy = yaml.safe_load(TRACES_EGRESS)
    assert schemas.problems(policy, schemas.versions("1.30")[-1]) == []
    (rule,) = policy["spec"]["egress"]
    to = urlsplit(told["otlp-endpoint"])
    namespace = rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert (to.hostname, to.port) == (f"collector.{namespace}.svc", rule["ports"][0]["port"])
    assert settings.keys() > one(build("production"), "ConfigMap", "pdp-injector")["data"].keys()


def test_every_folder_is_on_the_page() -> None:
    """And every namespace that the webhook leaves out."""
    for folder in {part for parts in BUILDS.values() for part in parts}:
        assert f"`{folder}`" in PAGE_TEXT, folder
    webhook = one(build("production"), "MutatingWebhookConfiguration", "pdp-injector")["webhooks"][0]
    for name in webhook["namespaceSelector"]["matchExpressions"][0]["values"]:
        assert f"`{name}`" in PAGE_TEXT


def test_an_overlay_of_a_revision(tmp_path: Path) -> None:
    """The overlay of the page with the folder `revision`, without the target that revisions do not have."""
    content = yaml.safe_load(OVERLAY) | {"resources": ["deploy/k8s/revision"]}
    content["images"][0]["newTag"] = "0.3.0"
    del content["replacements"][0]["targets"][1]
    assert images(overlay(tmp_path, yaml.safe_dump(content)), "pdp-injector-next") == {CORP.replace("0.1.0", "0.3.0")}

"""What the manifests tell our programs: every flag and every variable is one that the program has."""

import copy
from collections.abc import Iterator

import click
import pytest

from pdp.cli import cli as pdp
from registry_store.cli import main as registry_store
from tests.deploy.building import BUILDS, Object, build, containers, one, pod_template, title

PROGRAMS: dict[str, click.Group] = {"pdp": pdp, "registry-store": registry_store}
PREFIXES = ("PDP_", "REGISTRY_STORE_")


def problems(objects: list[Object]) -> Iterator[str]:
    """Every command, flag and variable that no program has, and every one that a program requires and is not given."""
    for each in objects:
        template = pod_template(each)
        for container in containers(template) if template else []:
            if container["command"][0] in PROGRAMS:
                line = [*container["command"], *container.get("args", [])]
                variables = _variables(container, each["metadata"]["namespace"], objects)
                yield from (f"{title(each)}: {problem}" for problem in _of_line(line, variables))


def _variables(container: Object, namespace: str, objects: list[Object]) -> dict[str, str]:
    maps = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each["data"]
        for each in objects
        if each["kind"] == "ConfigMap"
    }
    found = {variable["name"]: variable.get("value", "from elsewhere") for variable in container.get("env", [])}
    for source in container.get("envFrom", []):
        found |= maps[namespace, source["configMapRef"]["name"]]
    return {name: value for name, value in found.items() if name.startswith(PREFIXES)}


def _of_line(line: list[str], variables: dict[str, str]) -> Iterator[str]:
    command = PROGRAMS[line[0]].commands.get(line[1])
    if command is None:
        yield f"`{line[0]}` has no command `{line[1]}`"
        return
    options = [option for option in command.params if isinstance(option, click.Option)]
    flags = {flag for option in options for flag in option.opts}
    given = [argument.partition("=")[0] for argument in line[2:]]
    yield from (f"`{line[0]} {line[1]}` has no `{flag}`" for flag in given if flag not in flags)
    of_option = {option.opts[0]: _names(option) for option in options}
    known = {name for names in of_option.values() for name in names}
    yield from (f"`{line[0]} {line[1]}` reads no `{name}`" for name in sorted(variables.keys() - known))
    for option in options:
        if option.required and not {option.opts[0]} & set(given) and not of_option[option.opts[0]] & variables.keys():
            yield f"`{line[0]} {line[1]}` requires `{option.opts[0]}`"
        if isinstance(option.type, click.Choice):
            values = [argument.partition("=")[2] for argument in line[2:] if argument.startswith(f"{option.opts[0]}=")]
            values += [variables[name] for name in of_option[option.opts[0]] & variables.keys()]
            yield from (
                f"`{option.opts[0]}` may not be `{value}`" for value in values if value not in option.type.choices
            )


def _names(option: click.Option) -> set[str]:
    return set() if option.envvar is None else {option.envvar} if isinstance(option.envvar, str) else set(option.envvar)


@pytest.mark.parametrize("name", BUILDS)
def test_every_flag_exists(name: str) -> None:
    """And every variable; nothing is missing."""
    assert list(problems(build(name))) == []


@pytest.mark.parametrize("name", ["development", "production"])
def test_every_flag_that_the_policy_wants_exists(name: str) -> None:
    """The arguments of an intact sidecar, with those that depend on the pod."""
    wanted = one(build(name), "ConfigMap", "pdp-sidecar-policy")["data"]["arguments"].split("\n")
    each = ["--agents=example-agent", "--metrics=[::]:9181", "--drain-seconds=10", "--log-level=info"]
    assert list(_of_line(["pdp", *wanted, *each], {})) == []


def test_a_wrong_flag_is_found() -> None:
    """So is a wrong command, variable or value, and what is required and missing."""
    objects = copy.deepcopy(build("production"))
    store = one(objects, "Deployment", "registry-store")["spec"]["template"]["spec"]["containers"][0]
    store["args"] += ["--listen=0.0.0.0:1"]
    store["env"] += [{"name": "REGISTRY_STORE_LISTEN", "value": "x"}]
    injector = one(objects, "ConfigMap", "pdp-injector")["data"]
    injector["PDP_INJECTOR_NATIVE"] = "sometimes"
    del injector["PDP_INJECTOR_STORE"]
    one(objects, "Job", "registry-store-migrate")["spec"]["template"]["spec"]["containers"][0]["command"][1] = "upgrade"
    assert list(problems(objects)) == [
        "Deployment pdp-injector: `pdp injector` requires `--store`",
        "Deployment pdp-injector: `--native` may not be `sometimes`",
        "Deployment registry-store: `registry-store serve` has no `--listen`",
        "Deployment registry-store: `registry-store serve` reads no `REGISTRY_STORE_LISTEN`",
        "Job registry-store-migrate: `registry-store` has no command `upgrade`",
    ]

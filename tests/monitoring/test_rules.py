"""The rules, monitors and dashboard are well formed, and each alert fires when it should."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.monitoring import files
from tests.monitoring.prometheus import promtool

PAGE = (files.ROOT / "docs/operations.md").read_text()
ALERTS: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(Path(__file__).with_name("alerts.yaml").read_text())
FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


@pytest.fixture(scope="module")
def rule_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(files.rule_file()))
    return path


def test_prometheus_takes_the_rules(rule_file: Path) -> None:
    """As they stand in the PrometheusRule; a rule that is there twice is a fault too."""
    assert f"{len(files.rules())} rules found" in promtool("check", "rules", "--lint-fatal", rule_file)


def test_every_alert_fires_when_it_should_and_no_other_does(rule_file: Path) -> None:
    """promtool plays each case of `alerts.yaml`; of those that fire only the named alert may."""
    assert [rule["alert"] for rule in files.alerts()] == list(ALERTS)
    cases = [
        case(name, series, fires=kind == "fires") for name, both in ALERTS.items() for kind, series in both.items()
    ]
    assert len(cases) == 2 * len(ALERTS)
    tests = rule_file.with_name("tests.yaml")
    tests.write_text(yaml.safe_dump({"rule_files": [str(rule_file)], "evaluation_interval": "1m", "tests": cases}))
    promtool("test", "rules", tests)


def test_a_case_that_does_not_hold_is_found(rule_file: Path) -> None:
    """The test of the test: quiet series do not fire."""
    wrong = case("PdpStale", ALERTS["PdpRegistryTooOld"]["quiet"], fires=True)
    tests = rule_file.with_name("wrong.yaml")
    tests.write_text(yaml.safe_dump({"rule_files": [str(rule_file)], "evaluation_interval": "1m", "tests": [wrong]}))
    with pytest.raises(AssertionError, match="PdpStale"):
        promtool("test", "rules", tests)


def case(alert: str, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """A test of promtool: after half an hour with these series this alert fires and no other, or none."""
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if fires else []
    return {
        "name": alert,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": FIRING, "eval_time": "30m", "exp_samples": expected}],
    }


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    """A heading of `docs/operations.md`, to which the annotation leads."""
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert headings == [rule["alert"] for rule in files.alerts()]
    for rule in files.alerts():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_prometheus_takes_the_scrape_configuration_of_the_page(tmp_path: Path) -> None:
    """The one for clusters without the operator; Debian's has no discovery of Kubernetes, so not that line."""
    text = PAGE.split("```yaml\n")[1].split("```")[0]
    discovery = "kubernetes_sd_configs: [{role: pod}]"
    assert discovery in text
    path = tmp_path / "prometheus.yaml"
    path.write_text(text.replace(discovery, "static_configs: []"))
    assert "SUCCESS" in promtool("check", "config", path)


def test_every_runbook_says_what_to_do() -> None:
    """What happens in words, and then numbered steps."""
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        text = section.split("\n## ")[0]
        assert re.search(r"^[A-Z][^\n]+\n(.+\n)*\n1\. ", text, re.MULTILINE) or "As [" in text, text


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    """Ids are unique, no panel overlaps another, and every expression is PromQL."""
    document = json.loads((files.FOLDER / "dashboard.json").read_text())
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in document["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    for expression in files.panel_expressions():
        assert "$" not in expression
        promql.parse(expression)


def test_kustomize_builds_the_folder() -> None:
    """With the dashboard in a config map that Grafana's sidecar finds."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl to build it")
    built = subprocess.run(["kubectl", "kustomize", files.FOLDER], capture_output=True, text=True, check=True).stdout
    kinds = [document["kind"] for document in yaml.safe_load_all(built)]
    assert sorted(kinds) == ["ConfigMap", "PodMonitor", "PodMonitor", "PrometheusRule", "ServiceMonitor"]

"""The alert rules and Prometheus' configuration, by promtool; the rules' behaviour is in alerts_test.yml."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.paths import ROOT

PROMETHEUS = ROOT / "infra" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
CASES = Path(__file__).parent / "alerts_test.yml"


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def _promtool(*args: str | Path, folder: Path = PROMETHEUS) -> str:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    process = subprocess.run([binary, *args], cwd=folder, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_every_alert_says_how_bad_what_and_what_to_do() -> None:
    for rule in _rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: dict[str, set[bool]] = {rule["alert"]: set() for rule in _rules()}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for check in case["alert_rule_test"]:
            fires[check["alertname"]].add(bool(check["exp_alerts"]))
    # The case of MasklakeScheduleFailed has both in one: a schedule that has mended is not in it.
    assert {name for name, states in fires.items() if states != {True, False}} == {"MasklakeScheduleFailed"}


def test_promtool_accepts_rules_and_configuration() -> None:
    assert f"{len(_rules())} rules found" in _promtool("check", "rules", ALERTS)
    _promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    rules = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]  # or the cases would have to repeat them
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    shutil.copy(CASES, tmp_path)
    assert "SUCCESS" in _promtool("test", "rules", CASES.name, folder=tmp_path)


def test_promtool_parses_the_dashboards_queries(tmp_path: Path) -> None:
    dashboard = json.loads((ROOT / "infra" / "grafana" / "dashboards" / "masklake.json").read_text())
    exprs = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    rules = [
        {
            "record": f"q{i}",
            "expr": re.sub(r"\$(run|model|cluster)", ".*", expr).replace("$__rate_interval", "1m"),
        }
        for i, expr in enumerate(exprs)
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(exprs)} rules found" in _promtool("check", "rules", "queries.yml", folder=tmp_path)

"""The Grafana dashboard and its provisioning: whole, readable, and where compose.yaml mounts them."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
import yaml

from tests.helpers.paths import ROOT

INFRA = ROOT / "infra"
GRAFANA = INFRA / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "masklake.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]


def _provisioned(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((GRAFANA / "provisioning" / name).read_text())
    return loaded


def test_ids_and_titles_are_unique() -> None:
    for name in ("id", "title"):
        values = [panel[name] for panel in PANELS]
        assert len(set(values)) == len(values), name


@pytest.mark.parametrize("panel", CHARTS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] in {"timeseries", "stat", "table"}
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {
        "type": "prometheus",
        "uid": _provisioned("datasources/prometheus.yaml")["datasources"][0]["uid"],
    }
    refs = [target["refId"] for target in panel["targets"]]
    assert refs
    assert len(set(refs)) == len(refs)
    assert all(target["expr"] for target in panel["targets"])


def test_panels_do_not_overlap_and_fit_the_width() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        position = panel["gridPos"]
        return set(
            itertools.product(
                range(position["x"], position["x"] + position["w"]),
                range(position["y"], position["y"] + position["h"]),
            )
        )

    titles: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        for cell in cells(panel):
            assert 0 <= cell[0] < 24, panel["title"]
            assert cell not in titles, f"{panel['title']} lies over {titles[cell]}"
            titles[cell] = panel["title"]


def test_every_variable_that_is_used_is_there_and_used() -> None:
    used = {name for panel in CHARTS for t in panel["targets"] for name in re.findall(r"\$(\w+)", t["expr"])}
    assert used - {"__rate_interval"} == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


def test_provisioning_finds_the_dashboard_and_prometheus() -> None:
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (provider,) = _provisioned("dashboards/masklake.yaml")["providers"]
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = _provisioned("datasources/prometheus.yaml")["datasources"]
    published = {int(port.split(":")[-1]) for port in services["prometheus"]["ports"]}
    host, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()  # type: ignore[union-attr]
    assert host in services
    assert int(port) in published


def test_what_is_mounted_is_there() -> None:
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (INFRA / volume.split(":")[0]).exists(), volume

"""The component `monitoring`: what the Prometheus operator and Grafana take up is what compose.yaml has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers.infra.manifests import ROOT, Manifest, build_with, one, pods, problems

PROMETHEUS = ROOT / "infra" / "prometheus"


@pytest.fixture
def manifests(tmp_path: Path) -> list[Manifest]:
    return build_with(tmp_path, "components/monitoring", "components/one-cluster")


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    assert [line for manifest in manifests for line in problems(manifest)] == []


def test_the_rules_are_those_of_compose(manifests: list[Manifest]) -> None:
    rule = one(manifests, "PrometheusRule", "masklake")
    assert rule["spec"] == yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())


def test_every_ray_node_is_scraped_as_compose_does(manifests: list[Manifest]) -> None:
    monitor = one(manifests, "PodMonitor", "masklake-ray")["spec"]
    selected_labels = monitor["selector"]["matchLabels"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    nodes = [
        pod
        for manifest in manifests
        for pod in pods(manifest)
        if {c["name"] for c in pod.spec["containers"]} & {"ray-head", "ray-worker"}
    ]
    assert len(nodes) == 6
    for pod in nodes:
        labels = pod.metadata["labels"] | {"ray.io/is-ray-node": "yes"}  # KubeRay's
        assert selected_labels.items() <= labels.items(), pod.where
        for container in pod.spec["containers"]:  # KubeRay adds the port where none is named
            assert {"metrics"} >= {
                port["name"] for port in container.get("ports", []) if port["containerPort"] == 8080
            }
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (ray,) = [job for job in config["scrape_configs"] if job["job_name"] == "ray"]
    assert endpoint["interval"] == config["global"]["scrape_interval"]
    assert [r["regex"] for r in endpoint["metricRelabelings"]] == [
        r["regex"] for r in ray["metric_relabel_configs"]
    ]
    targets = {r["target_label"] for r in ray["relabel_configs"]}
    assert {r["targetLabel"] for r in endpoint["relabelings"]} == targets == {"ray_io_cluster"}


def test_grafana_is_given_the_dashboard(manifests: list[Manifest]) -> None:
    config_map = one(manifests, "ConfigMap", "masklake-dashboard")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboards = ROOT / "infra" / "grafana" / "dashboards"
    assert json.loads(config_map["data"]["masklake.json"]) == json.loads(
        (dashboards / "masklake.json").read_text()
    )


def test_prometheus_may_come_in(manifests: list[Manifest]) -> None:
    (rule,) = one(manifests, "NetworkPolicy", "metrics")["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8080]

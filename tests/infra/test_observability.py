"""What a run really exports is what the dashboard and the alerts ask for: a run is scraped, and every query held to it."""

from __future__ import annotations

import datetime
import json
import math
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from masklake.jobs.schedule import transitions
from masklake.jobs.schedule.metrics import metrics_served
from masklake.jobs.schedule.store import FAILED, OK, Store, utc
from masklake.model import scenes
from masklake.pipeline.segment.ledger import STAGES
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.infra.promql import named
from tests.helpers.paths import ROOT
from tests.helpers.schedules import schedule
from tests.helpers.servers.ports import free_port

INFRA = ROOT / "infra"
ALERTS = INFRA / "prometheus" / "alerts.yml"
IMAGES = 64


@dataclass
class Exported:
    """All that was scraped: labels and values of each metric, over all scrapes; and a Prometheus that scraped too."""

    labels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    logged: list[dict[str, Any]] = field(default_factory=list)
    """Lines of JSON in the workers' logs."""
    prometheus: str | None = None
    began: float = field(default_factory=time.time)
    seconds: float = 0.0

    def scrape(self, port: int) -> None:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.labels[sample.name] |= sample.labels.keys()
                self.samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value

    def by(self, name: str, *labels: str) -> dict[Any, float]:
        """The last values of a metric, by these labels (one: its value; more: a tuple of theirs)."""
        values = {}
        for key, value in self.samples[name].items():
            label_values = tuple(dict(key)[label] for label in labels)
            values[label_values[0] if len(label_values) == 1 else label_values] = value
        return values


def _fired(folder: Path) -> Store:
    """A store of two schedules: one firing went well, one failed, one is under way, one was missed."""
    store = Store(folder / "schedules.db")
    now = datetime.datetime.now(datetime.UTC)

    def ago(seconds: float) -> datetime.datetime:
        return now - datetime.timedelta(seconds=seconds)

    store.add(schedule(folder, name="nightly", every=60, next_at=utc(ago(180))))
    store.add(schedule(folder, name="late", every=60, next_at=utc(ago(180)), deadline=0.0))
    for seconds_ago, state in ((180, OK), (120, FAILED), (60, None)):
        (nightly,) = [entry for entry in store.schedules() if entry.name == "nightly"]
        firing = transitions.claim(store, nightly, ago(seconds_ago))
        assert firing is not None
        started = transitions.begin(store, firing.id, "token", ago(seconds_ago))
        assert started is not None
        if state:
            transitions.finish(store, started, state, "as it is", ago(seconds_ago - 10), seconds=10.0)
    (late,) = [entry for entry in store.schedules() if entry.name == "late"]
    transitions.claim(store, late, ago(-30))
    return store


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """A run of the demo model, and a store of schedules, scraped while they live."""
    folder = tmp_path_factory.mktemp("observed")
    scenes.write(folder / "scenes", IMAGES, seed=5)
    (folder / "scenes" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    exported = Exported()
    command = [sys.executable, "-m", "tests.helpers.infra.metrics_run", folder / "scenes", folder / "lake"]
    schedules = free_port()
    with (
        metrics_served(_fired(folder), "127.0.0.1", schedules),
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
        ) as run,
    ):
        assert run.stdin is not None
        assert run.stdout is not None
        server = None
        try:
            first_line = run.stdout.readline()
            assert first_line, (folder / "log").read_text()
            ray = int(first_line.split()[0])
            server = _prometheus(folder, {"ray": ray, "masklake-schedule": schedules}, exported)
            while not (line := _line(run.stdout, seconds=1.0)).startswith("done"):
                assert run.poll() is None, (folder / "log").read_text()
                exported.scrape(ray)
            assert line == "done 0\n", (folder / "log").read_text()
            time.sleep(3)  # counters come with the next report
            exported.scrape(ray)
            exported.scrape(schedules)
            for file in Path(first_line.split(" ", 1)[1].strip()).glob("worker-*.err"):
                lines = file.read_text(errors="replace").splitlines()
                exported.logged += [json.loads(line) for line in lines if line.startswith("{")]
            exported.seconds = time.time() - exported.began
            yield exported
        finally:
            run.stdin.close()
            for process in (run, server):
                if process is not None:
                    process.terminate()
                    process.wait(60)


def _line(stream: Any, seconds: float) -> str:
    """The next line, or nothing when there is none for so long."""
    import select

    ready, _, _ = select.select([stream], [], [], seconds)
    return str(stream.readline()) if ready else ""


def _prometheus(folder: Path, ports: dict[str, int], exported: Exported) -> subprocess.Popen[bytes] | None:
    """A Prometheus with the configuration of infra/, but for where its targets are and how often it looks."""
    binary = shutil.which("prometheus")
    if binary is None:
        return None
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ALERTS)]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs" if "dns_sd_configs" in job else "static_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    exported.prometheus = f"http://127.0.0.1:{port}"
    command = [
        binary,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    return subprocess.Popen(command)


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((INFRA / "grafana" / "dashboards" / "masklake.json").read_text())
    return loaded


def charts() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def _plain(expr: str) -> str:
    """A dashboard's query as Grafana sends it, with all runs and models chosen."""
    return (
        expr.replace("$__rate_interval", "15s")
        .replace("$run", ".*")
        .replace("$model", ".*")
        .replace("$cluster", ".*")
    )


DASHBOARD = {
    f"{p['title']} {t['refId']}": (t["expr"], t["legendFormat"]) for p in charts() for t in p["targets"]
}
QUERIES = DASHBOARD | {rule["alert"]: (rule["expr"], "") for rule in alerts()}
_ELSEWHERE = {
    "up": {"job", "instance"},  # Prometheus' own
    # KubeRay's operator: ray-operator/controllers/ray/metrics/ray_job_metrics.go, v1.7.0
    "kuberay_job_deployment_status": {"name", "namespace", "uid", "deployment_status"},
    "kuberay_job_execution_duration_seconds": {
        "name", "namespace", "uid", "job_deployment_status", "retry_count",
    },
    # Ray's, which a node without GPUs and without deaths does not export; its own dashboard asks for them.
    "ray_node_gpus_utilization": {"NodeAddress", "GpuIndex"},
    "ray_node_gram_used": {"NodeAddress", "GpuIndex"},
    "ray_node_gram_available": {"NodeAddress", "GpuIndex"},
    "ray_memory_manager_worker_eviction_total": {"NodeAddress"},
    "ray_node_manager_unexpected_worker_failure_total": {"NodeAddress"},
}  # fmt: skip
_TARGET = {"ray_io_cluster"}
"""Labels that Prometheus gives what it scrapes from Ray (relabel_configs)."""


@pytest.mark.parametrize("name", QUERIES)
def test_every_metric_and_label_that_is_asked_for_is_exported(name: str, exported: Exported) -> None:
    expr, legend = QUERIES[name]
    names = named(expr)
    assert names.selectors
    known: set[str] = set()
    for metric, labels in names.selectors:
        exported_labels = _ELSEWHERE.get(metric) or exported.labels.get(metric)
        assert exported_labels is not None, f"{metric} is not exported"
        exported_labels = exported_labels | (_TARGET if metric.startswith("ray_") else set())
        assert labels <= exported_labels, f"{metric} has no {sorted(labels - exported_labels)}"
        known |= exported_labels
    legend_labels = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert (names.grouping | legend_labels) <= known
    if names.grouping:
        assert legend_labels <= names.grouping


def test_what_only_some_nodes_export_is_what_rays_own_dashboard_asks_for() -> None:
    from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    text = Path(default_dashboard_panels.__file__).read_text()
    for metric, labels in _ELSEWHERE.items():
        if metric.startswith("ray_"):
            assert re.search(rf"\b{metric}\b", text), metric
        if metric.startswith("ray_node_g"):
            assert METRICS_GAUGES[metric.removeprefix("ray_")].name == metric.removeprefix("ray_")
            assert "GpuIndex" in labels


@pytest.mark.parametrize(
    "name",
    [name for name, (expr, _) in DASHBOARD.items() if not any(metric in expr for metric in _ELSEWHERE)],
)
def test_prometheus_has_an_answer_to_every_query(name: str, exported: Exported) -> None:
    if exported.prometheus is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    values = _values(exported, _plain(DASHBOARD[name][0]))
    assert any(not math.isnan(value) for value in values), f"{len(values)} values"


def _values(exported: Exported, expr: str) -> list[float]:
    """Values of the expression at every second of the run, of all its series."""
    query = {"query": expr, "start": exported.began, "end": exported.began + exported.seconds, "step": 1}
    url = f"{exported.prometheus}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    answer = json.load(urllib.request.urlopen(url, timeout=30))  # noqa: S310  # of this machine's Prometheus
    return [float(value) for series in answer["data"]["result"] for _, value in series["values"]]


def test_the_numbers_are_those_of_the_run(exported: Exported) -> None:
    assert exported.by("ray_masklake_images_total", "status") == {"ok": IMAGES, "unreadable": 1}
    (model,) = {labels["model"] for labels in map(dict, exported.samples["ray_masklake_images_total"])}
    assert re.fullmatch(r"demo@[0-9a-f]{12}", model)
    stages = exported.by("ray_masklake_stage_images_total", "stage")
    assert stages == dict.fromkeys(STAGES, IMAGES + 1)
    batches = exported.by("ray_masklake_stage_batches_total", "stage")
    assert batches["infer"] == math.ceil((IMAGES + 1) / 4)
    for name in ("seconds", "cpu_seconds"):
        of_stage = exported.by(f"ray_masklake_stage_{name}_total", "stage")
        assert of_stage.keys() == set(STAGES)
        assert min(of_stage.values()) > 0
    assert exported.by("ray_masklake_run_planned_images", "model") == {model: IMAGES + 1}
    assert exported.by("ray_masklake_runs_total", "state") == {"complete": 1}


def test_labels_are_few(exported: Exported) -> None:
    """A run has a label in gauges alone, which Ray forgets; nothing is labelled by image, object, lake or reason."""
    own = {"run", "model", "status", "stage", "state", "loss", "schedule", "outcome", "le"}
    rays = {"WorkerId", "NodeAddress", "SessionName", "Version", "Component"}
    for name, labels in exported.labels.items():
        if "masklake" in name:
            assert {label for label in labels if not label.startswith("otel_")} <= own | rays, name
            assert not (name.endswith("_total") and "run" in labels), name


def test_of_schedules_the_last_firing_of_each_outcome_is_told(exported: Exported) -> None:
    now = time.time()
    last = exported.by("masklake_schedule_last_firing_timestamp_seconds", "schedule", "outcome")
    assert last.keys() == {("nightly", "ok"), ("nightly", "failed"), ("late", "missed")}
    assert 60 < now - last["nightly", "failed"] < now - last["nightly", "ok"] < 600
    firings = exported.by("masklake_schedule_firings", "schedule", "outcome")
    assert (firings["nightly", "ok"], firings["nightly", "refused"], firings["late", "missed"]) == (1, 0, 1)
    assert exported.by("masklake_schedule_running_since_timestamp_seconds", "schedule").keys() == {"nightly"}
    assert exported.by("masklake_schedule_paused", "schedule") == {"nightly": 0, "late": 0}
    assert exported.by("masklake_schedule_next_timestamp_seconds", "schedule").keys() == {"nightly", "late"}


def test_an_image_that_fails_is_a_line_in_its_workers_log(exported: Exported) -> None:
    (line,) = exported.logged
    (run,) = {dict(key)["run"] for key in exported.samples["ray_masklake_run_planned_images"]}
    assert (line["run"], line["stage"], line["status"]) == (run, "decode", "unreadable")
    assert line["uri"].endswith("/broken.png")
    assert line["reason"]
    assert isinstance(line["image_id"], int)


def test_prometheus_looks_where_compose_has_them_answer() -> None:
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    }
    (nodes,) = jobs["ray"]["dns_sd_configs"]
    for name in nodes["names"]:
        assert f"--metrics-export-port={nodes['port']}" in services[name]["command"]
    (target,) = jobs["masklake-schedule"]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert ["--metrics-host", "0.0.0.0", "--metrics-port", port] == services[host]["command"][-4:]  # noqa: S104  # in a network of its own


def test_what_prometheus_drops_is_nothing_that_is_asked_for() -> None:
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    rules = [rule for job in config["scrape_configs"] for rule in job.get("metric_relabel_configs", [])]
    dropped = [rule["regex"] for rule in rules if rule["action"] == "drop"]
    metrics = {metric for expr, _ in QUERIES.values() for metric, _ in named(expr).selectors}
    assert dropped
    assert not [metric for metric in metrics for regex in dropped if re.fullmatch(regex, metric)]

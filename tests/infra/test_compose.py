"""compose.yaml: by the Compose specification; no secret in it, nothing open to the network, everything bounded."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.infra.dockerfile import stages
from tests.helpers.infra.manifests import SCHEMAS
from tests.helpers.paths import ROOT

INFRA = ROOT / "infra"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = compose["services"]
    return loaded


def problems(compose: dict[str, Any]) -> list[str]:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    errors = jsonschema.Draft202012Validator(schema).iter_errors(compose)
    return [f"{e.json_path}: {e.message}" for e in errors]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_it_is_by_the_specification(name: str) -> None:
    assert problems(yaml.safe_load((INFRA / name).read_text())) == []


def test_a_misspelt_field_is_found(services: dict[str, dict[str, Any]]) -> None:
    assert problems({"services": {"head": services["head"] | {"mem_limits": "1g"}}})


def test_everything_is_there(services: dict[str, dict[str, Any]]) -> None:
    assert services.keys() == {"head", "worker", "schedule", "s3", "buckets", "prometheus", "grafana"}


def test_ports_are_the_loopbacks(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_secrets_come_from_the_environment_and_must_be_there(services: dict[str, dict[str, Any]]) -> None:
    secrets = 0
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("TOKEN|SECRET|PASSWORD|ACCESS_KEY", name):
                assert re.fullmatch(rf"\$\{{{name}:\?.+\}}", value)
                secrets += 1
    assert secrets >= 4


def test_every_variable_is_in_the_example_and_no_secret_has_a_value() -> None:
    used = set(re.findall(r"\$\{(\w+)", (INFRA / "compose.yaml").read_text()))
    example = dict(
        line.split("=", 1) for line in (INFRA / ".env.example").read_text().splitlines() if line[:1].isalpha()
    )
    assert used == example.keys()
    assert all(
        not value for name, value in example.items() if re.search("TOKEN|SECRET|PASSWORD|ACCESS_KEY", name)
    )


def test_the_filled_in_file_stays_out_of_git() -> None:
    assert ".env" in (INFRA / ".gitignore").read_text().splitlines()


def test_containers_are_hardened_and_bounded(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "cap_add"} & service.keys(), name
        assert service["cpus"] > 0, name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert service["restart"] in {"unless-stopped", "on-failure:3"}, name


def test_images_have_exact_tags(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+\.\d+(-cpu)?\}?$", service["image"]), name


def test_masklakes_containers_run_as_the_images_user(services: dict[str, dict[str, Any]]) -> None:
    (user,) = stages(INFRA / "Dockerfile")[-1].all("USER")
    for name in ("head", "worker", "schedule", "s3", "buckets"):
        assert services[name]["user"] == user
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_a_service_that_is_waited_for_says_when_it_is_ready(services: dict[str, dict[str, Any]]) -> None:
    waited_for = {
        dependency
        for service in services.values()
        if isinstance(service.get("depends_on"), dict)
        for dependency, how in service["depends_on"].items()
        if how["condition"] == "service_healthy"
    }
    assert waited_for == {"head", "s3"}
    assert "healthcheck" in services["s3"]
    assert stages(INFRA / "Dockerfile")[-1].all("HEALTHCHECK")  # of Ray nodes


def test_mounted_files_are_the_repositorys(services: dict[str, dict[str, Any]]) -> None:
    mounts = [v.split(":")[0] for service in services.values() for v in service.get("volumes", [])]
    assert {mount for mount in mounts if mount.startswith("./")} == {
        "./prometheus/prometheus.yml", "./prometheus/alerts.yml", "./grafana/provisioning", "./grafana/dashboards"
    }  # fmt: skip

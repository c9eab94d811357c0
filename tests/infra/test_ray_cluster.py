"""ray-cluster.yaml: by Ray's own schema; and as far as `ray up` goes without machines, against moto's EC2."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.infra.dockerfile import stages
from tests.helpers.paths import ROOT
from tests.helpers.servers.moto import Moto

FILE = ROOT / "infra" / "ray-cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` reads it: checked, with its defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready: dict[str, Any] = prepare_config(config)
    validate_config(ready)
    return ready


def ray_start_options(command: str) -> dict[str, Any]:
    """The options of a `ray start` command line, by Ray's own parser."""
    from ray.scripts.scripts import start

    words = shlex.split(command)
    context = start.make_context("start", words[words.index("start") + 1 :])
    options: dict[str, Any] = context.params
    return options


def test_ray_takes_it(config: dict[str, Any]) -> None:
    assert prepared(config)["head_node_type"] == "head"


@pytest.mark.parametrize("where", [(), ("available_node_types", "gpu"), ("auth",)])
def test_a_misspelt_field_is_found(config: dict[str, Any], where: tuple[str, ...]) -> None:
    node = config
    for step in where:
        node = node[step]
    node["misspelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        prepared(config)


def test_workers_are_spot_gpus_that_come_when_needed_and_the_head_is_neither(config: dict[str, Any]) -> None:
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])
    assert re.match(r"g\d", gpu["node_config"]["InstanceType"])


def test_machines_have_a_role_of_their_own_and_keep_it_to_themselves(config: dict[str, Any]) -> None:
    profiles = set()
    for node_type in config["available_node_types"].values():
        machine = node_type["node_config"]
        assert machine["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])
        profiles.add(machine["IamInstanceProfile"]["Arn"])
    assert len(profiles) == 2


def test_ray_makes_no_security_group_since_it_would_be_open_to_the_world(config: dict[str, Any]) -> None:
    assert "security_group" not in config["provider"]
    assert all(n["node_config"]["SecurityGroupIds"] for n in config["available_node_types"].values())


def test_the_start_commands_are_rays_and_ask_for_a_token(config: dict[str, Any]) -> None:
    (head,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    (worker,) = [c for c in config["worker_start_ray_commands"] if "ray start" in c]
    options = ray_start_options(head)
    assert (options["head"], options["num_cpus"], options["dashboard_host"]) == (True, 0, "127.0.0.1")
    assert ray_start_options(worker)["address"] == "$RAY_HEAD_IP:6379"
    assert all("RAY_AUTH_MODE=token" in command for command in (head, worker))
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_composes_start_commands_are_rays() -> None:
    services = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
    assert ray_start_options(shlex.join(services["head"]["command"]))["num_cpus"] == 0
    assert ray_start_options(shlex.join(services["worker"]["command"]))["address"] == "head:6379"


def test_it_installs_as_make_setup_does(config: dict[str, Any]) -> None:
    def sync(text: str) -> set[str]:
        (command,) = re.findall(r"pip sync (.*?)\S*requirements\.lock", text)
        return set(re.findall(r"--[a-z-]+", command))

    makefile_options = sync((ROOT / "Makefile").read_text())
    assert (
        sync("\n".join(config["setup_commands"]))
        == makefile_options
        >= {"--require-hashes", "--compile-bytecode"}
    )


def test_what_the_installation_needs_is_mounted(config: dict[str, Any]) -> None:
    mounts = {source for source in config["file_mounts"].values() if not source.startswith("~")}
    assert all((ROOT / source).exists() for source in mounts)
    copied = {
        source
        for stage in stages(ROOT / "infra" / "Dockerfile")
        if stage.name in {"tools", "wheel"}
        for copy in stage.all("COPY")
        for source in copy.split()[:-1]
    }
    assert mounts == copied - {"infra/image/locks.py"}


def test_ray_up_gets_as_far_as_a_spot_instance(
    config: dict[str, Any], moto_s3: Moto, use_s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key pair, subnets and the first worker; no door is opened."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    use_s3(moto_s3.server)
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes its private key there
    iam, ec2 = moto_s3.server.client("iam"), moto_s3.server.client("ec2")
    group = ec2.create_security_group(GroupName="masklake-ray", Description="Masklake")["GroupId"]
    for node_type in config["available_node_types"].values():
        machine = node_type["node_config"]
        name = machine["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        profile = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        machine |= {"IamInstanceProfile": {"Arn": profile["Arn"]}, "SecurityGroupIds": [group]}

    ready = bootstrap_aws(prepared(config))
    gpu = ready["available_node_types"]["gpu"]["node_config"]
    provider = AWSNodeProvider(ready["provider"], "masklake")
    (node,) = provider.create_node(gpu, {"ray-node-type": "worker", "ray-node-name": "gpu"}, 1).values()

    (instance,) = ec2.describe_instances(InstanceIds=[node.id])["Reservations"][0]["Instances"]
    assert (instance["InstanceType"], instance["InstanceLifecycle"]) == ("g6.2xlarge", "spot")
    assert [g["GroupId"] for g in instance["SecurityGroups"]] == [group]
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"] == []

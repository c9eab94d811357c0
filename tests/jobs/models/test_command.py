"""`masklake models`, and a lake's models as --model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.jobs.models import resolve as models
from masklake.model.errors import ModelError
from masklake.model.presets import fingerprint
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.paths import ROOT
from tests.jobs.labels.test_command import Masklake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint: the demo model under another name."""
    trained = tmp_path / "trained"
    shutil.copytree(ROOT / "model" / "weights" / "demo", trained)
    return renamed(trained, "photos")


def renamed(folder: Path, name: str, **preprocessing: int) -> Path:
    spec = json.loads((folder / "model.json").read_text())
    spec["name"] = name
    spec["preprocessing"] |= preprocessing
    (folder / "model.json").write_text(json.dumps(spec))
    return folder


def test_models_are_added_promoted_and_rolled_back(masklake: Masklake, folder: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    assert masklake("models", "list", lake)[:2] == (0, "no models yet\n")
    first = f"photos@{fingerprint(folder)}"
    assert (
        masklake("models", "add", folder, lake)[1]
        == f"{first} added; masklake models promote {lake} {first}\n"
    )
    assert "is in the lake already" in masklake("models", "add", folder, lake)[1]
    second = f"photos@{fingerprint(renamed(folder, 'photos', max_size=900))}"
    masklake("models", "add", folder, lake)
    assert masklake("models", "promote", lake, first)[1] == f"photos:production is {first} now\n"
    assert masklake("models", "promote", lake, first)[1] == f"photos:production is {first} already\n"
    assert (
        masklake("models", "promote", lake, second)[1]
        == f"photos:production is {second} now; it was {first}\n"
    )
    assert masklake("models", "promote", lake, "production", "--alias", "staging")[0] == 0
    listed = json.loads(masklake("models", "list", lake, "--json")[1])
    assert {entry["model"]: entry["aliases"] for entry in listed} == {
        first: [],
        second: ["production", "staging"],
    }
    assert "did you mean 'production'?" in masklake("models", "show", lake, "prodution")[2]
    with pytest.raises(ModelError, match="did you mean 'staging'"):
        models.resolve("stagging", Storage(), lake=str(lake))
    rows = [line.split() for line in masklake("models", "list", lake)[1].splitlines()[2:]]
    assert sorted(row[:3] for row in rows) == sorted(
        [[first, "-", rows[1][2]], [second, "production,", "staging"]]
    )
    assert (
        masklake("models", "rollback", lake, "photos")[1]
        == f"photos:production is {first} again; it was {second}\n"
    )
    facts = json.loads(masklake("models", "show", lake, "production")[1])
    assert (facts["model"], facts["aliases"], len(facts["moves"])) == (first, ["production"], 4)
    assert facts["spec"]["name"] == "photos"


def test_mistakes_get_one_line(masklake: Masklake, folder: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    masklake("models", "add", folder, lake)
    version = f"photos@{fingerprint(folder)}"
    for args, answer in {
        ("add", tmp_path, lake): "model",
        ("add", "demo", lake): "is a preset",
        ("add", renamed(folder, "a/b"), lake): "model name 'a/b': use letters",
        ("show", lake, "nothing"): "has no model or alias 'nothing'",
        ("show", lake, "photos@000000000000"): "has no version '000000000000'",
        ("promote", lake, "photos:staging"): "has no alias 'staging'",
        ("promote", lake, version, "--alias", "coco"): "is the name of a preset",
        ("promote", lake, version, "--alias", "../x"): "alias name '../x'",
        ("rollback", lake, "photos"): "has no version before",
    }.items():
        code, out, err = masklake("models", *args)
        assert (code, out, len(err.splitlines())) == (2, "", 1), args
        assert answer in err


def test_a_second_model_gets_the_alias_when_the_first_gives_it_back(
    masklake: Masklake, folder: Path, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    masklake("models", "add", folder, lake)
    photos = f"photos@{fingerprint(folder)}"
    masklake("models", "add", renamed(folder, "scans"), lake)
    scans = f"scans@{fingerprint(folder)}"
    masklake("models", "promote", lake, photos)
    code, out, err = masklake("models", "promote", lake, scans)
    assert (code, out, "production is the alias of the model 'photos'" in err) == (2, "", True)
    assert masklake("models", "promote", lake, scans, "--alias", "nightly")[0] == 0
    unalias = ("models", "unalias", lake, "photos", "production")
    assert masklake(*unalias)[:2] == (0, f"photos has no alias production any more; it was {photos}\n")
    code, out, err = masklake(*unalias)
    assert (code, out) == (2, "")
    assert "model 'photos' has no alias 'production' (its aliases: none)" in err
    assert masklake("models", "promote", lake, scans)[1] == f"scans:production is {scans} now\n"


def test_segment_takes_what_the_alias_means(masklake: Masklake, folder: Path, tmp_path: Path) -> None:
    lake, photos = tmp_path / "lake", tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    masklake("models", "add", folder, lake)
    version = f"photos@{fingerprint(folder)}"
    masklake("models", "promote", lake, version)
    for name in ("production", "photos:production", version):
        code, out, _ = masklake("segment", photos, lake, "--model", name, "--dry-run")
        assert (code, out.splitlines()[0]) == (0, f"would run {version} over 1 image, 1 bytes")
    code, _, err = masklake("segment", photos, lake, "--model", "staging", "--dry-run")
    assert (code, f"nor a model or alias of {lake}" in err) == (2, True)


def test_before_the_first_promotion_segment_takes_the_first_model(
    masklake: Masklake, folder: Path, tmp_path: Path
) -> None:
    lake, photos = tmp_path / "lake", tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    nightly = ("segment", photos, lake, "--model", "production", "--first-model", "demo", "--dry-run")
    assert masklake(*nightly)[1].startswith("would run demo@")
    masklake("models", "add", folder, lake)
    assert masklake(*nightly)[1].startswith("would run demo@")
    version = f"photos@{fingerprint(folder)}"
    masklake("models", "promote", lake, version)
    assert masklake(*nightly)[1].startswith(f"would run {version} ")


def test_the_run_records_what_was_asked_and_where_it_lies(
    masklake: Masklake, folder: Path, tmp_path: Path
) -> None:
    lake = str(tmp_path / "lake")
    masklake("models", "add", folder, lake)
    masklake("models", "promote", lake, f"photos@{fingerprint(folder)}")
    record = models.resolve("production", Storage(), lake=lake).record()
    assert record["asked"] == "production"
    assert record["source"] == f"{lake}/models/photos/{fingerprint(folder)}"
    # Resuming reads the source, so that an alias that was moved meanwhile changes nothing.
    assert models.resolve(record["source"], Storage(), lake=lake).fingerprint == record["fingerprint"]
    assert "asked" not in models.resolve("demo", Storage(), lake=lake).record()
    with pytest.raises(ModelError, match="neither a preset"):
        models.resolve("production", Storage())
    with pytest.raises(UserError, match="has no version"):
        models.resolve("photos@000000000000", Storage(), lake=lake)


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_models_in_s3(s3_bucket: Bucket, masklake: Callable[..., object], folder: Path) -> None:
    lake = f"{s3_bucket.uri}/lake"
    masklake("models", "add", folder, lake)
    masklake("models", "promote", lake, f"photos@{fingerprint(folder)}")
    resolved = models.resolve("production", Storage(), lake=lake)
    assert (resolved.spec.name, resolved.fingerprint) == ("photos", fingerprint(folder))

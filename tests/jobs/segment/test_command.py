"""`masklake segment` as a user meets it: the command line, its errors, and lakes over S3 and real photos."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from masklake.jobs.cli import understood
from masklake.jobs.segment import command
from masklake.jobs.segment.command import new_job, resumed_job
from masklake.jobs.segment.options import RowOptions, SegmentOptions
from masklake.model import presets, scenes
from masklake.model.checkpoint import SPEC, WEIGHTS
from masklake.model.engine.precision import fastest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.storage.store import Storage
from PIL import Image

from tests.helpers.contract import check_lake
from tests.helpers.lakes import LakeBuilder

RunCli = Callable[..., Any]
DEMO = ("--model", "demo")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eight scenes and a file that is no image."""
    scenes.write(tmp_path / "scenes", 8, seed=3)
    return tmp_path / "scenes"


def one_line(result: Any, *wanted: str) -> None:
    """A mistake ends with exit code 2 and one line that names what matters, without a traceback."""
    assert result.code == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("masklake: error: ")
    for text in wanted:
        assert text in lines[0]


def rows(lake: Path, table: str) -> list[dict]:
    return ds.dataset(lake / table, format="parquet", partitioning=None).to_table().to_pylist()


def test_a_folder_becomes_a_lake(source: Path, tmp_path: Path, run_cli: RunCli) -> None:
    result = run_cli("segment", source, "lake", *DEMO)
    assert result.code == 0, result.stdout + result.stderr
    assert "complete: 8 of 8 images in the lake" in result.stdout
    assert "ignored 1 object not named" in result.stdout
    check_lake(tmp_path / "lake")
    images, instances = rows(tmp_path / "lake", "images"), rows(tmp_path / "lake", "instances")
    assert sorted(row["image_id"] for row in images) == list(range(8))
    assert {row["status"] for row in images} == {"ok"}
    assert sum(row["n_instances"] for row in images) == len(instances) > 8
    assert {row["label"] for row in instances} <= {name for _, name in _classes()}
    for row in instances:
        assert (row["keypoints"] is not None) == (row["label"] == "person")
    record = json.loads(next((tmp_path / "lake" / "runs").glob("*/run.json")).read_text())
    assert record["state"] == "complete"
    infer, used = record["stages"]["infer"], fastest(torch.device("cpu"))
    assert record["options"]["precision"] == "auto"
    assert infer[f"{used}_workers"] == infer["workers"]
    assert f"\n  in {used}\n" in result.stdout
    assert record["counts"] == {"ok": 8}
    assert record["verification"]["missing"] == 0
    assert set(record["stages"]) == {"fetch", "decode", "infer", "encode", "write"}
    assert record["stages"]["infer"]["idle_seconds"] >= 0

    again = run_cli("segment", source, "lake", *DEMO)
    assert again.code == 0
    assert "nothing to do: finished runs with this model cover all 8 images" in again.stdout
    left = next((tmp_path / "lake" / "runs").glob("*/options.toml"))
    assert "nothing to do" in run_cli("segment", "--config", left).stdout, "it says the same again"
    planned = run_cli("segment", source, "lake", *DEMO, "--dry-run")
    assert "would run demo@" in planned.stdout
    assert "over 0 images" in planned.stdout
    other = run_cli("segment", source, "lake", *DEMO, "--dry-run", "--score", "0.5")
    assert "over 8 images" in other.stdout, "other options make other rows"


@pytest.mark.parametrize(("options", "target"), [((), (256, 448)), (("--precision", "exact"), None)])
def test_exact_is_of_whole_jpegs(
    options: tuple[str, ...], target: tuple[int, int] | None, source: Path, tmp_path: Path
) -> None:
    """A fraction of a JPEG is another image than the one that torchvision sees."""
    line = understood(["segment", str(source), str(tmp_path / "lake"), *DEMO, *options])
    job, _ = command.new_job(line.options)
    assert job.decode.target == target
    assert job.record.options["full_decode"] == (target is None)


def _classes() -> list[tuple[int, str]]:
    return [(c.id, c.name) for c in presets.describe("demo").classes]


def test_dry_run_writes_nothing(source: Path, tmp_path: Path, run_cli: RunCli) -> None:
    result = run_cli("segment", source, "lake", *DEMO, "--dry-run", "--limit", "3")
    size = sum(p.stat().st_size for p in sorted(source.glob("*.jpg"))[:3])
    assert result.code == 0
    assert f"over 3 images, {size:,} bytes" in result.stdout
    assert not (tmp_path / "lake").exists()


def test_score_classes_and_max_detections_shape_the_rows(
    source: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    result = run_cli(
        "segment",
        source,
        "lake",
        *DEMO,
        "--score",
        "0.4",
        "--classes",
        "person,star",
        "--max-detections",
        "2",
    )
    assert result.code == 0, result.stdout + result.stderr
    instances = rows(tmp_path / "lake", "instances")
    assert instances
    assert {row["label"] for row in instances} <= {"person", "star"}
    assert all(row["score"] >= 0.4 for row in instances)
    assert max(row["n_instances"] for row in rows(tmp_path / "lake", "images")) <= 2


def test_large_images_by_tiles(tmp_path: Path, run_cli: RunCli) -> None:
    """A scene of four, as JPEG and so that a decoder might make it smaller; seams go through all four."""
    (tmp_path / "large").mkdir()
    parts = [scenes.scene(5, index, (240, 240)) for index in (1, 2, 3, 5)]
    image = np.concatenate(
        [np.concatenate([p.image for p in parts[first : first + 2]], axis=1) for first in (0, 2)]
    )
    Image.fromarray(image.repeat(2, 0).repeat(2, 1)).save(tmp_path / "large" / "a.jpg", quality=95)
    tiles = ("--tile", "512", "--overlap", "64")
    result = run_cli("segment", "large", "lake", *DEMO, "--score", "0.5", *tiles)
    assert result.code == 0, result.stdout + result.stderr
    check_lake(tmp_path / "lake")
    instances = rows(tmp_path / "lake", "instances")
    n = sum(len(part.instances) for part in parts)
    assert 0.8 * n <= len(instances) <= 2 * n
    assert all(row["mask"]["size"] == [960, 960] for row in instances)
    again = run_cli("segment", "large", "lake", *DEMO, "--score", "0.5", "--dry-run", *tiles)
    assert "over 0 images" in again.stdout
    whole = run_cli("segment", "large", "lake", *DEMO, "--score", "0.5", "--dry-run", "--tile", "0")
    assert "over 1 image," in whole.stdout, "tiles make other rows"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("scenes/", "lake", *DEMO, "--tile", "5"), ("tiles of 5 pixels", "64 or more")),
        (("scenes/", "lake", *DEMO, "--tile", "256", "--overlap", "128"), ("overlap of 128", "16 to 127")),
        (("scenes/", "lake", *DEMO, "--overlap", "2000"), ("tiles of 1024",)),
        (("empty/", "lake", *DEMO), ("empty/", "holds no images", "check the prefix")),
        (("absent/", "lake", *DEMO), ("absent/", "does not exist")),
        (("scenes/", "scenes/lake", *DEMO), ("scenes/lake", "lies inside the source")),
        (("lake/images/x", "lake", *DEMO), ("lies inside the lake",)),
        (("other", "lake", *DEMO), ("other", "is a lake", "SOURCE comes first")),
        (("scenes/", "lake", "--model", "nosuch"), ("nosuch", "demo, coco")),
        (
            ("scenes/", "lake", *DEMO, "--classes", "person,dog"),
            ("dog", "demo knows no such class", "circle"),
        ),
        (("scenes/", "lake", *DEMO, "--resume", "last"), ("lake", "no such directory")),
        (
            ("scenes/", "lake", "--model", "coco", "--weights-dir", "empty"),
            ("maskrcnn_resnet50_fpn_v2_coco",),
        ),
        (("s3:///x", "lake", *DEMO), ("no bucket",)),
        (("nosuch://x", "lake", *DEMO), ("nosuch",)),
        (("scenes/annotations.json", "lake", *DEMO), ("not named as images are", "--every-object")),
        (("scenes/", "scenes/scene-000000.jpg/lake", *DEMO), ("lies inside the source",)),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(
    source: Path, tmp_path: Path, run_cli: RunCli, arguments: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    LakeBuilder(str(tmp_path / "other")).record("20261101T000000-aaaaaa")
    one_line(run_cli("segment", *arguments), *wanted)
    assert not (tmp_path / "lake").exists()
    assert not (source / "lake").exists()


def test_debug_shows_the_traceback(tmp_path: Path, run_cli: RunCli) -> None:
    result = run_cli("segment", "absent/", "lake", *DEMO, "--debug")
    assert result.code != 0
    assert "Traceback" in result.stderr


def test_corrupt_weights_are_refused_before_anything_is_written(
    source: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    model = tmp_path / "model"
    shutil.copytree(Path(presets.__file__).parent / "weights" / "demo", model)
    whole = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    one_line(run_cli("segment", source, "lake", "--model", model), WEIGHTS)
    (model / WEIGHTS).write_bytes(whole)
    spec = json.loads((model / SPEC).read_text())
    spec["classes"].append({"id": 99, "name": "extra", "keypoints": False})
    (model / SPEC).write_text(json.dumps(spec))
    one_line(run_cli("segment", source, "lake", "--model", model), str(model))
    assert not (tmp_path / "lake").exists()


def test_a_lake_of_a_newer_schema_is_left_alone(source: Path, tmp_path: Path, run_cli: RunCli) -> None:
    run = tmp_path / "lake" / "runs" / "20990101T000000-abcdef"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"schema_version": 99, "run": run.name}))
    one_line(run_cli("segment", source, "lake", *DEMO), "99", "upgrade")
    assert [p.name for p in (tmp_path / "lake").iterdir()] == ["runs"]


def test_resuming_keeps_the_sizes_that_were_given(source: Path, tmp_path: Path) -> None:
    """As --commit-images: another size would not write other rows, but the user chose it for the whole run."""
    builder = LakeBuilder(str(tmp_path / "lake"))
    started, _ = new_job(SegmentOptions(source=str(source), lake=builder.uri, model="demo", commit_images=7))
    assert started.record.sizes == {"commit_images": 7}
    RunFolder(builder.uri, started.record.run, Storage()).save(
        dataclasses.replace(started.record, state="stopped")
    )
    again = SegmentOptions(source=str(source), lake=builder.uri, resume="last")
    assert resumed_job(again)[0].record.sizes == {"commit_images": 7}
    more = dataclasses.replace(again, commit_images=9, batch_size=2)
    assert resumed_job(more)[0].record.sizes == {"commit_images": 9, "batch_size": 2}


def test_how_many_proposals_is_recorded_and_reaches_the_predictor(source: Path, tmp_path: Path) -> None:
    options = SegmentOptions(
        source=str(source), lake=str(tmp_path / "lake"), model="demo", rows=RowOptions(proposals=9)
    )
    job, _ = new_job(options)
    assert job.record.options["proposals"] == 9
    assert job.predictor.proposals == 9


def test_runs_in_8_bits_share_the_calibration_that_the_first_has_made(source: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    options = SegmentOptions(
        source=str(source), lake=str(lake), model="demo", dry_run=True, rows=RowOptions(precision="int8")
    )
    assert new_job(options)[0].record.options["calibration"] is None
    assert not lake.exists(), "a dry run writes nothing"
    options = dataclasses.replace(options, dry_run=False)
    first, second = new_job(options)[0], new_job(options)[0]
    assert first.record.covers == second.record.covers
    assert first.predictor.calibration == second.predictor.calibration
    assert first.predictor().predict([scenes.scene(1, 0).image])
    [kept] = (lake / "calibrations").iterdir()
    assert first.record.options["calibration"] in hashlib.sha256(kept.read_bytes()).hexdigest()
    RunFolder(str(lake), first.record.run, Storage()).save(dataclasses.replace(first.record, state="stopped"))
    again = SegmentOptions(source=str(source), lake=str(lake), resume="last")
    assert resumed_job(again)[0].predictor.calibration == first.predictor.calibration
    kept.write_text(kept.read_text().replace('"levels": ', '"levels":  '))
    with pytest.raises(UserError, match="was begun with another calibration"):
        resumed_job(again)


def test_resuming_keeps_the_options_that_decide_the_rows(
    source: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    assert run_cli("segment", source, "lake", *DEMO).code == 0
    path = next((tmp_path / "lake" / "runs").glob("*/run.json"))
    record = json.loads(path.read_text()) | {"state": "stopped"}
    path.write_text(json.dumps(record))
    one_line(run_cli("segment", source, "lake", "--resume", "last", "--score", "0.9"), "score", "0.05", "0.9")
    one_line(run_cli("segment", tmp_path, "lake", "--resume", "last"), "source")
    one_line(run_cli("segment", source, "lake", "--resume", "last", "--tile", "0"), "tile", "None", "0")
    one_line(
        run_cli("segment", source, "lake", "--resume", "last", "--proposals", "9"), "proposals None", "9"
    )
    for name in ("tile", "overlap", "proposals"):  # what an older run lacks
        del record["options"][name]
    path.write_text(json.dumps(record))
    one_line(run_cli("segment", source, "lake", "--resume", "last", "--tile", "512"), "tile 0", "512")
    record["model"]["fingerprint"] = "000000000000"
    path.write_text(json.dumps(record))
    one_line(run_cli("segment", source, "lake", "--resume", "last"), "000000000000")
    one_line(run_cli("segment", source, "lake", "--resume", "nosuch"), "nosuch", path.parent.name)


@pytest.mark.parametrize(
    "options",
    [
        ("--score", "2"),
        ("--actors", "3:1"),
        ("--limit", "0"),
        ("--classes", ","),
        ("--tile", "x"),
        ("--overlap", "0"),
    ],
)
def test_options_are_checked_where_they_are_typed(options: tuple[str, str], run_cli: RunCli) -> None:
    result = run_cli("segment", "a", "b", *options)
    assert result.code == 2
    assert f"argument {options[0]}" in result.stderr


def test_s3_mistakes(s3_bucket: Any, use_s3: Callable[[Any], None], tmp_path: Path, run_cli: RunCli) -> None:
    s3_bucket.put("photos/a.jpg", b"not an image")
    photos = f"{s3_bucket.uri}/photos/"
    one_line(
        run_cli("segment", "s3://absent-bucket-of-masklake/x/", "lake", *DEMO),
        "absent-bucket-of-masklake",
        "does not exist",
    )
    one_line(run_cli("segment", f"{s3_bucket.uri}/other/", "lake", *DEMO), "holds no images")
    one_line(run_cli("segment", photos, "lake", *DEMO, env={"AWS_SECRET_ACCESS_KEY": "wrong"}), "credentials")
    assert not (tmp_path / "lake").exists()
    one_line(
        run_cli("segment", photos, "s3://absent-bucket-of-masklake/lake", *DEMO), "absent-bucket-of-masklake"
    )
    use_s3(s3_bucket.guest)
    one_line(run_cli("segment", photos, "lake", *DEMO), "permission denied")
    s3_bucket.allow_guest("s3:ListBucket", "s3:GetObject")
    one_line(
        run_cli("segment", photos, f"{s3_bucket.uri}/lake", *DEMO), "cannot write to the lake", "s3:PutObject"
    )
    use_s3(s3_bucket.server)
    assert s3_bucket.all_keys() == ["photos/a.jpg"]


@pytest.mark.slow
def test_s3_to_s3_with_hostile_keys_and_broken_images(
    s3_bucket: Any, tmp_path: Path, run_cli: RunCli
) -> None:
    path = tmp_path / "one.jpg"
    Image.fromarray(scenes.scene(5, 0).image).save(path)
    image = path.read_bytes()
    keys = [
        "a b.jpg",
        "100%25.jpg",
        "a+b#c?.jpg",
        "ünï/ço\u0301de.jpg",
        "quo'te\".jpg",
        ".hidden.jpg",
        "[x]*.jpg",
        "a//b.jpg",
        "noext",
    ]
    for key in keys:
        s3_bucket.put(f"in/{key}", image)
    for key in ("in/zero.jpg", "in/folder/"):
        s3_bucket.put(key, b"")
    s3_bucket.put("in/cut.jpg", image[:2000])
    s3_bucket.put("in/text.jpg", b"hello, this is text")
    s3_bucket.put("in/readme.md", b"ignored")
    lake = f"{s3_bucket.uri}/lake"
    result = run_cli("segment", f"{s3_bucket.uri}/in/", lake, *DEMO)
    assert result.code == 0, result.stdout + result.stderr
    queried = run_cli(
        "query", "select uri, status, error, n_instances from images", "--lake", lake, "--format", "json"
    )
    by_uri = {row["uri"]: row for row in json.loads(queried.stdout)}
    assert set(by_uri) == {f"{s3_bucket.uri}/in/{k}" for k in [*keys, "zero.jpg", "cut.jpg", "text.jpg"]}
    good = [by_uri[f"{s3_bucket.uri}/in/{key}"] for key in keys]
    assert {row["status"] for row in good} == {"ok"}
    assert len({row["n_instances"] for row in good}) == 1
    assert by_uri[f"{s3_bucket.uri}/in/zero.jpg"]["status"] == "unreadable"
    assert by_uri[f"{s3_bucket.uri}/in/cut.jpg"]["status"] == "unreadable"
    assert by_uri[f"{s3_bucket.uri}/in/text.jpg"]["status"] == "unsupported"
    assert all(by_uri[f"{s3_bucket.uri}/in/{k}.jpg"]["error"] for k in ("zero", "cut", "text"))
    secrets = (s3_bucket.server.secret_key, s3_bucket.server.access_key)
    for key in s3_bucket.all_keys("lake/"):
        data = s3_bucket.get(key)
        assert not any(secret.encode() in data for secret in secrets), f"{key} holds a credential"


@pytest.mark.slow
def test_all_the_photos(photos: Path, tmp_path: Path, run_cli: RunCli) -> None:
    result = run_cli("segment", photos / "images", "lake", *DEMO, timeout=500)
    assert result.code == 0, result.stdout + result.stderr
    truth = json.loads((photos / "instances.json").read_text())["images"]
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in truth}
    images = rows(tmp_path / "lake", "images")
    assert len(images) == len(sizes) == 386
    assert {row["status"] for row in images} == {"ok"}
    assert {Path(row["uri"]).name: (row["width"], row["height"]) for row in images} == sizes


@pytest.mark.slow
def test_the_composed_coco_model_from_a_weights_folder(photos: Path, tmp_path: Path, run_cli: RunCli) -> None:
    """Random weights, but the published architecture, file names, classes and keypoints, end to end."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import detection

    torch.manual_seed(0)
    weights = tmp_path / "weights"
    weights.mkdir()
    for build, name in (
        (detection.maskrcnn_resnet50_fpn_v2, presets.DETECTOR_WEIGHTS),
        (detection.keypointrcnn_resnet50_fpn, presets.KEYPOINTS_WEIGHTS),
    ):
        module = build(weights=None, weights_backbone=None)
        tensors = {k: v.contiguous() for k, v in module.state_dict().items()}
        # Random features decide nothing about the class: every box is a person.
        tensors["roi_heads.box_predictor.cls_score.weight"].zero_()
        tensors["roi_heads.box_predictor.cls_score.bias"][1] += 3.0
        save_file(tensors, weights / f"{Path(name).stem}.safetensors")
    result = run_cli(
        "segment", photos / "images", "lake", "--weights-dir", weights, "--limit", "2", "--score", "0", "--max-detections", "5",
        timeout=500,
    )  # fmt: skip
    assert result.code == 0, result.stdout + result.stderr
    instances = rows(tmp_path / "lake", "instances")
    assert instances
    persons = [row for row in instances if row["label"] == "person"]
    assert persons
    assert all(len(row["keypoints"]) == 17 for row in persons)
    assert all(np.isfinite([keypoint["score"] for keypoint in row["keypoints"]]).all() for row in persons)

"""Exports in object storage: the same files as on disk, and never half of them taken for whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.export import uploads
from masklake.pipeline.export.folder import MANIFEST
from masklake.pipeline.export.formats import FORMATS, export
from masklake.pipeline.export.remote import BEGUN, writing_at
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.exports import contents, detected, labelled, written

pytestmark = pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)


def test_every_format_is_the_same_as_on_disk(s3_bucket: Bucket, tmp_path: Path) -> None:
    images = [detected(image.labels, *[0.5] * len(image.instances)) for image in labelled()]
    for format_ in FORMATS:
        written(tmp_path / format_, format_, images)
        with writing_at(f"{s3_bucket.uri}/{format_}/", Storage(), overwrite=False) as folder:
            export(format_, images, contents(images), folder)
            folder.manifest = {"format": format_}
        keys = s3_bucket.all_keys(f"{format_}/")
        manifest = f"{format_}/{MANIFEST}"
        assert json.loads(s3_bucket.get(manifest)) == {"format": format_}
        files = {key: s3_bucket.get(key) for key in keys if key != manifest}
        on_disk = [path for path in (tmp_path / format_).rglob("*") if path.is_file()]
        assert files == {str(path.relative_to(tmp_path)): path.read_bytes() for path in on_disk}


def test_large_files_are_sent_in_parts(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "WHOLE_BYTES", 2**20)
    monkeypatch.setattr(uploads, "_PART_BYTES", 5 * 2**20)
    data = bytes(range(256)) * 2**12
    with writing_at(f"{s3_bucket.uri}/out", Storage(), overwrite=False) as folder:
        with folder.open("large.bin", "wb") as file:
            for _ in range(12):
                file.write(data)
            assert file.tell() == 12 * len(data)
            assert s3_bucket.all_keys() == [f"out/{BEGUN}"]
        assert s3_bucket.get("out/large.bin") == data * 12
    assert s3_bucket.all_keys() == ["out/large.bin", f"out/{MANIFEST}"]


def test_after_an_error_nothing_is_left(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "WHOLE_BYTES", 100)
    with (
        pytest.raises(ZeroDivisionError),
        writing_at(f"{s3_bucket.uri}/out", Storage(), overwrite=False) as folder,
    ):
        folder.open("small.txt").close()
        streamed = folder.open("large.bin", "wb")
        streamed.write(bytes(10**6))
        folder.list_image("a", "s3://p/a", "train")
        raise ZeroDivisionError
    streamed.close()
    assert s3_bucket.all_keys() == []
    assert "Uploads" not in s3_bucket.client.list_multipart_uploads(Bucket=s3_bucket.name)


def test_a_killed_export_is_told_and_replaced_when_asked(s3_bucket: Bucket) -> None:
    uri = f"{s3_bucket.uri}/out"
    with writing_at(uri, Storage(), overwrite=False) as folder, folder.open("old.txt"):
        pass
    seen: dict[str, bytes] = {}
    with writing_at(uri, Storage(), overwrite=True) as folder:
        folder.open("half.txt").close()
        folder.uploads._threads.shutdown()  # type: ignore[attr-defined]  # all that is under way is there
        seen = {key: s3_bucket.get(key) for key in s3_bucket.all_keys()}
    assert seen.keys() == {
        f"out/{BEGUN}",
        "out/half.txt",
    }  # as SIGKILL would leave it: no manifest, old or new
    s3_bucket.client.delete_object(Bucket=s3_bucket.name, Key=f"out/{MANIFEST}")
    for key, data in seen.items():
        s3_bucket.put(key, data)
    with (
        pytest.raises(UserError, match=r"an export that began there at 20.* was killed, or is still at work"),
        writing_at(uri, Storage(), overwrite=False),
    ):
        pass
    with writing_at(uri, Storage(), overwrite=True):
        pass
    assert s3_bucket.all_keys() == [f"out/{MANIFEST}"]


def test_two_exports_never_mix(s3_bucket: Bucket) -> None:
    """The later one was told to replace what is there; the earlier does not declare the mixture whole, nor removes it."""
    uri = f"{s3_bucket.uri}/out"
    with (
        pytest.raises(UserError, match="another export has begun there meanwhile"),
        writing_at(uri, Storage(), overwrite=False) as first,
    ):
        first.open("first.txt").close()
        with writing_at(uri, Storage(), overwrite=True) as second:
            second.open("second.txt").close()
    assert {f"out/{MANIFEST}", "out/second.txt"} <= set(s3_bucket.all_keys())


def test_foreign_objects_are_never_replaced(s3_bucket: Bucket) -> None:
    s3_bucket.put("out/thesis.tex")
    with (
        pytest.raises(UserError, match="holds files that no export wrote"),
        writing_at(f"{s3_bucket.uri}/out", Storage(), overwrite=True),
    ):
        pass
    assert s3_bucket.all_keys() == ["out/thesis.tex"]


def test_an_empty_folder_of_a_console_is_free(s3_bucket: Bucket) -> None:
    s3_bucket.put("out/", b"")
    with pytest.raises(ZeroDivisionError), writing_at(f"{s3_bucket.uri}/out", Storage(), overwrite=False):
        raise ZeroDivisionError
    assert s3_bucket.all_keys() == ["out/"]
    with writing_at(f"{s3_bucket.uri}/out", Storage(), overwrite=False):
        pass
    assert s3_bucket.all_keys() == ["out/", f"out/{MANIFEST}"]


def test_a_refusal_is_one_line(s3_bucket: Bucket, use_s3: Callable[..., None]) -> None:
    s3_bucket.allow_guest("s3:ListBucket", "s3:GetObject")
    use_s3(s3_bucket.guest)
    with (
        pytest.raises(UserError, match="cannot write the export: permission denied"),
        writing_at(f"{s3_bucket.uri}/out", Storage(), overwrite=False),
    ):
        pass

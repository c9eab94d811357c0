"""What names forgotten images beside the tables: manifests, records, lists, and review tasks, exports and previews that lie in the lake."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import PurePosixPath

from masklake.pipeline.lake import forgotten, row_pack
from masklake.pipeline.lake.forgotten import RowlessImages
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.record_pack import PACK
from masklake.pipeline.lake.replacements import FOLDER, OBJECT
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.covered import summarise
from masklake.pipeline.segment.manifest import Manifest
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import UNFINISHED_S, join
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.crash_points import reach
from masklake.pipeline.tend.mentions import Mentions
from masklake.pipeline.tend.replacing import Tending

_TABLES = ("images", "instances", "labels")
_PART = re.compile(r"(?:images|instances)/run=([^/]+)/([^/]+)|labels()/([^/]+)")
_COVERED = re.compile(r"runs/[^/]+/covered/.*")
_WEIGHTS = frozenset({".safetensors", ".pt", ".pth", ".npz", ".npy"})
_PIXELS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".gif", ".bmp", ".heic", ".jp2"}
)
_ABANDONED = re.compile(r"(?:.*/)?\.[^/]+\.[0-9a-f]{8}\.tmp")
_ABANDONED_AFTER = datetime.timedelta(seconds=UNFINISHED_S)
_LARGEST = 2**29
_ICEBERG = (".avro", ".metadata.json")


@dataclass(kw_only=True)
class Traces:
    """Objects of the lake beside its tables."""

    pruned: list[str] = field(default_factory=list)
    """Those that name the images among others: only that goes."""
    removed: list[str] = field(default_factory=list)
    """Those that are of the images, or that name them in a way that cannot be taken out."""
    unsearched: list[str] = field(default_factory=list)
    """Those that were not looked into: too large, or an Iceberg table's, which would be broken."""
    photos: list[str] = field(default_factory=list)
    """The images themselves, where they lie in the lake's folder. They are their owner's, and stay."""

    def add(self, more: Traces) -> None:
        """Take in what another look has found."""
        for each in fields(self):
            known = getattr(self, each.name)
            known += [uri for uri in getattr(more, each.name) if uri not in known]


def remove(tending: Tending, chosen: Chosen, *, dry_run: bool = False) -> Traces:
    """Take the traces of `chosen` out of the lake. It may be called again after an interruption."""
    lake = Lake(tending.lake, tending.storage)
    traces, mentions = Traces(), Mentions(chosen)
    counted = {(table, part.run, part.name) for table in _TABLES for part in lake.parts(table)}
    if not dry_run:
        note_rowless(lake, chosen)
    for info, path in _others(lake, counted):
        if chosen.has(info.uri):
            traces.photos.append(info.uri)
            continue
        while (change := _change(tending, info, path, mentions, traces)) is not None:
            if not dry_run and not _replaced(tending, info.uri, change):
                continue  # somebody has written it anew: look again
            (traces.removed if change.kept is None else traces.pruned).append(info.uri)
            if not dry_run:
                reach("trace removed")
                tending.say(
                    f"other objects that they are taken out of: {len(traces.pruned) + len(traces.removed):,}"
                )
            break
    return traces


@dataclass(frozen=True)
class _Change:
    """What becomes of an object: None where it goes as a whole; else it has the version `etag`."""

    kept: bytes | None
    etag: str | None = None


def _change(
    tending: Tending, info: ObjectInfo, path: str, mentions: Mentions, traces: Traces
) -> _Change | None:
    """The change of an object that names the images; None where it stays as it is."""
    if _ABANDONED.fullmatch(path):
        old = info.modified is not None and tending.now() - info.modified > _ABANDONED_AFTER
        return _Change(None) if old else None
    if mentions.in_text(path):
        return _Change(None)
    if PurePosixPath(path).suffix.lower() in _WEIGHTS | _PIXELS:
        return None
    if (info.size is not None and info.size > _LARGEST) or path.endswith(_ICEBERG):
        traces.unsearched.append(info.uri)
        return None
    with explaining(info.uri, "read it"):
        try:
            fetched = tending.storage.fetch(info.uri)
        except FileNotFoundError:
            return None
    kept = mentions.pruned_file(path, fetched.data)
    if kept == fetched.data:
        return None
    # A part beside the tables' counted ones is left of a killed attempt.
    return _Change(None if _PART.fullmatch(path) else kept, fetched.etag)


def _replaced(tending: Tending, uri: str, change: _Change) -> bool:
    """Make the change; False where another process has changed the object since it was read."""
    with explaining(uri, "write it without them"):
        if change.kept is not None:
            return tending.storage.replace(uri, change.kept, change.etag or "")
        tending.storage.delete(uri)
        return True


def _others(lake: Lake, counted: set[tuple[str, str, str]]) -> Iterator[tuple[ObjectInfo, str]]:
    """Every object of the lake but the parts that count, with its path below the lake."""
    with explaining(lake.uri, "list it"):
        for info in lake.storage.walk(lake.uri):
            path = info.uri.removeprefix(lake.uri).lstrip("/")
            if (
                path.startswith((f"{FOLDER}/", f"{forgotten.FOLDER}/", f"{row_pack.FOLDER}/", "locks/"))
                or path == OBJECT
                or _COVERED.fullmatch(path)
            ):
                continue
            match = _PART.fullmatch(path)
            if match and (path.partition("/")[0], match[1] or "", match[2] or match[4]) in counted:
                continue
            yield info, path


def note_rowless(lake: Lake, chosen: Chosen) -> None:
    """Note, for runs that may be resumed, which of their images are not missing but forgotten."""
    for run in lake.runs():
        if run.record is None or run.record.state == "complete":
            continue
        folder = RunFolder(lake.uri, run.id, lake.storage)
        with explaining(folder.forgotten_uri, "note which images are forgotten"):
            ids: set[int] = set()
            for part in Manifest(folder.manifest_uri, lake.storage).parts():
                ids.update(part["image_id"].filter(chosen.among(part["uri"])).to_pylist())
            RowlessImages.note(folder, ids)


def renew_summaries(tending: Tending, runs: set[str], *, recount: bool) -> None:
    """Let the records of complete `runs` speak for the parts that are in place now, and renew their digests.

    `recount`: rows have gone, so that the record counts them anew.
    """
    lake = Lake(tending.lake, tending.storage)
    for run in lake.runs(sorted(runs & set(lake.run_ids()))):
        if run.record is None or run.record.state != "complete":
            continue
        folder = RunFolder(lake.uri, run.id, lake.storage)
        with explaining(folder.record_uri, "write the run's record"):
            tally, summary = summarise(folder)
            record = replace(run.record, parts=asdict(summary))
            if recount:
                record = replace(record, counts=dict(tally.counts), instances=tally.instances)
            folder.amend(record)
            for uri in lake.storage.list(join(lake.uri, "runs", run.id, "covered")):
                number = re.search(r"part-(\d+)\.parquet$", uri)
                if number and int(number[1]) >= summary.covered_parts:
                    lake.storage.delete(uri)


def remove_pack(tending: Tending) -> None:
    """Remove the copy of all runs' records: it is made again when it is wanted."""
    uri = join(tending.lake, "runs", PACK)
    with explaining(uri, "delete it"):
        tending.storage.delete(uri)


def remove_run(tending: Tending, run: str) -> list[str]:
    """Remove all objects of a run, its record last. Returns their URIs."""
    folders = [join(tending.lake, table, f"run={run}") for table in ("images", "instances")]
    folders.append(join(tending.lake, "runs", run))
    uris = [uri for folder in folders for uri in tending.storage.list(folder)]
    # The claim of a last attempt, for nobody, stays: a worker that outlived the run's driver commits nothing then.
    claims = sorted(uri for uri in uris if "/attempts/" in uri)
    with explaining(folders[-1], "read its attempts"):
        if claims and not json.loads(tending.storage.read(claims[-1]))["host"]:
            uris.remove(claims[-1])
    uris.sort(key=lambda uri: uri.endswith("/run.json"))
    for uri in uris:
        with explaining(uri, "delete it"):
            tending.storage.delete(uri)
        reach("trace removed")
    return uris

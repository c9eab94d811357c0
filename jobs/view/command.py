"""`masklake view`: a gallery of a lake, as a server or as a folder of files."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.terminal.bar import with_bar
from masklake.jobs.view.options import ViewOptions
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.lake.lake import Lake

SUMMARY = "look at a lake in a browser: photos with masks, boxes, skeletons; filters; two runs, or labels, side by side"
DESCRIPTION = """\
A gallery of the lake's photos with what was detected and labelled: filter by class, score, status, size, run and split, sort
by doubt (instances with scores from 0.3 to 0.7), count or time. A click opens one image: its instances to be switched
on and off, keypoints by name, the SQL that gives its rows. Compare two runs, or labels with detections: matched, missed,
invented, with the IoU. Every view is an address that can be sent.

Without --out, a server on this machine pages through a lake of any size; Ctrl-C ends it. With --out DIR the gallery is a
folder of files: copy it to any bucket or disk, and open index.html. Nothing is loaded from elsewhere, and it has pictures
in place of the photos, --side pixels at most."""
EPILOG = """\
examples:
  masklake view s3://lake
  masklake view s3://lake --out gallery/ --where "label = 'person' and score > 0.5" --limit 500
  masklake view s3://lake --out gallery/ --sort doubt --against 20261101T000000-aaaaaa"""


def run(options: ViewOptions) -> int:
    """Serve until Ctrl-C, or write. Raises UserError where the lake cannot be read, or DIR is not free."""
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    lake.require()
    return _serve(options) if options.out is None else _write(options, lake, options.out)


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=ViewOptions, run=run)


def _serve(options: ViewOptions) -> int:
    from masklake.jobs.query.database import Database
    from masklake.jobs.serving.local_server import serve
    from masklake.jobs.view.server import GalleryServer, ServedLake
    from masklake.pipeline.lake.lake import Lake

    storage = options.storage.open()
    served = ServedLake(lambda: Database(Lake(options.lake, storage)), storage, options.where)
    summary = served.ask(lambda gallery: gallery.summary)
    try:
        return serve(
            lambda: GalleryServer(options.host, options.port, served),
            f"{options.host}:{options.port}",
            lambda url: f"{counted(summary['images'], 'images')} of {summary['lake']}: {url}",
        )
    finally:
        served.close()


def _write(options: ViewOptions, lake: Lake, out: str) -> int:
    from masklake.jobs.query.database import Database
    from masklake.jobs.view import page, site
    from masklake.jobs.view.gallery import LakeGallery
    from masklake.jobs.view.selection import GalleryFilter
    from masklake.pipeline.export.folder import writing

    chosen, against = (lake.resolve(name) if name else None for name in (options.run, options.against))
    with writing(out, overwrite=options.overwrite) as folder, Database(lake) as database:
        gallery = LakeGallery(database, options.where)
        source = chosen or page.first_source(gallery)
        choice = GalleryFilter(source=source, sort=options.sort)
        total = gallery.count(choice)
        shown = min(total, options.limit or total)
        site.write(
            folder,
            gallery,
            lake.storage,
            with_bar(site.images_of(gallery, choice, options.limit), "writing", shown),
            choice=choice,
            against=against,
            side=options.side,
            with_photos=not options.no_photos,
        )
        facts = {
            "lake": lake.uri,
            "out": out,
            "images": folder.images,
            "images_that_fit": total,
            "instances": folder.instances,
            "left_out": dict(folder.left_out),
            "where": options.where,
            "written_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        folder.manifest = facts
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(facts)
    else:
        _print(facts)
    return ExitCode.DONE


def _print(facts: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import say

    console = plain_console()
    rest = facts["images_that_fit"] - facts["images"]
    more = f"; {rest:,} more fit (--limit 0 takes all)" if rest else ""
    say(
        console,
        f"{counted(facts['images'], 'images')} and {counted(facts['instances'], 'instances')}: {facts['out']}/index.html{more}",
    )
    for reason, count in facts["left_out"].items():
        say(console, f"left out: {counted(count, 'images')} {reason} (left-out.csv says why)")

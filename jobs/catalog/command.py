"""`masklake catalog`: a lake's tables in an Iceberg catalog."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, included, option
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

SUMMARY = "register a lake's tables in an Iceberg catalog, for Spark, Trino, Athena, …"
DESCRIPTION = """\
Make the Iceberg tables all_images, all_instances and all_labels of a lake in a catalog, or bring them up to date: the files that
are new in the lake are added, those that are gone from it are taken out, in one commit a table. No data is copied or changed;
an instances part counts only with its images part, as everywhere.

The catalog is that of pyiceberg's configuration (~/.pyiceberg.yaml, or PYICEBERG_CATALOG__NAME__…), or the one at --uri. Its
credentials come from there, those of storage from the AWS environment; none is written into a table.

The tables hold every run and every label set: `masklake query LAKE --ddl spark` shows the views that choose the newest ones."""
EPILOG = """\
examples:
  masklake catalog s3://lake --uri sqlite:///catalog.db
  masklake catalog s3://lake --catalog prod --namespace vision
  PYICEBERG_CATALOG__PROD__TYPE=glue masklake catalog s3://lake --catalog prod"""
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class CatalogOptions(Options):
    """The options of `masklake catalog`."""

    lake: str = lake_argument()
    catalog: str = option(
        str,
        "NAME",
        default="masklake",
        help="the catalog's name in pyiceberg's configuration (default masklake)",
    )
    uri: str | None = option(
        str,
        "URI",
        help="where the catalog is: sqlite:///FILE, postgresql://…, https://… (REST), thrift://… (Hive)",
    )
    warehouse: str | None = option(
        str,
        "URI",
        help="where new tables keep their metadata (default: as configured, or LAKE/iceberg with --uri)",
    )
    namespace: str = option(str, "NAME", default="masklake", help="of the tables (default masklake)")
    json: bool = json_flag("what each table got")
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError for a namespace that is none."""
        if not _NAME.fullmatch(self.namespace):
            raise UserError(
                f"--namespace {self.namespace!r}: write letters, digits and _, with points between parts"
            )


def run(options: CatalogOptions) -> int:
    """Register. Raises UserError where the lake or the catalog cannot be used, and where pyiceberg is not installed."""
    from masklake.jobs.catalog import iceberg
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    lake.require()
    opened = iceberg.open_catalog(options.catalog, lake, uri=options.uri, warehouse=options.warehouse)
    changes = iceberg.register(opened, lake, options.namespace)
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json([asdict(change) for change in changes])
        return ExitCode.DONE
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import say

    if not changes:
        say(
            plain_console(), f"{lake.uri}: has neither images nor labels yet, so there is nothing to register"
        )
    for change in changes:
        gone = f", {change.removed:,} taken out" if change.removed else ""
        say(
            plain_console(),
            f"{change.table}: {counted(change.added, 'files')} added{gone}; {change.files:,} in all",
        )
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=CatalogOptions, run=run)

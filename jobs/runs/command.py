"""`masklake runs`: the runs and trainings of a lake, all of them or one in full."""

from __future__ import annotations

from masklake.jobs.options.command import Command, Group
from masklake.jobs.runs import listing, show

SUMMARY = "list the runs and trainings of a lake"
DESCRIPTION = """\
`masklake runs LAKE` lists the runs of a lake, newest first: what state each is in, how far it came, and how fast. Then its trainings: what
came of each.

A run that is recorded as running, but has shown no sign of life for two minutes, is shown as `running?`:
its process or machine has probably gone. `masklake runs show LAKE RUN` says how to resume it."""
EPILOG = """\
examples:
  masklake runs s3://lake
  masklake runs s3://lake --json | jq -r '.[] | select(.state != "complete") | .run'
  masklake runs show s3://lake last"""

COMMAND = Group(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    actions={
        "list": Command(
            summary=SUMMARY,
            description=DESCRIPTION,
            epilog=EPILOG,
            options=listing.RunsListOptions,
            run=listing.run,
        ),
        "show": show.COMMAND,
    },
    usual="list",
)

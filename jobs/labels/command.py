"""`masklake labels`: gather labels in a lake, give them out again, look at them."""

from __future__ import annotations

from masklake.jobs.labels import check, exporting, importing, pulling, stats
from masklake.jobs.options.command import Group

SUMMARY = "gather labels in a lake: import, pull, export, stats, check"
DESCRIPTION = """\
Labels are what people, or tools that they trust, say of an image: every instance with its class, its box, its
mask, its keypoints. They lie beside the results, in LAKE/labels, and are only ever added to: the newest label set
of an image counts, and the older ones stay (`all_labels` in masklake query)."""
EPILOG = """\
examples:
  masklake labels import instances.json person_keypoints.json s3://lake
  masklake labels pull https://studio.example.org s3://lake --project 3
  masklake labels stats s3://lake
  masklake labels check s3://lake --model coco
  masklake labels export s3://lake labels.json
  masklake query "select label, count(*) from labels group by 1" --lake s3://lake

masklake labels ACTION --help tells more of each"""

COMMAND = Group(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    actions={
        "import": importing.COMMAND,
        "pull": pulling.COMMAND,
        "export": exporting.COMMAND,
        "stats": stats.COMMAND,
        "check": check.COMMAND,
    },
)

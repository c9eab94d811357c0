"""The lake's views as SQL for any DuckDB: they say which rows count, for programs that do not use Masklake."""

from __future__ import annotations

import re

from masklake.jobs.query.literals import literal
from masklake.jobs.terminal.text import one_line

_WILDCARDS = re.compile(r"([\[*?])")
"""In the lake's own name; a list of one letter means the letter."""
_HIVE_FOLDER = re.compile(r"(?:^|/)[^/=]+=")

# A row with instance -1 says that an image is labelled and has nothing in it: it counts as an image only.
NEWEST_LABELS = """
    from all_labels l join (select uri, max(labelled_at) as labelled_at from all_labels group by uri) newest
    on l.uri = newest.uri and l.labelled_at = newest.labelled_at
"""
LABELS = f"create view labels as select l.* {NEWEST_LABELS} where l.instance >= 0"
LABELLED = f"""
    create view labelled as select l.uri, any_value(l.width) as width, any_value(l.height) as height,
        (count(*) filter (l.instance >= 0))::integer as n_instances, any_value(l.source) as source,
        any_value(l.split) as split, l.labelled_at {NEWEST_LABELS} group by l.uri, l.labelled_at
"""
ERRORS = "create view errors as from images where status <> 'ok'"

_RUNS = """\
-- What counts in the lake {lake}: for DuckDB, where it can read that (for s3://, `install httpfs; load httpfs;` and a secret).
-- Views of tables of which the lake has no file cannot be made.

-- An images part is the commit: one atomic write. While `masklake compact` exchanges parts, an image may be in two for some seconds.
create view part_of_image as
    select * exclude (filename), split_part(filename, '/run=', -1) as part
    from read_parquet({images}, hive_partitioning = {hive}, filename = true)
    qualify row_number() over (partition by run, image_id order by filename desc) = 1;
create view all_images as select * exclude (part) from part_of_image;

-- An instance counts when its image is in the part of images of the same run and name.
create view all_instances as
    select i.* exclude (filename)
    from read_parquet({instances}, hive_partitioning = {hive}, filename = true) i
    semi join part_of_image p
    on i.run = p.run and i.image_id = p.image_id and split_part(i.filename, '/run=', -1) = p.part;

-- Of each image the newest run counts; ids of runs sort by time.
create view images as from all_images qualify run = max(run) over (partition by uri);
create view instances as from all_instances semi join images using (run, image_id);
{errors};
"""
_LABELLED = """
-- Of each image the newest label set counts. Instance -1 is an image that was looked at and holds nothing.
create view all_labels as from read_parquet({labels}, hive_partitioning = false);
{views};
"""


def script(lake: str, *, runs: bool = True, labels: bool = True) -> str:
    """The statements that make the views of `lake`, a normalised URI: those of its `runs`, of its `labels`."""
    folder = _WILDCARDS.sub(r"[\1]", lake)

    def files(pattern: str) -> str:
        return literal(f"{folder}/{pattern}")

    text = ""
    if runs:
        images, instances = (files(f"{table}/run=*/part-*.parquet") for table in ("images", "instances"))
        # By the run in a path DuckDB leaves out files; but a folder like year=2026 or run=5 above the lake is no column of ours.
        hive = "false" if _HIVE_FOLDER.search(lake) else "true, hive_types_autocast = false"
        text += _RUNS.format(
            lake=one_line(lake), images=images, instances=instances, hive=hive, errors=ERRORS
        )
    if labels:
        text += _LABELLED.format(labels=files("labels/part-*.parquet"), views=f"{LABELS};{LABELLED}".strip())
    return text

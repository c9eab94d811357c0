"""A lake's tables for notebooks and programs, as DuckDB relations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    from masklake.jobs.query.database import Database


def open_lake(
    uri: str,
    *,
    run: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
    anonymous: bool = False,
    requester_pays: bool = False,
    kms_key: str | None = None,
) -> LakeReader:
    """Open the lake at `uri`: a folder, s3://BUCKET/PREFIX, or what else fsspec opens.

    run: only what this run wrote: its id, or `last`. Without it, each image's newest run counts.
    The others mean what the options of all commands mean, and are for S3. Credentials come from the standard AWS environment,
    a bucket's region from the bucket.
    endpoint_url: the address of another service than AWS, such as http://minio:9000 (or set AWS_ENDPOINT_URL).
    profile: a profile of ~/.aws/config.
    anonymous: send no credentials, for public buckets (gs:// and az:// too).
    requester_pays: agree to pay for reading, where a bucket's owner asks for that.
    kms_key: the key with which S3 encrypts what is written. A lake that is read needs none: it is here so that the options
        of a command can be passed on as they are.

    Raises UserError, with the remedy in one line, when there is no lake, or it cannot be read.
    """
    from masklake.jobs.query.database import Database
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import Storage

    storage = Storage(
        endpoint_url=endpoint_url,
        profile=profile,
        anonymous=anonymous,
        requester_pays=requester_pays,
        kms_key=kms_key,
    )
    return LakeReader(Database(Lake(uri, storage), run=run))


class LakeReader:
    """A lake as it was when it was opened; open it again to see what runs have added since.

    Each table is a DuckDB relation, which reads nothing before it is asked for rows, and then only the columns and row groups
    that it needs. Relations are filtered, joined and counted in SQL or by methods, and end in what one works with:

        lake.instances().filter("label = 'person' and score > 0.8").df()             # pandas
        lake.instances().select("uri, score").pl()                                     # Polars
        lake.images().aggregate("status, count(*)").fetchall()                         # tuples
        lake.instances().to_arrow_table()                                              # pyarrow; to_arrow_reader() streams
        lake.sql("select uri, count(*) n from instances group by uri having n > 9")    # as `masklake query`

    Rows of an unfinished write are never among them: an instances part counts once its images part is there.
    `masklake query --columns` describes all columns.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"LakeReader({self._database.lake.uri!r})"

    def images(self) -> duckdb.DuckDBPyRelation:
        """One row for each input image, failures too: uri, width, height (pixels, upright), status (`ok`, `unreadable`, …),
        error, n_instances, model, processed_at, …"""
        return self.sql("from images")

    def instances(self) -> duckdb.DuckDBPyRelation:
        """One row for each detected instance: uri, label, score (0 to 1), x, y, w, h (box, pixels of the upright image), area
        (pixels), mask (COCO RLE; `masklake.decode_mask`), keypoints (name, x, y in pixels, score as a logit), …"""
        return self.sql("from instances")

    def labels(self) -> duckdb.DuckDBPyRelation:
        """One row for each labelled instance, of the newest label set of each image: as `instances`, with iscrowd, source,
        split (`train`, `val`) and labelled_at. Images that were looked at and hold nothing are in `sql("from labelled")`."""
        return self.sql("from labels")

    def runs(self) -> duckdb.DuckDBPyRelation:
        """One row for each run: state, model, images, done, failures, instances, seconds, created_at, …"""
        return self.sql("from runs")

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The one SELECT in `query` over images, instances, labels, labelled, errors and runs, which hold the newest of each
        image, and all_images, all_instances, all_labels, which hold all.

        Raises UserError where it is no single statement that reads them only.
        """
        return self._database.relation(self._database.prepare(query).text)

"""`masklake labels pull`: annotations of a Label Studio project into a lake's labels."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.labels.taking import TakingOptions, take
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import argument, option
from masklake.jobs.options.kinds import positive
from masklake.jobs.options.shared import lake_argument
from masklake.pipeline.errors import UserError

SUMMARY = "take labels in from a Label Studio server"
DESCRIPTION = """\
Take in the annotations of a project of a Label Studio server, by its API: what `masklake labels import` takes from its
JSON export, and by the same rules (`masklake labels import --help`). URL is the server's address.

The token is in the environment: LABEL_STUDIO_API_KEY, a legacy or a personal access token. Tasks that `masklake review` made
name their images themselves; the others need names that the lake knows, or --uri-prefix, or --mapping. Drafts, predictions
and cancelled annotations are not taken. Pulling again writes only what has changed since."""
EPILOG = """\
examples:
  masklake review s3://lake --push https://studio.example.org --project 3 --setup
  masklake labels pull https://studio.example.org s3://lake --project 3
  masklake labels pull http://localhost:8080 lake/ --project 3 --skip-unresolved --dry-run"""


@dataclass(frozen=True, kw_only=True)
class PullOptions(TakingOptions):
    """The options of `masklake labels pull`."""

    url: str = argument("URL", help="the server, such as http://localhost:8080")
    lake: str = lake_argument("the lake; it is made if needed")
    project: int | None = option(positive, "N", help="the number of the project")

    def validate(self) -> None:
        """Raises UserError where no project is named."""
        if self.project is None:
            raise UserError("name the project: --project N, which is in its address, /projects/N/")


def run(options: PullOptions) -> int:
    """Pull. Raises UserError, with nothing written, where the server refuses or images cannot be placed."""
    from masklake.jobs.studio.client import StudioClient
    from masklake.pipeline.labels import importing as label_import
    from masklake.pipeline.labels.formats import studio_interface
    from masklake.pipeline.lake.forgotten import forgets_done
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import normalise_folder

    assert options.project is not None  # noqa: S101  # `validate` has seen to it
    storage = options.storage.open()
    forgets = forgets_done(normalise_folder(options.lake), storage)  # before the labels are read
    client = StudioClient(options.url)
    where = f"{client.url}: project {options.project}"
    xml = client.interface(options.project)
    try:
        fields = studio_interface.image_fields(xml)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    tasks = client.tasks(options.project, labels=True)
    labels = label_import.read_tasks(tasks, where, fields, strict=options.strict)
    return take(options, Lake(options.lake, storage), forgets, "label-studio", labels)


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=PullOptions, run=run)

"""The options of `masklake view`."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.options.declare import Options, Section, entries, flag, included, option
from masklake.jobs.options.kinds import local_file, one_of, pixels, port_from, zero_or_more
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument, run_option, where_option
from masklake.jobs.view.selection import SORTS
from masklake.pipeline.errors import UserError

_FILES = Section("a folder of files (--out)")
_SERVER = Section("a server (the default)")
_FOR_FILES = {"limit", "sort", "run", "against", "side", "no_photos", "overwrite", "json"}
_FOR_SERVER = {"host", "port"}


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """The options of `masklake view`."""

    lake: str = lake_argument()
    where: str | None = where_option(
        "only images with an instance", such_as="label = 'person' and score > 0.5"
    )
    out: str | None = option(
        local_file, "DIR", section=_FILES, short=("--output",), instead_of="how",
        help="write a gallery that opens from disk or any bucket (index.html), without a server",
    )  # fmt: skip
    limit: int = option(
        zero_or_more, "N", default=2_000, section=_FILES,
        help="how many images it holds, 0 for all (default 2000): each is read and becomes a picture",
    )  # fmt: skip
    sort: str = option(
        one_of(*SORTS), f"{{{','.join(SORTS)}}}", default="newest", section=_FILES,
        help="which images come first where --limit leaves some out (default newest)",
    )  # fmt: skip
    run: str | None = run_option(
        "the results of this run (default: of the newest run of each image)", section=_FILES
    )
    against: str | None = run_option(
        "another run to compare with; labels, where there are any, can be in any case", section=_FILES
    )
    side: int = option(
        pixels(64, 4_096),
        "PIXELS",
        default=1_024,
        section=_FILES,
        help="the longer side of its pictures, at most (default 1024)",
    )
    no_photos: bool = flag(section=_FILES, help="write no pictures: masks and boxes alone")
    overwrite: bool = flag(
        section=_FILES, help="replace an earlier gallery in DIR; other files are never replaced"
    )
    json: bool = json_flag("one object: what was written, and what has no picture")
    serve: bool = flag(
        section=_SERVER, instead_of="how", help="page through the whole lake on this machine (the default)"
    )
    host: str = option(
        str, "ADDRESS", default="127.0.0.1", section=_SERVER,
        help="the address to serve on (default 127.0.0.1); on any other than the loopback a token is asked for, which is printed",
    )  # fmt: skip
    port: int = option(
        port_from(0),
        "PORT",
        default=0,
        section=_SERVER,
        help="the port to serve on (default: one that is free)",
    )
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError for options of the other kind of gallery."""
        wrong, why = (
            (_FOR_SERVER, "is for a server; leave --out out")
            if self.out
            else (_FOR_FILES, "is for --out DIR; on a server it is chosen in the page")
        )
        for entry in entries(type(self), into=False):
            if entry.field in wrong and entry.value_in(self) != entry.default:
                raise UserError(f"{entry.shown}: {why}")

"""The options of `masklake view`."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.options.declare import Options, Section, flag, included, option
from masklake.jobs.options.kinds import Kind, local_file, one_of, zero_or_more
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.jobs.view.selection import SORTS
from masklake.pipeline.errors import UserError

_FILES = Section("a folder of files (--out)")
_SERVER = Section("a server (the default)")

side = Kind("a number of pixels from 64 to 4096", int, lambda value: 64 <= value <= 4096)
port = Kind("a port from 0 to 65535", int, lambda value: 0 <= value <= 65535)


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """The options of `masklake view`."""

    lake: str = lake_argument()
    where: str | None = option(
        str, "SQL",
        help="only images with an instance of which this condition is true, such as \"label = 'person' and score > 0.5\"",
    )  # fmt: skip
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
    run: str | None = option(
        str,
        "RUN|last",
        section=_FILES,
        help="the results of this run (default: of the newest run of each image)",
    )
    against: str | None = option(
        str,
        "RUN|last",
        section=_FILES,
        help="another run to compare with; labels, where there are any, can be in any case",
    )
    side: int = option(
        side,
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
        port, "PORT", default=0, section=_SERVER, help="the port to serve on (default: one that is free)"
    )
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError for options of the other kind of gallery."""
        files = {"limit": 2_000, "sort": "newest", "run": None, "against": None, "side": 1_024, "no_photos": False,
                 "overwrite": False, "json": False}  # fmt: skip
        server = {"host": "127.0.0.1", "port": 0}
        wrong, why = (
            (server, "is for a server; leave --out out")
            if self.out
            else (files, "is for --out DIR; on a server it is chosen in the page")
        )
        for name, default in wrong.items():
            if getattr(self, name) != default:
                raise UserError(f"--{name.replace('_', '-')}: {why}")

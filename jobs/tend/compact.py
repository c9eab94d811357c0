"""`masklake compact`: many small files of a lake into few right-sized ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, flag, included, option
from masklake.jobs.options.kinds import positive
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.jobs.tend.shared import call_again, finished_earlier, grace_option, locked, no_wait_flag
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.tend.work import Compacted

SUMMARY = "many small files of a lake into few right-sized ones, with the same rows"
DESCRIPTION = """\
A run writes a pair of files each time some hundred images are done, so that little is lost when it is stopped. A lake of
many such runs is slow to list. `compact` writes the rows of complete runs, and of labels, into files of about --target-mb,
sorted as a run sorts them. Runs that are not complete are left as they are: resume them first. Where 64 small runs or more are in no
pack yet, copies of their rows go into packs (LAKE/packs), from which Masklake's queries read hundreds of runs as one file.

The change is one conditional write of LAKE/replacements.json. Before it nothing has changed; from then on
`masklake query`, `masklake.open_lake` and every other command read the new files, where all rows are, each of them once.
The old files stay for --grace-minutes, for readers that had opened the lake; then the new ones take their place,
and after as long again what was written on the way is removed. A call that was ended at any moment leaves the lake whole, and
the next call finishes it. A second call at the same time is refused (exit code 75).

Programs that read the folders themselves (pq.read_table, pandas, Spark) know nothing of that object: they see the old files
until these are exchanged, and while they are, for some seconds for each 32 new files, some rows twice, or a file that has just
gone. Let them read when `compact` does not run, or read through the views that `masklake query --views` prints, which count every
row once then, too, or fail."""
EPILOG = """\
examples:
  masklake compact s3://lake --dry-run
  masklake compact s3://lake
  masklake compact s3://lake --no-wait          # nightly: finishes that of the night before, and begins anew

exit codes: 0 done, or nothing to do · 2 a mistake that the message names · 75 another compact or forget is at work ·
130 stopped: the lake is whole, and the next call goes on"""


@dataclass(frozen=True, kw_only=True)
class CompactOptions(Options):
    """The options of `masklake compact`."""

    lake: str = lake_argument()
    target_mb: int = option(
        positive, "N", default=64,
        help="the size that the files of a pair have together, in MB (default 64; memory takes about 12 times as much)",
    )  # fmt: skip
    grace_minutes: float = grace_option()
    no_wait: bool = no_wait_flag()
    dry_run: bool = flag(kept=False, help="say what would be done, and change nothing")
    json: bool = json_flag("one object: files before, replaced and new, and what was left alone, and why")
    storage: StorageOptions = included(StorageOptions)


def run(options: CompactOptions) -> int:
    """Compact. Raises UserError, with the lake whole, when that is not possible."""
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import normalise_folder
    from masklake.pipeline.tend import work
    from masklake.pipeline.tend.replacing import Tending

    storage = options.storage.open()
    target = options.target_mb * 10**6
    if options.dry_run:
        tending = Tending(lake=normalise_folder(options.lake), storage=storage, grace_s=0)
        _report(work.compact(tending, target, dry_run=True), options)
        return ExitCode.DONE

    def compact(tending: Tending) -> int:
        _report(work.compact(tending, target, wait=not options.no_wait), options)
        return ExitCode.DONE

    Lake(options.lake, storage).require()  # before a lock is written where there is no lake
    return locked("compact", options.lake, storage, options.grace_minutes, compact)


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=CompactOptions, run=run)


def _report(result: Compacted, options: CompactOptions) -> None:
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(asdict(result) | {"dry_run": options.dry_run})
        return
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import say

    console = plain_console()
    if result.earlier.command and not result.earlier.waits_s:
        say(console, finished_earlier(result.earlier.command))
    for run, reason in sorted(result.left.items()):
        say(console, f"left alone: {f'run {run}' if run else 'labels'}: {reason}")
    if result.earlier.waits_s:
        say(console, call_again("compact", result.waits_s))
        return
    would = "would become" if options.dry_run else "are now"
    if result.replaced:
        rest = result.files - result.replaced
        say(
            console,
            f"{counted(result.replaced, 'files')} {would} {result.new:,}; {rest:,} others are right as they are, or left alone",
        )
    else:
        say(console, f"nothing to compact in {counted(result.files, 'files')}")
    if result.packed:
        say(
            console,
            f"the rows of {counted(result.packed, 'small runs', 'small run')} are in packs, too: a query opens these",
        )
    if result.waits_s:
        say(console, call_again("compact", result.waits_s))

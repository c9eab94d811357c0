"""`masklake forget`: images, or a run, leave a lake with all that it has of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, flag, included, option
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument, run_option, where_option
from masklake.jobs.tend.shared import call_again, finished_earlier, grace_option, locked, no_wait_flag
from masklake.jobs.terminal.text import note
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.tend.chosen import Chosen
    from masklake.pipeline.tend.learnt import Learnt
    from masklake.pipeline.tend.replacing import Tending
    from masklake.pipeline.tend.work import Forgotten
    from rich.console import Console

SUMMARY = "take images, or a run, out of a lake with all that it has of them"
DESCRIPTION = """\
Rows of images and instances in every run, labels of every time, entries in lists and manifests, and what lies in the lake's folder
and names the images: Label Studio tasks, exports, previews, records. Of files that hold other images as well only the entries,
rows or lines go. At the end none of it is in the lake's storage. Models that learnt from the images are named, and stay: train
anew without them, or `masklake models unalias`.

Once it says that it is done, nothing that began before brings the rows back: a stopped run that is resumed, a run or an import of
labels that was just beginning leave the images out, and say so. While a run or a training is at work on them the call is
refused, before or after the commit; what is committed stays so, and the next call finishes it. A new run of a folder where
the photo still is takes it in again, and so does a new import of a file that has labels of it.

--uri names an image as the lake does; one that ends in / means all below it. --where is an SQL condition on instances with the
columns of their image, as in `masklake export`, but of all runs: an image with such a row is forgotten in every run. --run forgets what one run wrote, and its record; labels stay, and of an image the newest run that is left counts again.

What is not the lake's stays, and is yours to remove: the photos themselves, tasks in a Label Studio server, files that were exported elsewhere or are being
written by another command just now, an Iceberg catalog (`masklake catalog` again, and expire its older snapshots), Ray's logs, and, on a bucket with versioning, the older versions of removed objects until a
lifecycle rule ends them. LAKE/forgotten keeps digests (BLAKE2b) of what is forgotten: they tell whether a name that one
has is among them, and give no name.

The change is one conditional write, as of `masklake compact`, whose help tells what readers see. The old files stay for
--grace-minutes for readers that had opened the lake. A call that was ended at any moment leaves the lake whole; the next call
of `forget` or `compact` finishes what was committed."""
EPILOG = """\
examples:
  masklake forget s3://lake --uri s3://photos/2026/0417.jpg --dry-run
  masklake forget s3://lake --uri s3://photos/users/7/ --grace-minutes 0
  masklake forget s3://lake --where "label = 'person' and uri like '%/users/7/%'"
  masklake forget s3://lake --run 20261101T020000-a1b2c3

exit codes: 0 done · 2 a mistake that the message names, or the lake has nothing of them · 75 another compact or forget, or a
run or training of these images, is at work: call again later · 130 stopped: the lake is whole, and the next call goes on"""


_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ForgetOptions(Options):
    """The options of `masklake forget`."""

    lake: str = lake_argument()
    uri: tuple[str, ...] = option(
        str, "URI", default=(), repeated=True,
        help="an image, or, with / at its end, a folder of images; may be given several times",
    )  # fmt: skip
    run: str | None = run_option("a run: its id, or last")
    where: str | None = where_option(
        "images with a row, in any run,", such_as="label = 'person' and score > 0.5"
    )
    grace_minutes: float = grace_option()
    no_wait: bool = no_wait_flag()
    dry_run: bool = flag(kept=False, help="say what would be forgotten, and change nothing")
    json: bool = json_flag("one object: what was forgotten, and which models learnt from it")
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError unless one thing says what is to be forgotten."""
        given = [name for name in ("uri", "run", "where") if getattr(self, name) not in (None, ())]
        if len(given) != 1:
            raise UserError("say what is to be forgotten: one of --uri, --run and --where")


def run(options: ForgetOptions) -> int:
    """Forget. Raises UserError, with the lake whole, when that is not possible, and where there is nothing of it."""
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.tend import work
    from masklake.pipeline.tend.chosen import Chosen
    from masklake.pipeline.tend.forgetting import AtWorkError
    from masklake.pipeline.tend.replacing import Tending

    storage = options.storage.open()
    lake = Lake(options.lake, storage)
    lake.require()
    if options.dry_run:
        chosen = _chosen(options, lake)
        tending = Tending(lake=lake.uri, storage=storage, grace_s=0)
        _report(work.forget(tending, chosen, dry_run=True), chosen, options)
        return ExitCode.DONE

    def forget(tending: Tending) -> int:
        wait = not options.no_wait
        earlier = work.finish_earlier(tending, wait)
        try:
            chosen = _chosen(options, Lake(options.lake, storage))
        except UserError:
            if earlier.command is None:
                raise
            chosen = Chosen(uris=frozenset())  # what the earlier call has taken out cannot be chosen again
        _report(work.forget(tending, chosen, earlier=earlier, wait=wait), chosen, options)
        return ExitCode.DONE

    def forget_or_refuse(tending: Tending) -> int:
        """Also where an earlier call had committed: it stays so."""
        try:
            return forget(tending)
        except AtWorkError as error:
            note(f"refused: {error}")
            return ExitCode.REFUSED

    return locked("forget", options.lake, storage, options.grace_minutes, forget_or_refuse)


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=ForgetOptions, run=run)


def _chosen(options: ForgetOptions, lake: Lake) -> Chosen:
    """What the options name. Raises UserError where the lake has no such run, and for a condition that is none."""
    from masklake.pipeline.storage.store import normalise
    from masklake.pipeline.tend.chosen import Chosen

    if options.run is not None:
        return Chosen(uris=frozenset(), run=lake.resolve(options.run))
    if options.where is not None:
        return Chosen(uris=frozenset(_fitting(options.where, lake)))
    uris = [normalise(uri) for uri in options.uri]
    for uri in uris:
        if uri.rstrip("/") in ("", "s3:", "gs:", "az:"):
            raise UserError(f"--uri {uri}: would forget everything; name an image or a folder")
    return Chosen(
        uris=frozenset(uri for uri in uris if not uri.endswith("/")),
        folders=tuple(uri for uri in uris if uri.endswith("/")),
    )


_FITTING = """
with rows_of as (
    select i.*, n.* exclude (run, image_id, uri, model) from all_images i left join all_instances n using (run, image_id)
)
select distinct uri from rows_of where (
{where}
)
"""


def _fitting(condition: str, lake: Lake) -> list[str]:
    """The images with a row, in any run, for which `condition` is true. Raises UserError where there are none, or it may not run."""
    from masklake.jobs.query.condition import blaming, require_condition
    from masklake.jobs.query.database import Database

    with Database(lake) as database:
        require_condition(database, condition)
        with blaming(database, condition):
            rows = database.rows(_FITTING.format(where=condition))
    if not rows:
        raise UserError(f"{lake.uri}: no image fits --where {condition!r}; nothing was changed")
    return [uri for (uri,) in rows]


def _report(result: Forgotten, chosen: Chosen, options: ForgetOptions) -> None:
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(asdict(result) | {"run": chosen.run, "dry_run": options.dry_run})
        return
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import say

    console = plain_console()
    if result.earlier.command and not result.earlier.waits_s:
        say(console, finished_earlier(result.earlier.command))
    if result.earlier.waits_s:
        say(
            console,
            f"nothing was changed: an earlier `masklake {result.earlier.command}` is not finished; "
            + call_again("forget", result.waits_s),
        )
        return
    if result.earlier.forgotten:
        _tell(result.earlier.forgotten, "forgotten by it: ", console)
    if result.images or result.traces.pruned or result.traces.removed or chosen.run:
        would = "would be forgotten: " if options.dry_run else "forgotten: "
        _tell(result, would + f"run {chosen.run}: " * bool(chosen.run), console)
    if result.waits_s:
        say(console, call_again("forget", result.waits_s))


def _tell(result: Forgotten, begin: str, console: Console) -> None:
    from masklake.jobs.terminal.text import say

    say(
        console,
        f"{begin}{counted(result.image_rows, 'rows')} of images, {result.instance_rows:,} of instances, {result.label_rows:,} of labels, in "
        f"{counted(result.parts, 'files')}",
    )
    for what, uris in (("an entry of", result.traces.pruned), ("all of", result.traces.removed)):
        for uri in uris[:_SHOWN]:
            say(console, f"and {what} {uri}")
        if len(uris) > _SHOWN:
            say(console, f"and {what} {len(uris) - _SHOWN:,} more (--json lists them)")
    for uri in result.traces.unsearched[:_SHOWN]:
        say(console, f"not looked into: {uri}")
    if len(result.traces.unsearched) > _SHOWN:
        say(console, f"not looked into: {len(result.traces.unsearched) - _SHOWN:,} more (--json lists them)")
    for uri in result.traces.photos:
        say(console, f"stays, as a photo is its owner's: {uri}")
    for entry in result.models:
        say(console, _learnt(entry))
    for problem in result.problems:
        say(console, f"what was learnt there cannot be told: {problem}")


def _learnt(entry: Learnt) -> str:
    model = f"model {entry.model}" if entry.model else f"no model yet ({entry.state})"
    how = [f"learnt from {entry.learnt_from:,} of them"] * bool(entry.learnt_from)
    how += [f"measured by {entry.measured_by:,} of them"] * bool(entry.measured_by)
    how += [f"begun with {entry.begun_with}"] * bool(entry.begun_with)
    return f"training {entry.training}: {model}: {', '.join(how)}"

"""What `masklake review` says of its choice: how many images, why, and what it left out. Never a signed URL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masklake.jobs.review.options import ReviewOptions
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.review.candidates import Candidates
    from masklake.pipeline.review.pick import Picks
    from masklake.pipeline.review.tasks import Found

_LISTED = 20
_PROBLEMS_LISTED = 5


def facts(
    lake: Lake,
    candidates: Candidates,
    picks: Picks,
    founds: Sequence[Found],
    reasons: Sequence[dict[str, Any]],
    models: Sequence[str],
    options: ReviewOptions,
) -> dict[str, Any]:
    """Everything that is told, as plain values."""
    from masklake.pipeline.storage.store import redact

    passed = {reason: picks.passed[reason] for reason in ("identical", "similar", "changed", "unreadable")}
    return {
        "lake": lake.uri,
        "budget": options.budget,
        "candidates": len(candidates),
        "candidates_of_two_models": int((candidates.other_run >= 0).sum()),
        "left_out": {"labelled": candidates.labelled, "failed": candidates.failed, **passed},
        "images_read": picks.read,
        "stopped_reading": picks.stopped,
        "picked": dict(Counter(one.kind for one in picks.chosen).most_common()),
        "offered_instances": sum(len(one.above(options.score).scores) for one in founds),
        "problems": [
            {"uri": redact(uri), "cause": redact(cause)} for uri, cause in picks.problems
        ],
        "images": [
            {"uri": redact(one.set.uri), "model": model, **reason}
            for one, model, reason in zip(founds, models, reasons, strict=True)
        ],
        "written": [] if options.dry_run else [options.out, *([options.interface] if options.interface else [])],
    }  # fmt: skip


def show(found: dict[str, Any], format_: str) -> None:
    """Print the facts."""
    if format_ == "json":
        from masklake.jobs.terminal.json import print_json

        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console, ruled_table
    from masklake.jobs.terminal.text import elide, one_line, printable

    console = plain_console()

    def say(text: str) -> None:
        console.print(one_line(text), soft_wrap=True)

    left, images = found["left_out"], found["images"]
    say(
        f"{found['candidates']:,} images to choose from, {found['candidates_of_two_models']:,} of them seen by two models; "
        f"left out: {left['labelled']:,} labelled already, {left['failed']:,} failed"
    )
    told = ", ".join(f"{count:,} {kind}" for kind, count in found["picked"].items())
    say(f"picked {len(images):,} of a budget of {found['budget']:,}: {told}")
    say(
        f"passed over: {left['identical']:,} identical, {left['similar']:,} nearly alike, {left['changed']:,} changed since "
        f"the run, {left['unreadable']:,} unreadable; {found['images_read']:,} images read"
    )
    if found["stopped_reading"]:
        say("more were not read, at 5 for each one of the budget: these are mostly alike (--keep-similar)")
    elif len(images) < found["budget"]:
        say("the budget is larger: that is every image that could be chosen")
    for one in found["problems"][:_PROBLEMS_LISTED]:
        say(f"{one['uri']}: {one['cause']}")
    if len(found["problems"]) > _PROBLEMS_LISTED:
        say(f"… and {len(found['problems']) - _PROBLEMS_LISTED:,} more (--format json lists all)")
    console.print()
    table = ruled_table(("image", "why"), ("score", "doubt", "dispute", "rarity"))
    for one in images[:_LISTED]:
        why = one["kind"] + (f" ({one['rarest']})" if one["kind"] == "rarity" else "")
        figures = (f"{one[name]:.2f}" for name in ("score", "doubt", "dispute", "rarity"))
        table.add_row(_tail(printable(one["uri"])), elide(printable(why), 40), *figures)
    console.print(table)
    if len(images) > _LISTED:
        say(f"… and {len(images) - _LISTED:,} more (--format json lists all)")
    console.print()
    if found["written"]:
        say(
            f"{len(images):,} tasks with {found['offered_instances']:,} instances to correct written to "
            + ", ".join(found["written"])
        )
    else:
        say("dry run: nothing was written")


_WIDEST = 60


def _tail(uri: str) -> str:
    """The end of a long URI, which tells it from its neighbours."""
    return uri if len(uri) <= _WIDEST else "…" + uri[1 - _WIDEST :]

"""What `masklake review` says of its choice: how many images, why, and what it left out. Never a signed URL."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.jobs.review.options import ReviewOptions
    from masklake.jobs.review.written import Given, ReviewedImages
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.review.candidates import Candidates
    from masklake.pipeline.review.pick import Picks

_LISTED = 20
_PROBLEMS_LISTED = 5


def facts(
    lake: Lake,
    candidates: Candidates,
    picks: Picks,
    chosen: ReviewedImages,
    options: ReviewOptions,
    given: Given | None,
) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
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
        "picked": dict(Counter(pick.kind for pick in picks.chosen).most_common()),
        "offered_instances": sum(len(prediction.scores) for prediction in chosen.above(options.score).predictions),
        "problems": [
            {"uri": redact(uri), "cause": redact(cause)} for uri, cause in picks.problems
        ],
        "images": [
            {"uri": redact(prediction.set.uri), "model": model, **reason}
            for prediction, model, reason in zip(
                chosen.predictions, chosen.models, chosen.reasons, strict=True
            )
        ],
        "written": [] if options.dry_run else [file for file in options.files if file],
        "pushed": None if given is None else given.facts(),
    }  # fmt: skip


def show(facts: dict[str, Any], format_: str) -> None:
    """Print the facts."""
    if format_ == "json":
        from masklake.jobs.terminal.json import print_json

        print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console, ruled_table
    from masklake.jobs.terminal.text import elide, one_line, printable

    console = plain_console()

    def say(text: str) -> None:
        console.print(one_line(text), soft_wrap=True)

    left, images = facts["left_out"], facts["images"]
    say(
        f"{counted(facts['candidates'], 'images')} to choose from, {facts['candidates_of_two_models']:,} of them seen by two models; "
        f"left out: {left['labelled']:,} labelled already, {left['failed']:,} failed"
    )
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["picked"].items())
    say(f"picked {len(images):,} of a budget of {facts['budget']:,}: {kinds}")
    say(
        f"passed over: {left['identical']:,} identical, {left['similar']:,} nearly alike, {left['changed']:,} changed since "
        f"the run, {left['unreadable']:,} unreadable; {counted(facts['images_read'], 'images')} read"
    )
    if facts["stopped_reading"]:
        say("more were not read, at 5 for each one of the budget: these are mostly alike (--keep-similar)")
    elif len(images) < facts["budget"]:
        say("the budget is larger: that is every image that could be chosen")
    for problem in facts["problems"][:_PROBLEMS_LISTED]:
        say(f"{problem['uri']}: {problem['cause']}")
    if len(facts["problems"]) > _PROBLEMS_LISTED:
        say(f"… and {len(facts['problems']) - _PROBLEMS_LISTED:,} more (--format json lists all)")
    console.print()
    table = ruled_table(("image", "why"), ("score", "doubt", "dispute", "rarity"))
    for image in images[:_LISTED]:
        why = image["kind"] + (f" ({image['rarest']})" if image["kind"] == "rarity" else "")
        figures = (f"{image[name]:.2f}" for name in ("score", "doubt", "dispute", "rarity"))
        table.add_row(_tail(printable(image["uri"])), elide(printable(why), 40), *figures)
    console.print(table)
    if len(images) > _LISTED:
        say(f"… and {len(images) - _LISTED:,} more (--format json lists all)")
    console.print()
    if facts["written"]:
        say(
            f"{counted(len(images), 'tasks')} with {counted(facts['offered_instances'], 'instances')} to correct written to "
            + ", ".join(facts["written"])
        )
    if given := facts["pushed"]:
        say(
            f"{counted(given['added'], 'tasks')} added to project {given['project']} of {given['url']}; {counted(given['there'], 'images')} had one there"
        )
        for reason, count in given["left_out"].items():
            say(f"left out: {counted(count, reason)}")
    if not facts["written"] and not given:
        say("dry run: nothing was written")


_WIDEST = 60


def _tail(uri: str) -> str:
    """The end of a long URI, which tells it from its neighbours."""
    return uri if len(uri) <= _WIDEST else "…" + uri[1 - _WIDEST :]

"""`masklake schedule add`: a mistake in the schedule or its command is an error now, not at two in the morning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from masklake.jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from masklake.jobs.schedule.options import ScheduleAddOptions
    from masklake.jobs.schedule.store import Store


def add(options: ScheduleAddOptions, store: Store) -> int:
    """Check a schedule and add it. Raises UserError for a schedule or a command that cannot work."""
    import dataclasses

    from masklake.jobs.schedule import hooks
    from masklake.jobs.schedule.command_line import lock_uri, parse
    from masklake.jobs.schedule.cron import zone
    from masklake.jobs.schedule.runner import utcnow
    from masklake.jobs.schedule.serving import server
    from masklake.jobs.schedule.store import Schedule, utc
    from masklake.jobs.schedule.views import local, say
    from masklake.pipeline.errors import UserError
    from masklake.pipeline.lake.registry import check_name

    check_name(options.name, "schedule")
    zone(options.timezone)
    if options.every and options.timezone != "UTC":
        raise UserError("--timezone: an interval has no time zone; leave it out, or write --cron")
    cwd = str(Path.cwd())
    command = list(options.job)
    job = parse(command, cwd)
    if options.lock is not None:
        check_name(options.lock, "lock")
        if job.lake is None:
            raise UserError(
                f"--lock {options.lock}: {job.text()} has no lake to keep a lock in; leave it out"
            )
    hooks.check(options.on_failure_command, options.on_failure_webhook)
    schedule = Schedule(
        name=options.name,
        command=command,
        cron=options.cron,
        every=options.every,
        timezone=options.timezone,
        cwd=cwd,
        lock=options.lock,
        retries=options.retries,
        backoff=float(options.backoff),
        timeout=None if options.timeout is None else float(options.timeout),
        deadline=float(options.deadline),
        on_failure_command=options.on_failure_command,
        on_failure_webhook=options.on_failure_webhook,
        created_at=utc(),
    )
    following = schedule.timing.after(utcnow())
    schedule = dataclasses.replace(schedule, next_at=utc(following) if following else None)
    store.add(schedule)
    lock = lock_uri(job, options.lock)
    say(
        f"{options.name} added: {job.text()}, next at {local(schedule)}" + (f", under {lock}" if lock else "")
    )
    if server(store) is None:
        say("no daemon serves this store yet: masklake schedule serve")
    return ExitCode.DONE

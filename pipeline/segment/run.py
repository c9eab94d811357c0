"""A run, from plan to proof: list, stream through the stages, verify, and keep the record true all along."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import asdict, replace

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.process import process_alive
from masklake.pipeline.lake.record import HEARTBEAT_S, now
from masklake.pipeline.lake.replacements import require_untouched
from masklake.pipeline.lake.row_pack import try_to_pack_rows
from masklake.pipeline.lake.run_record import RunFolder, RunRecord, SupersededError, resumed
from masklake.pipeline.segment.covered import summarise
from masklake.pipeline.segment.engine import StageEngine, StartEngine
from masklake.pipeline.segment.heed import heed
from masklake.pipeline.segment.job import Job, Progress, Watch
from masklake.pipeline.segment.planned import Planned, let_stages_begin
from masklake.pipeline.segment.proof import (
    Tally,
    Verification,
    bar_uncommitted,
    take_back_uncommitted,
    tally,
    verify,
)
from masklake.pipeline.segment.ray_engine import RayEngine
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.segment.steps import Plan
from masklake.pipeline.storage.explain import explaining, of_storage
from masklake.pipeline.storage.store import redact


def run(
    job: Job, planned: Planned, resources: Resources, watch: Watch, engine: StartEngine = RayEngine
) -> tuple[RunRecord, Progress]:
    """Run `job` to its end, on the Ray that is initialised or another `engine`. Returns the final record, which is also
    in the lake, and the last progress. Call it in the main thread.

    The record's state is complete, incomplete (the proof failed: resume), stopped (Ctrl-C, SIGTERM, or a
    later attempt took over) or failed (`error` says why). Raises UserError when the lake cannot be written or
    another driver has the run; then nothing was changed.
    """
    driver = _Driver(job, planned, resources, watch, engine)
    before = signal.signal(
        signal.SIGTERM, driver.terminated
    )  # Ray's handler would leave the record at "running"
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, driver.interrupted)
    try:
        return driver.run(), driver.progress
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


class _Driver:
    engine: StageEngine

    def __init__(
        self, job: Job, planned: Planned, resources: Resources, watch: Watch, start_engine: StartEngine
    ) -> None:
        self.job, self.planned, self.resources, self.watch = job, planned, resources, watch
        self._start_engine = start_engine
        self.record = (
            resumed(job.record, process_alive) if job.resume else replace(job.record, forgets=planned.forgets)
        )
        self.folder = RunFolder(self.record.lake, self.record.run, job.storage)
        self.progress = Progress(totals=planned.totals)
        self._started = time.monotonic()
        self._over = threading.Event()
        self._woken = False
        self._trouble: Exception | None = None
        self._superseded = False
        self._verification: Verification | None = None
        self._before = Tally()
        self._model = self.record.model_name

    def run(self) -> RunRecord:
        with explaining(self.record.lake, "write to the lake"):
            attempt = self.folder.take_attempt(self.record.attempt, process_alive)
            self.record = replace(self.record, attempt=attempt, engine=self._start_engine.name)
            if self.job.resume:
                require_untouched(self.record.lake, self.record.run, self.job.storage)
            self.folder.save(self.record)
            self.planned.forgotten = heed(self.folder, self.record.forgets)
            self.planned.lake.pack_records()
            bar_uncommitted(self.folder, attempt, self._model)
            self._before = tally(self.folder) if self.job.resume else Tally()
            self.progress.skipped = self._before.counts.total()
        self.engine = self._start_engine(self.record.run, self._model)
        threads = [threading.Thread(target=body, daemon=True) for body in (self._plan, self._pulse)]
        state, error = "failed", None
        try:
            for thread in threads:
                thread.start()
            self._stream()
            self._over.set()
            threads[0].join()
            state, error = ("stopped", None) if self.progress.stopping else self._verified()
        except KeyboardInterrupt:
            if self._trouble is not None:
                error = str(self._trouble)
            else:
                state = "stopped"
        except Exception as failure:  # noqa: BLE001  # any error that ends a run is recorded, and the caller reports it
            error = _cause(self.engine.cause(failure))
        finally:
            self._over.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        record = self._finish(state, error)
        self.engine.ended(record.state)
        return record

    def _stream(self) -> None:
        self.engine.stream(
            Plan(
                folder=self.folder,
                attempt=self.record.attempt,
                model=self._model,
                predictor=self.job.predictor,
                vocabulary=self.job.vocabulary,
                decode=self.job.decode,
                max_bytes=self.job.max_bytes,
                resources=self.resources,
            )
        )

    def _plan(self) -> None:
        """List the source into the manifest, in a thread of its own, while the stages work on it."""
        try:
            with explaining(self.record.source, "list the source"):
                for totals in self.planned.write():
                    self.progress.totals = totals
                    let_stages_begin(totals.images, self._begun, self._started)
                    if self._over.is_set():
                        return
        except Exception as error:  # noqa: BLE001  # the main thread, which this interrupts, reports it
            self._interrupt(error)

    def _begun(self) -> bool:
        """Whether an image has been predicted, or the run is over."""
        return self._over.is_set() or "images" in self.progress.snapshot.get("stages", {}).get("infer", {})

    def _interrupt(self, trouble: Exception | None) -> None:
        """Wake the main thread, which waits inside Ray. (SIGINT would not do: a background process of a
        shell script ignores it.)"""
        self._trouble, self._woken = trouble, True
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupted(self, *_: object) -> None:
        """Ctrl-C: the first one ends the run once images already predicted are written, the second one at once."""
        if self.progress.stopping or not self.progress.snapshot.get("stages", {}).get("infer", {}).get(
            "images"
        ):
            raise KeyboardInterrupt
        self.progress.stopping = True

    def terminated(self, *_: object) -> None:
        """Handle SIGTERM as Ctrl-C is handled."""
        woken, self._woken = self._woken, False
        if not (woken and self._over.is_set()):  # else the run is over already
            raise KeyboardInterrupt

    def _overtaken(self) -> bool:
        self._superseded = self._superseded or self.folder.superseded(self.record.attempt)
        return self._superseded

    def _pulse(self) -> None:
        """Show progress twice a second; every 10 s save the record and look for a later attempt."""
        saved = time.monotonic()
        while not self._over.wait(0.5):
            self._refresh()
            if trouble := self.engine.trouble(self.progress.snapshot):
                self._interrupt(trouble)
                return
            if self.progress.stopping:
                self.engine.ledger.stop()  # repeatedly: the ledger may be killed too, and then forgets it
            if time.monotonic() - saved < HEARTBEAT_S:
                continue
            saved = time.monotonic()
            try:
                self.folder.save(self._current("running", None))
            except SupersededError:
                self._superseded = True
                self._interrupt(None)
                return
            except Exception as error:
                if not of_storage(error):  # a missed heartbeat is no reason to stop
                    raise

    def _refresh(self) -> None:
        self.progress.snapshot = self.engine.snapshot() or self.progress.snapshot
        self.engine.observe(self.progress.snapshot, self.progress.totals.images, self._before.counts)
        self.progress.seconds = time.monotonic() - self._started
        with contextlib.suppress(OSError):  # the terminal or the pipe is gone; the run is not
            self.watch(self.progress)

    def _verified(self) -> tuple[str, str | None]:
        if self._overtaken():  # the later attempt mends the parts
            return "stopped", None
        self._verification = verify(self.folder, self.planned.totals.images, self.record.attempt)
        return "complete" if self._verification.whole else "incomplete", None

    def _current(self, state: str, error: str | None) -> RunRecord:
        before = self.job.record if self.job.resume else None
        stages = {name: dict(figures) for name, figures in (before.stages if before else {}).items()}
        for name, figures in self.progress.snapshot.get("stages", {}).items():
            into = stages.setdefault(name, {})
            for figure, value in figures.items():
                into[figure] = round(into.get(figure, 0) + value, 3)
        return replace(
            self.record,
            state=state,
            error=redact(error) if error else None,
            updated_at=now(),
            finished_at=None if state == "running" else now(),
            manifest=asdict(self.progress.totals),
            counts=dict(self._before.counts + Counter(self.progress.snapshot.get("counts", {}))),
            instances=self._before.instances + self.progress.snapshot.get("instances", 0),
            stages=stages,
            seconds=round((before.seconds if before else 0) + time.monotonic() - self._started, 3),
        )

    def _finish(self, state: str, error: str | None) -> RunRecord:
        self._refresh()
        try:
            with explaining(self.record.lake, "write the run's record"):
                self.folder.require_newest(self.record.attempt)
                record = self._current(state, error)
                if self._verification is not None:
                    record = replace(record, verification=asdict(self._verification))
                if state == "complete":
                    committed, summary = summarise(self.folder)
                    record = replace(record, parts=asdict(summary))
                else:
                    committed = tally(self.folder)
                record = replace(record, counts=dict(committed.counts), instances=committed.instances)
                self.folder.save(record)
        except SupersededError:
            with explaining(self.record.lake, "take back what was not committed"):
                take_back_uncommitted(self.folder, self.record.attempt, self._model)
            return self._current("stopped", "a later attempt took over")
        if state == "complete" and not self.job.redo_all:  # else the other runs have not been looked at
            try_to_pack_rows(self.planned.lake)
        return record


def _cause(failure: BaseException | str) -> str:
    """The reason in one line: Ray Data adds advice below it."""
    if isinstance(failure, UserError | str):
        return str(failure)
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0] if lines else 'no reason given'}"

"""Commands at work in one lake at once, in any order of their steps, killed, held and overtaken: what any reader sees is whole.

hypothesis chooses which command takes its next step (before and after each change of the storage); the invariants are looked at after
each choice, and at the end every run is resumed. The model is small: which runs there are, which rows were seen, who holds the lock.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.lock import Lock, LockHeldError
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.registry import Registry
from masklake.pipeline.lake.replacements import Replacements
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment import run as driver_module
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.tend import forgetting, work
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.replacing import Tending

from tests.conftest import Bucket
from tests.helpers.faults.actors import Actor, acting, current
from tests.helpers.faults.inline_engine import InlineEngine
from tests.helpers.faults.table import counted
from tests.helpers.label_sets import an_instance, label_set
from tests.helpers.runs import fill, make_job, resume_job

N = 6
RESOURCES = Resources.fitted(2, 0, packet_images=2, commit_images=2)
MODELS = {"photos": "0123456789ab", "cats": "ba9876543210"}
LABELLED = [f"s3://photos/{i}.png" for i in range(3)]
MIB = 2**20


class Driver(driver_module._Driver):
    """A driver in a thread: no signal wakes it."""

    def _interrupt(self, trouble: Exception | None) -> None:
        self._trouble = trouble
        self.engine.ledger.stop()


class StepwiseTending(Tending):
    """Waiting is a step like another. (What it waits for, readers that opened the lake before, are never between two steps here.)"""

    def pause(self, seconds: float) -> None:
        if actor := current():
            actor.pause(f"waits {seconds:.0f} s")


class Histories(RuleBasedStateMachine):
    """One lake, and all who work in it."""

    bucket: ClassVar[Bucket | None] = None
    totals: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        fill(self.folder / "photos", N)
        self.source = str(self.folder / "photos")
        self.uris = [str(path) for path in sorted((self.folder / "photos").iterdir())]
        self.lake = str(self.folder / "lake")
        if self.bucket is not None:
            self.lake = f"{self.bucket.uri}/{new_run_id()}"
        self.numbers = itertools.count(1)
        self.actors: list[Actor] = []
        self.run_of: dict[str, str] = {}
        self.drivers: dict[str, Driver] = {}
        self.silent: set[str] = set()
        self.runs: list[str] = []
        self.seen: dict[str, set[str]] = {}
        self.ended: dict[str, int] = {}
        """The attempts of runs that were seen to be complete."""
        self.imports: Counter[str] = Counter()
        self.holders: set[str] = set()
        self.begun_to_forget: set[str] = set()
        """Images of which no row need be there any more."""
        self.forgotten: dict[str, set[str]] = defaultdict(set)
        """By run: images of which no row may be there."""
        self.context = contextlib.ExitStack()
        self.context.enter_context(acting())
        self.context.enter_context(mock.patch.object(driver_module, "process_alive", self.is_alive))
        self.context.enter_context(mock.patch.object(driver_module, "HEARTBEAT_S", 1e9))
        self.context.enter_context(mock.patch.object(forgetting, "process_alive", self.is_any_alive))
        Storage().write(f"{self.lake}/README.txt", b"so that the folder is there")
        for name, version in MODELS.items():
            Registry(self.lake, Storage()).add(name, version, {"model.json": b"{}"})

    # ---- what a driver knows of others: all are threads of one process ----

    def is_alive(self, _: int) -> bool:
        """Whether another that had the same run lives, as far as one can know."""
        me = current()
        run = self.run_of.get(me.name) if me else None
        others = [a for a in self.actors if a is not me and self.run_of.get(a.name) == run]
        return any(a.alive and a.name not in self.silent for a in others)

    def is_any_alive(self, _: int) -> bool:
        """What `forget` and `compact` know of a run's driver: it may be any of those that live."""
        return any(a.alive and a.name not in self.silent for a in self.actors if a.name in self.run_of)

    # ---- commands ----

    def begin(self, what: str, work: Any, run: str | None = None) -> None:
        """Another command at its first step."""
        name = f"{what} {next(self.numbers)}"
        if run is not None:
            self.run_of[name] = run
        self.actors.append(Actor(name, work))
        self.totals[what] += 1

    def drive(self, actor: Actor, run: str) -> None:
        """The work of `masklake segment`, new or resumed."""
        if Storage().exists(RunFolder(self.lake, run, Storage()).record_uri):
            job = resume_job(self.lake, run)
        else:
            job = make_job(self.source, self.lake, run_id=run, redo_all=True)
        driver = Driver(job, Planned(job), RESOURCES, lambda _: None, InlineEngine)
        self.drivers[actor.name] = driver
        record = driver.run()
        if record.state == "failed" and not actor.killed:
            raise AssertionError(f"{actor.name} failed: {record.error}")

    @rule()
    @precondition(lambda self: len(self.runs) < 3)
    def segment(self) -> None:
        run = f"{new_run_id()}{len(self.runs)}"
        self.runs.append(run)
        self.begin("segment", lambda actor: self.drive(actor, run), run)

    @rule(data=st.data())
    @precondition(lambda self: self.runs and len(self.alive()) < 8)
    def resume(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.runs))
        if Storage().exists(RunFolder(self.lake, run, Storage()).record_uri):
            self.begin("resume", lambda actor: self.drive(actor, run), run)

    @rule(x=st.integers(1, 20))
    @precondition(lambda self: len(self.alive()) < 8)
    def import_labels(self, x: int) -> None:
        def work(actor: Actor) -> None:
            sets = [label_set(uri, an_instance(box=(x, 4, 16, 12))) for uri in LABELLED]
            if label_store.add(Lake(self.lake, Storage()), sets).part is not None:
                self.imports["written"] += 1

        self.begin("import", work)

    @rule(name=st.sampled_from(sorted(MODELS)))
    @precondition(lambda self: len(self.alive()) < 8)
    def promote(self, name: str) -> None:
        def work(actor: Actor) -> None:
            registry = Registry(self.lake, Storage())
            version = registry.find(f"{name}@{MODELS[name]}")
            assert version is not None
            registry.promote(version, "production", registry.aliases(name))

        self.begin("promote", work)

    @rule()
    @precondition(lambda self: len(self.alive()) < 8)
    def work_under_the_lock(self) -> None:
        """As each of two schedulers does."""

        def work(actor: Actor) -> None:
            with Lock(self.lake, "segment", Storage(), what=actor.name):
                assert not self.holders, f"{actor.name} and {self.holders} hold the lock"
                self.holders.add(actor.name)
                actor.pause("work under the lock")
                self.holders.discard(actor.name)

        self.begin("lock", work)

    def tend(self, what: str, command: Callable[[Tending], None]) -> None:
        def locked(actor: Actor) -> None:
            with Lock(self.lake, work.LOCK, Storage(), what=actor.name):
                command(StepwiseTending(lake=self.lake, storage=Storage(), grace_s=0.0))
                self.totals[f"{what} done"] += 1

        self.begin(what, locked)

    @rule()
    @precondition(lambda self: len(self.alive()) < 8)
    def compact(self) -> None:
        self.tend("compact", lambda tending: work.compact(tending, MIB))

    @rule(number=st.integers(0, N - 1))
    @precondition(lambda self: self.runs and len(self.alive()) < 8)
    def forget(self, number: int) -> None:
        """An image. Runs that were there before have no row of it once the command is done, whatever they were at."""
        uri = self.uris[number]

        def forget(tending: Tending) -> None:
            before = [
                run for run in self.runs if Storage().exists(RunFolder(self.lake, run, Storage()).record_uri)
            ]
            self.begun_to_forget.add(uri)
            work.forget(tending, Chosen(uris=frozenset({uri})))
            for run in before:
                self.forgotten[run].add(uri)

        self.tend("forget", forget)

    # ---- what befalls them ----

    def alive(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.alive]

    @rule(data=st.data(), steps=st.integers(1, 12))
    @precondition(lambda self: self.alive())
    def step(self, data: st.DataObject, steps: int) -> None:
        actor = data.draw(st.sampled_from(self.alive()))
        actor.step(steps)
        note(f"{steps} steps: {actor}")

    @rule(data=st.data())
    @precondition(lambda self: self.alive())
    def finish(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from(self.alive()))
        actor.finish()
        note(f"to its end: {actor}")

    @rule(data=st.data())
    @precondition(lambda self: self.alive())
    def kill(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from(self.alive()))
        note(f"killed: {actor}")
        actor.kill()
        self.holders.discard(actor.name)
        self.totals["killed"] += 1
        if actor.name.startswith(("compact", "forget")):  # a minute later
            self.release_lock_of(actor)

    def release_lock_of(self, actor: Actor) -> None:
        uri = f"{self.lake}/locks/{work.LOCK}.json"
        with contextlib.suppress(FileNotFoundError):
            if json.loads(Storage().read(uri))["what"] == actor.name:
                Storage().delete(uri)

    @rule(data=st.data(), steps=st.integers(0, 60), finished=st.booleans())
    @precondition(lambda self: any(actor.name in self.run_of for actor in self.alive()))
    def hold_for_a_minute(self, data: st.DataObject, steps: int, finished: bool) -> None:
        """At any step, so that a resume takes the run over, and may finish it; and then it goes on."""
        actor = data.draw(st.sampled_from([a for a in self.alive() if a.name in self.run_of]))
        actor.step(steps)
        note(f"held: {actor}")
        self.silent.add(actor.name)
        self.totals["held"] += 1
        run = self.run_of[actor.name]
        if finished and Storage().exists(RunFolder(self.lake, run, Storage()).record_uri):
            self.begin("resume", lambda actor: self.drive(actor, run), run)
            self.actors[-1].finish()

    @rule(data=st.data())
    @precondition(lambda self: any(actor.name in self.drivers for actor in self.alive()))
    def interrupt(self, data: st.DataObject) -> None:
        """Ctrl-C, once."""
        actor = data.draw(st.sampled_from([a for a in self.alive() if a.name in self.drivers]))
        driver = self.drivers[actor.name]
        if hasattr(driver, "engine"):
            note(f"interrupted: {actor}")
            driver.progress.stopping = True
            driver.engine.ledger.stop()

    # ---- what holds at every moment ----

    @invariant()
    def readers_see_what_is_whole(self) -> None:
        lake = Lake(self.lake, Storage())
        for run in lake.runs():
            images = lake.dataset("images", [run.id]).to_table(columns=["uri", "n_instances"])
            uris = images["uri"].to_pylist()
            assert len(set(uris)) == len(uris), f"run {run.id} has images twice"
            owners = Counter(lake.dataset("instances", [run.id]).to_table(columns=["uri"])["uri"].to_pylist())
            assert [owners[uri] for uri in uris] == images["n_instances"].to_pylist()
            assert owners.keys() <= set(uris)
            lost = self.seen.get(run.id, set()) - set(uris)
            assert lost <= self.begun_to_forget, f"run {run.id} has lost rows that were seen"
            assert not self.forgotten[run.id] & set(uris), f"run {run.id} has rows of what was forgotten"
            self.seen[run.id] = set(uris)
            if run.record is not None and run.record.state == "complete":
                assert set(self.uris) - set(uris) <= self.begun_to_forget
                self.ended.setdefault(run.id, run.record.attempt)
            if run.id in self.ended:
                assert run.record is not None
                assert run.record.state == "complete"
                assert run.record.attempt == self.ended[run.id], "a complete run was worked on again"
        self.totals["looks"] += 1

    @invariant()
    def each_import_is_whole(self) -> None:
        lake = Lake(self.lake, Storage())
        newest = label_store.newest(lake)
        assert len(newest) in (0, len(LABELLED))
        assert len({label_set.instances[0].box for label_set in newest}) <= 1, (
            "labels of two imports are mixed"
        )
        rows = lake.dataset("labels").count_rows() if lake.parts("labels") else 0
        assert rows >= len(LABELLED) * self.imports["written"], "an import is lost"

    @invariant()
    def errors_are_refusals(self) -> None:
        for actor in self.actors:
            assert actor.error is None or isinstance(actor.error, UserError | LockHeldError), repr(
                actor.error
            )

    def teardown(self) -> None:
        try:
            for actor in self.actors:
                actor.finish()
            self.compact()
            self.actors[-1].finish()
            state = Replacements.load(self.lake, Storage())
            assert (state.current, state.retired) == (None, ())
            self.readers_see_what_is_whole()
            self.each_import_is_whole()
            self.errors_are_refusals()
            having = [
                name for name in MODELS if Registry(self.lake, Storage()).aliases(name).version("production")
            ]
            if not any(actor.killed and actor.name.startswith("promote") for actor in self.actors):
                assert len(having) <= 1, "two models have the alias"
            for run in self.runs:
                folder = RunFolder(self.lake, run, Storage())
                if Storage().exists(folder.record_uri) and folder.load().state != "complete":
                    self.begin("resume", lambda actor, run=run: self.drive(actor, run), run)
                    self.actors[-1].finish()
                    assert folder.load().state == "complete", self.actors[-1]
                self.totals["rows"] += len(self.seen.get(run, ()))
            self.readers_see_what_is_whole()
            for run in Lake(self.lake, Storage()).run_ids():
                self.totals["images"] += N
                self.totals["whole"] += len(self.seen[run])
                self.totals["forgotten"] += len(self.begun_to_forget - self.seen[run])
        finally:
            for actor in self.actors:
                actor.kill()
            self.context.close()
            shutil.rmtree(self.folder)


def histories(examples: int, steps: int, bucket: Bucket | None = None) -> None:
    """So many of so many steps."""
    Histories.bucket, Histories.totals = bucket, Counter()
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    totals = Histories.totals
    print(dict(totals))
    counted(
        totals["images"],
        totals["whole"],
        lost=totals["images"] - totals["whole"] - totals["forgotten"],
        doubled=0,
        unit="rows of all runs",
    )


def test_a_few_histories() -> None:
    histories(6, 12)


@pytest.mark.slow
def test_many_histories() -> None:
    histories(100, 40)


@pytest.mark.slow
@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_histories_over_s3(s3_bucket: Bucket) -> None:
    histories(12, 30, s3_bucket)

"""Follow a submitted job: print its output, say what it waits for, and how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.terminal.text import duration, elide, note, one_line, printable
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.submit.job_server import JobServer

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_QUIET_S = 10.0
_AGAIN_S = 2.0
_TRIES = 15


def follow(server: JobServer, job: str) -> Any:
    """Print the job's output until it ends; returns its JobDetails from Ray.

    Raises UserError when there is no such job, or the cluster does not answer any more.
    """
    return asyncio.run(_followed(server, job))


async def _followed(server: JobServer, job: str) -> Any:
    from aiohttp import ClientError
    from masklake.jobs.submit.job_server import UnreachableError

    lines, failed = _Lines(), 0
    while True:
        try:
            info = server.info(job)
            async for chunk in _watched(server, job, info):
                lines.add(chunk)
                failed = 0
            info = server.info(job)
            if info.status in ENDED:
                lines.rest(server.logs(job))
                return info
        except (ClientError, RuntimeError, UnreachableError) as error:
            failed += 1
            if failed > _TRIES:
                raise UserError(
                    f"job {job}: the cluster at {server.address} does not answer any more ({one_line(str(error))}); once it "
                    f"does: masklake jobs status {job}{server.option}"
                ) from error
            if failed == 1:
                note(f"the connection to {server.address} is lost, trying again")
        lines.again()
        await asyncio.sleep(_AGAIN_S)


async def _watched(server: JobServer, job: str, info: Any) -> AsyncIterator[str]:
    """The job's output in pieces. Prints a note while the job has not started."""
    tail, began = server.tail(job), time.monotonic()
    piece = asyncio.ensure_future(anext(tail, None))
    try:
        while True:
            finished, _ = await asyncio.wait({piece}, timeout=_QUIET_S)
            if not finished:
                info = server.info(job)
                if info.status == "PENDING":
                    note(f"waiting for {pending(info)} ({duration(time.monotonic() - began)})")
                elif info.status in ENDED:
                    return
                continue
            text = piece.result()
            if text is None:
                return
            yield text
            piece = asyncio.ensure_future(anext(tail, None))
    finally:
        piece.cancel()
        await asyncio.gather(piece, return_exceptions=True)
        await tail.aclose()


def pending(info: Any) -> str:
    """What a job that has not started waits for."""
    if "runtime_env" in (info.message or "") and not info.entrypoint_resources:
        return "the cluster to take the job: its code is being unpacked, or no node has room to start it"
    return "the cluster to take the job"


class _Lines:
    """Prints complete lines, each line once, even if the output is read again from its start."""

    def __init__(self) -> None:
        self._lines_read = self._lines_printed = 0
        self._unfinished = ""

    def again(self) -> None:
        self._lines_read, self._unfinished = 0, ""

    def add(self, chunk: str) -> None:
        self._unfinished += chunk
        *lines, self._unfinished = self._unfinished.split("\n")
        for line in lines:
            self._lines_read += 1
            if self._lines_read > self._lines_printed:
                self._lines_printed = self._lines_read
                show(line)

    def rest(self, text: str) -> None:
        """Read the whole output again, to print what came after the last piece."""
        self.again()
        self.add(text)
        if self._unfinished:
            show(self._unfinished)


def show(line: str) -> None:
    """A line of the job's output, with nothing in it that a terminal would act on."""
    print("\t".join(printable(part) for part in line.rstrip("\r").split("\t")), flush=True)  # noqa: T201  # what was asked for


def exit_code(info: Any) -> int:
    """The job's exit code; 130 if it was stopped, 1 if it ended without an exit code."""
    if info.status == "SUCCEEDED":
        return ExitCode.DONE
    if info.status == "STOPPED":
        return ExitCode.STOPPED
    return code if (code := info.driver_exit_code or 0) > 0 else ExitCode.FAILED


def reason(info: Any) -> str:
    """Why a job failed, in one line."""
    code = info.driver_exit_code
    if code == 127:
        return "the nodes have no such program on their PATH; leave out --image-has-it, or install Masklake there"
    lines = [line for line in (info.message or "").splitlines() if line.strip()]
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    if code is not None:
        return f"exit code {code}: {elide(lines[-1].strip(), 300)}" if lines else f"exit code {code}"
    return elide(" ".join(lines), 300) or "no reason given"


def wait_for_end(server: JobServer, job: str, seconds: float, waiting: Callable[[float], None]) -> Any:
    """The job's JobDetails from Ray, once it has ended or after `seconds`."""
    began, last_told = time.monotonic(), 0.0
    while (info := server.info(job)).status not in ENDED:
        spent = time.monotonic() - began
        if spent > seconds:
            break
        if spent - last_told > _QUIET_S:
            last_told = spent
            waiting(spent)
        time.sleep(0.5)
    return info

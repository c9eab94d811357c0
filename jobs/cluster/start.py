"""Start an embedded Ray on a busy machine, and clean up after it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from masklake.jobs.terminal.text import note

_PATIENCE_S = 120.0
_LOOK_S = 0.2


def started_twice(start: Callable[[], None]) -> None:
    """`start` Ray; if that fails, try once more: the machine may have been too busy."""
    import ray

    try:
        with _patient():
            start()
    except Exception as error:  # noqa: BLE001  # Ray raises bare Exceptions when its processes are slow
        note(f"Ray did not start ({_reason(error)}); trying once more")
        ray.shutdown()
        with _patient():
            start()


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Wait two minutes for Ray's node instead of the half minute that is fixed in Ray; but not if its processes have ended.

    If the block fails, the processes that were started are stopped.
    """
    import ray._private.node as ray_node
    import ray._private.services as services

    nodes: list[Any] = []
    get_node, start = services.get_node, ray_node.Node.start_head_processes

    def remembered(self: Any) -> None:
        nodes.append(self)
        start(self)

    def patient(*args: Any, **keywords: Any) -> Any:
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return get_node(*args, **keywords)
            except RuntimeError:  # the node is not known yet
                if dead := [name for node in nodes for name in _dead(node)]:
                    raise OSError(f"its {', '.join(dead)} ended at once") from None
                if time.monotonic() > end:
                    raise
            time.sleep(_LOOK_S)

    try:
        with (
            mock.patch.object(ray_node.Node, "start_head_processes", remembered),
            mock.patch.object(services, "get_node", patient),
        ):
            yield
    except BaseException:
        for node in nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        raise


def _dead(node: Any) -> list[str]:
    processes: dict[str, list[Any]] = node.all_processes
    return [name for name, infos in processes.items() for info in infos if info.process.poll() is not None]


@contextlib.contextmanager
def clearing_session() -> Iterator[None]:
    """Remove the folder of the embedded Ray that runs now when the block, at whose end Ray is shut down, is over."""
    import ray._private.worker as worker

    node: Any = worker._global_node
    folder = Path(node.get_session_dir_path()) if node is not None else None
    try:
        yield
    finally:
        if folder is not None and folder.name.startswith("session_"):
            shutil.rmtree(folder, ignore_errors=True)
            latest = folder.with_name("session_latest")
            with contextlib.suppress(OSError):  # another Ray's by now
                if latest.is_symlink() and not latest.exists():
                    latest.unlink()

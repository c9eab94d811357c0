"""The failure hook: a command or a webhook that is called after a firing that failed. If the hook fails, that is recorded."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import SplitResult, urlsplit

from masklake.jobs.schedule.store import Firing, Schedule
from masklake.jobs.terminal.text import elide, one_line
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import redact

_TIMEOUT_S = 30.0
_ENVIRONMENT = "env:"


def check(command: str | None, webhook: str | None) -> None:
    """Raise UserError for a hook that cannot work, and for a hook with a secret in it."""
    if command is not None:
        _split(command)
        if redact(command) != command:
            raise UserError(
                f"--on-failure-command {redact(command)!r}: carries a credential; let the command read it from the daemon's environment"
            )
    if webhook is None or webhook.startswith(_ENVIRONMENT):
        return
    if "@" in _parts(webhook).netloc or redact(webhook) != webhook:
        raise UserError(
            f"--on-failure-webhook {without_path(webhook)!r}: carries a credential; put the URL into the daemon's environment, and write env:NAME"
        )
    _check_url(webhook, "--on-failure-webhook")


def _check_url(url: str, option: str) -> None:
    parts = _parts(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{option} {without_path(url)!r}: is no http:// or https:// URL")


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # a bracket that is not closed, and the like
        return urlsplit("")


def without_path(webhook: str) -> str:
    """A webhook as it is printed: without its path, which may be a secret."""
    if webhook.startswith(_ENVIRONMENT):
        return webhook
    parts = _parts(webhook)
    return f"{parts.scheme}://{parts.hostname or ''}" + ("/…" if parts.path.strip("/") or parts.query else "")


def facts(schedule: Schedule, firing: Firing, log: str | None) -> dict[str, Any]:
    """What a hook gets."""
    return {
        "schedule": schedule.name,
        "outcome": firing.state,
        "scheduled_at": firing.scheduled_at,
        "attempt": firing.attempt,
        "run": firing.run,
        "exit_code": firing.exit_code,
        "seconds": firing.seconds,
        "detail": firing.detail,
        "log": log,
    }


def tell(schedule: Schedule, values: dict[str, Any]) -> str:
    """Run the hook with these facts; returns its outcome in a few words. A hook that fails raises nothing here."""
    if schedule.on_failure_command is not None:
        return _command(schedule.on_failure_command, values, schedule.cwd)
    if schedule.on_failure_webhook is not None:
        return _webhook(schedule.on_failure_webhook, values)
    return "none"


def _split(command: str) -> list[str]:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UserError(
            f"--on-failure-command {redact(command)!r}: cannot be read ({error}); check its quotes"
        ) from error
    if not arguments:
        raise UserError("--on-failure-command: names no command")
    return arguments


def _command(command: str, values: dict[str, Any], cwd: str) -> str:
    environment = {
        f"MASKLAKE_{name.upper()}": "" if value is None else str(value) for name, value in values.items()
    }
    try:
        process = subprocess.run(  # noqa: S603  # what the user asked to be run, without a shell
            _split(command),
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"command ran past {_TIMEOUT_S:.0f} s and was killed"
    except (OSError, ValueError) as error:  # ValueError: a NUL in one of the values
        return f"command failed: {_short(str(error))}"
    if process.returncode:
        return f"command failed: exit code {process.returncode}: {_short(process.stderr.decode(errors='replace'))}"
    return "command ran"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, without its body."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _webhook(webhook: str, values: dict[str, Any]) -> str:
    name = webhook.removeprefix(_ENVIRONMENT)
    url = os.environ.get(name, "") if webhook.startswith(_ENVIRONMENT) else webhook
    try:
        _check_url(url, "the webhook")
        request = urllib.request.Request(  # noqa: S310  # http and https only, as was just checked
            url,
            data=json.dumps(values, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "masklake-schedule"},
            method="POST",
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S) as answer:
            return f"webhook answered {answer.status}"
    except urllib.error.HTTPError as error:
        return f"webhook failed: answered {error.code}"
    except UserError:
        return f"webhook failed: {webhook if webhook.startswith(_ENVIRONMENT) else 'it'} is no http:// or https:// URL"
    except (OSError, HTTPException, ValueError) as error:
        # Some of these messages contain the URL, which may be a secret.
        return f"webhook failed: {_short(str(error).replace(url, '…'))}"


def _short(text: str) -> str:
    return elide(one_line(redact(text)), 200)

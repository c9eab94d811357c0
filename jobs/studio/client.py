"""Label Studio's HTTP API: what Masklake asks of a project.

The token comes from the environment alone: a legacy token, or a personal access token, which is exchanged for short-lived
access tokens. It is sent to the server's own address only: redirects are refused. What only reads is tried again for a while;
what writes only where the server has surely not begun with it.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from masklake.jobs.terminal.text import elide, one_line
from masklake.pipeline.errors import OutageError, UserError
from requests.auth import AuthBase

TOKEN = "LABEL_STUDIO_API_KEY"  # noqa: S105  # the name of the variable
PAGE = 100
"""Tasks of a page; one of them may hold megabytes of masks."""
_PATIENCE_S = 60.0
"""How long a request is tried again."""
_CONNECT_S = 10.0
_READ_S = 120.0
_WRITE_S = 600.0
"""How long the server may take for tasks: a large project counts its own again after each import."""
_LATER = (429, 502, 503, 504)
_NOT_BEGUN = (429, 503)
_LABELS = "id,data,annotations,result,was_cancelled,ground_truth,created_at,updated_at"
_POLL_S = 2.0
_FIRST_WAIT_S = 0.25


class _Bearer(AuthBase):
    """Who asks, as requests' own auth, so that no ~/.netrc takes its place."""

    def __init__(self, header: str) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


class StudioClient:
    """The server at `url`, asked under the token of the environment. Raises UserError where either cannot be.

    Every method raises UserError for what the server refuses, and OutageError where it does not answer.
    """

    def __init__(self, url: str, *, patience_s: float = _PATIENCE_S) -> None:
        _require_address(url)
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._secret = os.environ.get(TOKEN, "").strip()
        if not self._secret or not self._secret.isascii() or not self._secret.isprintable():
            raise UserError(
                f"{self.url}: wants a token; set {TOKEN} to one of Account & Settings in Label Studio"
            )
        # A personal access token is a JWT: three parts. A legacy one is 40 hex digits.
        self._personal = self._secret.count(".") == 2
        self._auth = None if self._personal else _Bearer(f"Token {self._secret}")
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # the token says who asks

    def project(self, number: int) -> dict[str, Any]:
        """The project, with its `label_config`."""
        return _object(self._read(f"api/projects/{number}/"), "label_config")

    def interface(self, number: int) -> str:
        """The XML of the project's labelling interface; of one that has none, the empty one of a new project."""
        return self.project(number)["label_config"] or "<View></View>"

    def set_interface(self, number: int, xml: str) -> None:
        """Give the project this labelling interface."""
        self._write("PATCH", f"api/projects/{number}/", json={"label_config": xml})

    def tasks(self, number: int, *, labels: bool) -> Iterator[dict[str, Any]]:
        """Every task of the project with its id and data; with `labels` its annotations too. Predictions are not asked for.

        Pages are cut by ids, not by numbers: tasks that come or go meanwhile move no other from one page to the next.
        """
        wanted = {"include": _LABELS, "fields": "all"} if labels else {"include": "id,data"}
        last = 0
        while True:
            after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
            chosen = {"filters": {"conjunction": "and", "items": [after]}, "ordering": ["tasks:id"]}
            asked = {"project": number, "page": 1, "page_size": PAGE, "resolve_uri": "false"}
            answer = self._read("api/tasks/", {**asked, **wanted, "query": json.dumps(chosen)})
            page = _object(answer, "tasks")["tasks"]
            ids = [task["id"] for task in page]
            if any(later <= earlier for earlier, later in zip([last, *ids], ids, strict=False)):
                raise UserError(f"{self.url}: does not page through tasks by their ids; update Label Studio")
            yield from page
            if not page:
                return
            last = ids[-1]

    def add_tasks(self, number: int, tasks: Sequence[dict[str, Any]]) -> None:
        """Add tasks, which are there when this returns."""
        answer = self._write("POST", f"api/projects/{number}/import", json=tasks)
        job = _object(answer, "task_count", "import").get("import")
        while job is not None:  # Label Studio Enterprise does it later
            state = _object(self._read(f"api/projects/{number}/imports/{job}/"), "status")
            if state["status"] == "completed":
                return
            if state["status"] == "failed":
                raise UserError(
                    f"{self.url}: could not import the tasks: {elide(one_line(str(state.get('error'))), 300)}"
                )
            time.sleep(_POLL_S)

    def upload(self, number: int, name: str, data: bytes) -> str:
        """Give the server a file for the project; its path there."""
        files = {"file": (name, data)}
        answer = self._write(
            "POST", f"api/projects/{number}/import", params={"commit_to_project": "false"}, files=files
        )
        [id_] = _object(answer, "file_upload_ids")["file_upload_ids"]
        return f"/data/{_object(self._read(f'api/import/file-upload/{id_}'), 'file')['file']}"

    def file(self, path: str, most: int) -> bytes:
        """A file that the server has, at most `most` bytes of it. Raises UserError for one that is larger."""
        with self._read(path.lstrip("/"), stream=True) as answer:
            try:
                data = b"".join(_limited(answer, most))
            except requests.RequestException as error:
                raise OutageError(f"{self.url}{path}: broke off ({_in_words(error)}); try again") from None
        if len(data) > most:
            raise UserError(f"{path}: is larger than {most:,} bytes")
        return data

    def _read(self, path: str, params: dict[str, Any] | None = None, **more: Any) -> requests.Response:
        return self._tried(
            lambda: self._asked("GET", path, params=params, **more), _LATER, requests.RequestException
        )

    def _write(self, method: str, path: str, **more: Any) -> requests.Response:
        """Tried again only where the server cannot have begun: what it has begun, it may finish without our hearing of it."""
        self._session.close()  # the server may be about to end a connection that was idle
        more = {"timeout": (_CONNECT_S, _WRITE_S), **more}
        return self._tried(
            lambda: self._asked(method, path, **more),
            _NOT_BEGUN,
            requests.ConnectTimeout,
            ": what has arrived is not sent twice",
        )

    def _tried(
        self,
        send: Callable[[], requests.Response],
        later: tuple[int, ...],
        passing: type[Exception],
        why_not_again: str = "",
    ) -> requests.Response:
        """What `send` gets. It is called again after the statuses `later`, errors of the kind `passing`, and where nothing was sent."""
        deadline = time.monotonic() + self._patience_s
        wait = _FIRST_WAIT_S
        while True:
            try:
                answer = send()
                if answer.status_code not in later:
                    return self._checked(answer)
                reason = f"it answers {answer.status_code}"
                again = True
            except requests.RequestException as error:
                reason = _in_words(error)
                again = isinstance(error, passing) or _unsent(error)
            if not again or time.monotonic() + wait > deadline:
                raise OutageError(f"{self.url}: does not answer ({reason}); try again{why_not_again}")
            time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  # no secret hangs on it
            wait = min(wait * 2, 10.0)

    def _asked(self, method: str, path: str, **more: Any) -> requests.Response:
        more = {"timeout": (_CONNECT_S, _READ_S), **more}
        if self._auth is None:
            self._auth = self._access()
        answer = self._session.request(
            method, f"{self.url}/{path}", auth=self._auth, allow_redirects=False, **more
        )
        if answer.status_code == 401 and self._personal:  # an access token lives for some minutes
            self._auth = self._access()
            answer = self._session.request(
                method, f"{self.url}/{path}", auth=self._auth, allow_redirects=False, **more
            )
        return answer

    def _access(self) -> _Bearer:
        """The access token of a personal one. Asked for as what only reads, also on behalf of what writes: it changes nothing."""

        def exchange() -> requests.Response:
            return self._session.post(
                f"{self.url}/api/token/refresh/",
                json={"refresh": self._secret},
                timeout=(_CONNECT_S, _READ_S),
                allow_redirects=False,
            )

        answer = self._tried(exchange, _LATER, requests.RequestException)
        return _Bearer(f"Bearer {_object(answer, 'access')['access']}")

    def _checked(self, answer: requests.Response) -> requests.Response:
        """Raises UserError for what is no success."""
        code = answer.status_code
        if 300 <= code < 400:
            target = answer.headers.get("Location", "").partition("?")[0]
            raise UserError(
                f"{self.url}: sends on to {elide(one_line(target), 200)}; give the address of Label Studio itself"
            )
        if code == 401:
            kind = "personal access token" if self._personal else "legacy token"
            raise UserError(
                f"{self.url}: refuses the {kind} of {TOKEN} ({_detail(answer)}); take another from Account & Settings, and "
                "see in Organization > API Tokens Settings which kind is enabled"
            )
        if code >= 500:
            raise OutageError(f"{self.url}: fails ({code}: {_detail(answer)}); see its log")
        if code >= 400:
            raise UserError(
                f"{self.url}: refuses {answer.request.method} {answer.request.path_url.partition('?')[0]} ({code}: {_detail(answer)})"
            )
        return answer


def _require_address(url: str) -> None:
    """Raises UserError, without what could be a password or a token, for what is no address of a server."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # it may be no number
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        shown = re.sub(r"^(\w+://)?.*@", r"\1", url).partition("?")[0]
        raise UserError(f"{shown}: is no address of a Label Studio, such as http://localhost:8080")


def _object(answer: requests.Response, *keys: str) -> dict[str, Any]:
    """The answer's JSON object. Raises UserError where it is none with one of `keys`: another server answers there."""
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict) or not value.keys() & set(keys):
        raise UserError(
            f"{answer.url.partition('?')[0]}: does not answer as Label Studio does; check the address"
        )
    return value


def _limited(answer: requests.Response, most: int) -> Iterator[bytes]:
    size = 0
    for chunk in answer.iter_content(1 << 20):
        yield chunk
        size += len(chunk)
        if size > most:
            return


def _unsent(error: requests.RequestException) -> bool:
    """Whether no connection came about."""
    from urllib3.exceptions import NewConnectionError

    cause: Any = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", None), NewConnectionError)


def _in_words(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection in {_CONNECT_S:.0f} s"
    if isinstance(error, requests.Timeout):
        return "it took too long"
    return "no connection" if _unsent(error) else type(error).__name__


def _detail(answer: requests.Response) -> str:
    """What the server says of its refusal."""
    try:
        value = answer.json()
    except ValueError:
        return answer.reason or "no reason given"
    if not isinstance(value, dict):
        return elide(one_line(str(value)), 300)
    details = value.get("validation_errors") or value.get("detail") or answer.reason
    return elide(one_line(str(details)), 300)

"""The gallery's server: pages through a lake of any size by asking the Parquet behind it. It reads, and writes nothing.

On the loopback it serves who is on this machine. On another address it serves who has the token that it makes itself. A
request that names another host, or comes from another site's page, is refused; nothing allows other origins to read.
"""

from __future__ import annotations

import contextlib
import hmac
import http.cookies
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import duckdb
from masklake.jobs.serving.local_server import LocalServer
from masklake.jobs.view import page
from masklake.jobs.view.gallery import LakeGallery
from masklake.jobs.view.photos import TYPES, NoPhotoError, fetch, preview
from masklake.jobs.view.selection import NEWEST, GalleryFilter
from masklake.pipeline.errors import OutageError, UserError
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.jobs.query.database import Database
    from masklake.pipeline.storage.store import Storage

T = TypeVar("T")

QUERY_S = 60.0
"""How long the queries of one request may take."""
_FRESH_S = 60.0
"""A page that is loaded after this time sees what has been written since."""
_LOOK_AGAIN_S = 0.05
_MOST_IMAGES = 200
_MOST_PER_IMAGE = 200
"""Instances of an image on a page of many; the image alone has them all, up to _MOST_ALONE."""
_MOST_ALONE = 5_000
_MOST_LISTED = 1_000
_SIDES = range(16, 4097)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class ServedLake:
    """A lake that is asked by one request at a time, each within QUERY_S; opened again when it has changed."""

    def __init__(self, open_: Callable[[], Database], storage: Storage, where: str | None) -> None:
        self._open, self._where = open_, where
        self.storage = storage
        self._turn = threading.Lock()
        self._closing = threading.Event()
        self._database: Database | None = None
        self._gallery: LakeGallery | None = None
        self._opened_s = 0.0

    def ask(self, question: Callable[[LakeGallery], T], *, fresh: bool = False) -> T:
        """The answer of the lake. Raises UserError; OutageError where it took too long, or the lake is closed."""
        with self._turn:
            self._require_open()
            if self._database is None or (fresh and time.monotonic() - self._opened_s > _FRESH_S):
                self._reopen()
            try:
                return self._within_time(question)
            except UserError:
                # Parts go when another command makes them fewer and larger; what has taken their place is there to read.
                if self._database is None or self._database.storage_failure() is None:
                    raise
            self._reopen()
            return self._within_time(question)

    def _within_time(self, question: Callable[[LakeGallery], T]) -> T:
        if self._database is None:
            raise AssertionError("it is opened before it is asked")
        late = threading.Event()
        connection = self._database.connection

        def stop() -> None:
            late.set()
            connection.interrupt()

        timer = threading.Timer(QUERY_S, stop)
        timer.daemon = True
        timer.start()
        try:
            if self._gallery is None:
                self._gallery = LakeGallery(self._database, self._where)
            return question(self._gallery)
        except (KeyboardInterrupt, UserError):  # what an interrupted query raises
            self._require_open()
            if not late.is_set():
                raise
            raise OutageError(
                f"the query took more than {QUERY_S:.0f} s; choose less, or ask masklake query"
            ) from None
        finally:
            timer.cancel()

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise OutageError("masklake view is ending")

    def _reopen(self) -> None:
        self._shut()
        self._database = self._open()
        self._opened_s = time.monotonic()

    def close(self) -> None:
        """End the question in hand, and answer no other. DuckDB refuses to close a connection that is at work."""
        self._closing.set()
        while not self._turn.acquire(timeout=_LOOK_AGAIN_S):
            if (database := self._database) is not None:
                with contextlib.suppress(duckdb.ConnectionException):  # it is closed, to be opened anew
                    database.connection.interrupt()
        self._shut()
        self._turn.release()

    def _shut(self) -> None:
        if self._database is not None:
            self._database.__exit__(None, None, None)
        self._database = self._gallery = None


class GalleryServer(LocalServer):
    """Serves `lake` on `host` (an address of this machine) and `port` (0: one that is free)."""

    daemon_threads = True

    def __init__(self, host: str, port: int, lake: ServedLake) -> None:
        self.lake = lake
        super().__init__(host, port, _Handler)
        self.token = None if self.loopback else secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """What a user opens."""
        query = f"?token={self.token}" if self.token else ""
        return f"{super().url}/{query}"


class _RefusedError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    server: GalleryServer
    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "masklake", ""

    def do_GET(self) -> None:
        try:
            self._answer()
        except ConnectionError:  # the browser has gone on
            self.close_connection = True

    def _answer(self) -> None:
        try:
            path, values = self._request()
            answer = _ROUTES.get(path)
            if answer is None:
                raise _RefusedError(404, "there is no such page")
            answer(self, values)
        except _RefusedError as refused:
            self._json({"error": str(refused)}, refused.code)
        except NoPhotoError as error:
            self._json({"error": str(error)})  # browsers would report another code as an error of the page
        except UserError as error:
            self._json({"error": str(error)}, 503 if isinstance(error, OutageError) else 400)

    def _request(self) -> tuple[str, dict[str, str]]:
        """Path and values. Raises _RefusedError for who may not ask."""
        parts = urlsplit(self.path)
        values = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=30))
        if self.server.hosts and self.headers.get("Host") not in self.server.hosts:
            raise _RefusedError(421, "this server has another name")
        elsewhere = self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        if elsewhere and (parts.path != "/" or self.headers.get("Sec-Fetch-Mode") != "navigate"):
            raise _RefusedError(403, "asked by another site")
        self._check_token(parts.path, values)
        return parts.path, values

    def _check_token(self, path: str, values: dict[str, str]) -> None:
        token = self.server.token
        if token is None:
            return
        cookie = http.cookies.SimpleCookie()
        try:
            cookie.load(self.headers.get("Cookie", ""))
        except http.cookies.CookieError:
            cookie.clear()
        held = cookie["masklake"].value if "masklake" in cookie else ""
        given = values.get("token", "") if path == "/" else ""
        if not any(hmac.compare_digest(word.encode(), token.encode()) for word in (held, given)):
            raise _RefusedError(401, "open the address with the token that masklake view has printed")

    def _send(
        self, content: bytes, type_: str, code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(code)
        for name, value in {**_HEADERS, "Cache-Control": "no-store", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _json(self, values: Any, code: int = 200) -> None:
        self._send(page.text_of(values).encode(), "application/json", code)

    def root(self, values: dict[str, str]) -> None:
        """The gallery; a token becomes a cookie, so that it leaves the address."""
        cookie = {}
        if "token" in values:
            cookie = {"Set-Cookie": f"masklake={self.server.token}; HttpOnly; SameSite=Strict; Path=/"}
        self._send(b"", "text/plain", 303, {"Location": "/index.html", **cookie})

    def file(self, _: dict[str, str]) -> None:
        name = urlsplit(self.path).path.lstrip("/")
        self._send((page.STATIC / name).read_bytes(), page.FILES[name])

    def site(self, _: dict[str, str]) -> None:
        def question(gallery: LakeGallery) -> bytes:
            source = page.first_source(gallery)
            shown = gallery.count(GalleryFilter(source=source))
            return page.site_script(page.site(gallery, source=source, shown=shown, served=True))

        self._send(self.server.lake.ask(question, fresh=True), "text/javascript; charset=utf-8")

    def images(self, values: dict[str, str]) -> None:
        choice, other = _choice(values), values.get("with", "")
        first, limit = _number(values, "first", 0, 10**12), _number(values, "limit", 1, _MOST_IMAGES)

        def question(gallery: LakeGallery) -> dict[str, Any]:
            gallery.check(choice, other)
            images = gallery.page(choice, first, limit)
            return {
                "total": gallery.count(choice),
                "images": _with_instances(gallery, images, other, _MOST_PER_IMAGE),
            }

        self._json(self.server.lake.ask(question))

    def image(self, values: dict[str, str]) -> None:
        other = values.get("with", "")

        def question(gallery: LakeGallery) -> dict[str, Any]:
            gallery.check(GalleryFilter(), other)
            return {"image": _with_instances(gallery, [_existing(gallery, values)], other, _MOST_ALONE)[0]}

        self._json(self.server.lake.ask(question))

    def photo(self, values: dict[str, str]) -> None:
        """The photo as a JPEG of this server's own making, never the object's bytes, whatever they are; or why there is none."""
        side = _number(values, "side", _SIDES.start, _SIDES.stop - 1)
        image = self.server.lake.ask(lambda gallery: _existing(gallery, values))
        (data,) = fetch(self.server.lake.storage, [image])
        if isinstance(data, NoPhotoError):
            raise data
        content, _ = preview(data, side, "jpeg")
        self._send(content, TYPES["jpeg"], headers={"Cache-Control": "private, max-age=3600"})

    def list_(self, values: dict[str, str]) -> None:
        number = _number({"page": "1"} | values, "page", 1, 10**9)

        def question(gallery: LakeGallery) -> tuple[list[dict[str, Any]], int]:
            choice = GalleryFilter(source=page.first_source(gallery))
            return gallery.page(choice, (number - 1) * _MOST_LISTED, _MOST_LISTED), gallery.count(choice)

        images, total = self.server.lake.ask(question)
        more = f"<p>{counted(total, 'images')}; page {number:,}.</p>"
        if number > 1:
            more += f'<p><a href="list.html?page={number - 1}">Previous page</a></p>'
        if number * _MOST_LISTED < total:
            more += f'<p><a href="list.html?page={number + 1}">Next page</a></p>'
        self._send(
            "".join(page.list_page(images, more)).encode("utf-8", "replace"), "text/html; charset=utf-8"
        )

    def log_message(self, *_: Any) -> None:
        """Nothing: paths hold tokens, and keys."""


_ROUTES: dict[str, Callable[[_Handler, dict[str, str]], None]] = {
    "/": _Handler.root,
    **{f"/{name}": _Handler.file for name in page.FILES},
    "/data/site.js": _Handler.site,
    "/api/images": _Handler.images,
    "/api/image": _Handler.image,
    "/photo": _Handler.photo,
    "/list.html": _Handler.list_,
}


def _choice(values: dict[str, str]) -> GalleryFilter:
    try:
        score = float(values.get("score") or 0)
    except ValueError:
        raise UserError(f"score: {values['score']!r} is not a number from 0 to 1") from None
    names = ("label", "size", "status", "split", "source", "sort")
    return GalleryFilter(score=score, **{name: values[name] for name in names if values.get(name)})


def _number(values: dict[str, str], name: str, least: int, most: int) -> int:
    text = values.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 15 and least <= int(text) <= most):
        raise _RefusedError(400, f"{name}: {text!r} is not a whole number from {least:,} to {most:,}")
    return int(text)


def _existing(gallery: LakeGallery, values: dict[str, str]) -> dict[str, Any]:
    image = gallery.image(values.get("id", ""))
    if image is None:
        raise _RefusedError(404, "there is no such image (any more)")
    return image


def _with_instances(
    gallery: LakeGallery, images: list[dict[str, Any]], other: str, most: int
) -> list[dict[str, Any]]:
    """`images` with `main`, their instances, and `other`, those of another run or the labels (null: not asked for, or they have not looked at it)."""
    main = gallery.instances(images, NEWEST, most)
    others = gallery.instances(images, other, most) if other else {}
    return [
        {
            **image,
            "main": page.finite(main.get(image["id"], [])),
            "other": page.finite(others.get(image["id"])),
        }
        for image in images
    ]

"""The gallery's server: whom it serves, with what, and within which limits."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from masklake.jobs.demo.loopback_s3 import LoopbackS3
from masklake.jobs.query.database import Database
from masklake.jobs.view import server as server_module
from masklake.jobs.view.server import GalleryServer, ServedLake
from masklake.pipeline.errors import OutageError, UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.gallery_lakes import HOSTILE, NEW, OLD, gallery_lake
from tests.helpers.lakes import LakeBuilder
from tests.helpers.servers.moto import Moto


@contextlib.contextmanager
def serving(lake: str, host: str = "127.0.0.1", **more: Any) -> Iterator[GalleryServer]:
    served = ServedLake(lambda: Database(Lake(lake, Storage())), Storage(), more.pop("where", None))
    with GalleryServer(host, 0, served) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            served.close()


def get(server: GalleryServer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=names)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def images(server: GalleryServer, **values: Any) -> Any:
    code, _, content = get(server, f"/api/images?{urlencode({'first': 0, 'limit': 60, **values})}")
    return json.loads(content) if code == 200 else (code, json.loads(content)["error"])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> LakeBuilder:
    return gallery_lake(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(lake: LakeBuilder) -> Iterator[GalleryServer]:
    with serving(lake.uri) as server:
        yield server


def test_pages_and_instances(server: GalleryServer) -> None:
    answer = images(server, sort="count", limit=2, **{"with": "labels"})
    assert answer["total"] == 10
    first = answer["images"][0]
    assert [row["label"] for row in first["main"]] == ["dog", "person"]
    assert [row["label"] for row in first["other"]] == ["dog", "horse"]
    code, _, content = get(server, f"/api/image?id={quote(first['id'])}&with={OLD}")
    assert (code, [row["label"] for row in json.loads(content)["image"]["other"]]) == (200, ["dog", "cat"])


def test_photos_are_pictures_of_the_servers_own(server: GalleryServer) -> None:
    code, headers, content = get(server, f"/photo?id={NEW}~0&side=32")
    assert (code, headers["Content-Type"], content[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")


@pytest.mark.parametrize(("name", "reason"), [("gone", "gone since"), ("changed", "has changed since")])
def test_why_there_is_no_photo(server: GalleryServer, name: str, reason: str) -> None:
    (id_,) = [row["id"] for row in images(server)["images"] if row["uri"].endswith(f"{name}.jpg")]
    _, headers, content = get(server, f"/photo?id={id_}&side=64")
    assert headers["Content-Type"] == "application/json"
    assert reason in json.loads(content)["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py", "/%2e%2e/server.py", "/static/view.js", "//etc/passwd", "/view.js/..", "/etc/passwd",
        "/photo/../../etc/passwd", "/index.html/../../options.py", "/.package", "/view.css%00",
    ],
)  # fmt: skip
def test_no_other_file_is_served(server: GalleryServer, path: str) -> None:
    assert get(server, path)[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example", "localhost.evil:1", ""]
)
def test_a_request_for_another_host_is_refused(server: GalleryServer, host: str) -> None:
    """What a page does whose name has been pointed at this machine (DNS rebinding)."""
    assert get(server, "/api/images?first=0&limit=1", Host=host)[0] == 421
    assert get(server, "/index.html", Host=host)[0] == 421


def test_other_sites_read_nothing(server: GalleryServer) -> None:
    code, headers, _ = get(server, "/index.html", Origin="https://evil.example")
    assert code == 200
    assert [name for name in headers if name.lower().startswith("access-control")] == []
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert (
        get(server, f"/photo?id={NEW}~0&side=64", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0]
        == 403
    )


def test_nothing_but_get(server: GalleryServer) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request(method, "/api/images")
        assert connection.getresponse().status == 501
        connection.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 100_000}, "limit: '100000' is not a whole number from 1 to 200"),
        ({"first": -1}, "first: '-1' is not"),
        ({"score": "x"}, "score: 'x' is not a number"),
        ({"score": "nan"}, "score"),
        ({"sort": "uri; drop"}, "sort: 'uri; drop' is not one of"),
        ({"label": "perso"}, "did you mean 'person'?"),
        ({"source": "../x"}, "has no run '../x'"),
        ({"with": "' or true --"}, "has no run"),
    ],
)
def test_what_is_asked_wrongly(server: GalleryServer, values: dict[str, Any], message: str) -> None:
    code, error = images(server, **values)
    assert code == 400
    assert message in error


SLOW = "(select count(*) from range(1000000000) a, range(1000000) b where a.range = b.range + 1) > 0"


def test_a_server_that_ends_ends_the_question_in_hand(lake: LakeBuilder) -> None:
    answers = []
    with serving(lake.uri, where=SLOW) as server:
        asking = threading.Thread(target=lambda: answers.append(images(server)))
        asking.start()
        time.sleep(1)  # it is at work
    asking.join(20)
    assert answers == [(503, "masklake view is ending")]
    with pytest.raises(OutageError, match="is ending"):
        server.lake.ask(lambda gallery: gallery.summary)


def test_a_question_that_takes_too_long_ends_by_itself(
    lake: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "QUERY_S", 0.5)
    with serving(lake.uri, where=SLOW) as server:
        code, error = images(server)
        assert (code, "took more than" in error) == (503, True), error


def test_another_address_wants_the_token(lake: LakeBuilder) -> None:
    with serving(lake.uri, "0.0.0.0") as server:  # noqa: S104  # what is tested
        assert server.token is not None
        assert server.url.endswith(f"/?token={server.token}")
        for path in ("/", "/?token=", "/?token=wrong", "/index.html", f"/index.html?token={server.token}"):
            assert get(server, path)[0] == 401, path
        assert get(server, "/index.html", Cookie="masklake=wrong")[0] == 401
        code, headers, _ = get(server, f"/?token={server.token}")
        assert (code, headers["Location"]) == (303, "/index.html")
        assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
        assert get(server, "/index.html", Cookie=headers["Set-Cookie"].partition(";")[0])[0] == 200


def test_a_browser_that_goes_on_meanwhile(server: GalleryServer, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (f"/photo?id={NEW}~0&side=64", "/photo?id=none&side=64", "/api/images?first=0&limit=60"):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # it ends with a reset
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode()
            )
    assert images(server)["total"] == 10
    assert "Traceback" not in capsys.readouterr().err


def test_the_list_without_javascript(server: GalleryServer) -> None:
    code, _, content = get(server, "/list.html")
    assert code == 200
    assert b"&lt;img src=x onerror" in content
    assert b"<img" not in content
    assert b"unreadable: broken JPEG content" in content
    assert "\u202e".encode() not in content
    assert HOSTILE.encode() not in content


def test_a_lake_that_is_made_smaller_meanwhile(tmp_path: Path) -> None:
    """As by compaction: new parts take the place of those that this server has listed."""
    lake = gallery_lake(tmp_path)
    with serving(lake.uri) as server:
        before = images(server, sort="newest")
        assert before["total"] == 10
        for table in ("images", "instances"):
            (part,) = Path(lake.uri, table, f"run={NEW}").iterdir()
            data = part.read_bytes()
            part.unlink()
            part.with_name("part-001-0000009999-fedcba987654.parquet").write_bytes(data)
        assert images(server, sort="count")["total"] == 10
        assert images(server, sort="newest") == before


def test_what_is_written_since_is_seen_by_a_page_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = gallery_lake(tmp_path)
    with serving(lake.uri) as server:
        assert images(server)["total"] == 10
        lake.part("20261103T000000-cccccc", {"s3://p/new.jpg": []})
        lake.record("20261103T000000-cccccc")
        monkeypatch.setattr(server_module, "_FRESH_S", 0.0)
        time.sleep(0.01)
        assert get(server, "/data/site.js")[0] == 200
        assert images(server)["total"] == 11


def test_an_address_that_is_not_of_this_machine(tmp_path: Path, masklake: Any) -> None:
    lake = gallery_lake(tmp_path)
    code, _, error = masklake("view", lake.uri, "--host", "192.0.2.1")
    assert code == 2
    assert "192.0.2.1:0: cannot be served on" in error
    with pytest.raises(UserError, match="is for a server; leave --out out"):
        masklake("view", "--debug", lake.uri, "--out", tmp_path / "x", "--port", "80")


def test_a_lake_in_s3(moto_s3: Moto, use_s3: Callable[[LoopbackS3], None]) -> None:
    use_s3(moto_s3.server)
    moto_s3.server.client().create_bucket(Bucket="gallery")
    lake = gallery_lake("s3://gallery/x")
    with serving(lake.uri) as server:
        listed = images(server)
        by_name = {row["uri"].removeprefix("s3://gallery/x/photos/"): row for row in listed["images"]}
        assert listed["total"] == len(by_name) == 10 and HOSTILE in by_name
        for name in ("a00.jpg", HOSTILE):
            code, headers, content = get(
                server, f"/photo?{urlencode({'id': by_name[name]['id'], 'side': 64})}"
            )
            assert (code, headers["Content-Type"], content[:2]) == (200, "image/jpeg", b"\xff\xd8")
        reasons = [
            json.loads(get(server, f"/photo?{urlencode({'id': by_name[name]['id'], 'side': 64})}")[2])[
                "error"
            ]
            for name in ("gone.jpg", "changed.jpg")
        ]
        assert "gone since" in reasons[0] and "has changed since" in reasons[1]

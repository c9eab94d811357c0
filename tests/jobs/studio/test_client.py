"""Label Studio's API: tokens, pages, retries, and what is never sent twice or elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from masklake.jobs.studio.client import PAGE, TOKEN, StudioClient
from masklake.pipeline.errors import OutageError, UserError

from tests.helpers.servers.studio_twin import PERSONAL, StudioTwin, studio_twin


def test_without_a_token_or_an_address_nothing_is_asked(
    twin: StudioTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (
        *("localhost:8080", "ftp://x", "http://", "s3://bucket", f"http://me:secret@{twin.url[7:]}"),
        *("http://[::1:8080", "http://localhost:808O", "http://localhost:80800", "http://me:secret@[x"),
    ):
        with pytest.raises(UserError, match="is no address of a Label Studio") as error:
            StudioClient(url)
        assert "secret" not in str(error.value)
    for value in ("", "  ", "two\nlines"):
        monkeypatch.setenv(TOKEN, value)
        with pytest.raises(UserError, match=f"set {TOKEN} to one of Account & Settings"):
            StudioClient(twin.url)
    assert not twin.asked


def test_a_personal_token_is_exchanged_again_when_its_access_ends(
    twin: StudioTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, PERSONAL)
    client = StudioClient(twin.url)
    assert client.project(3)["id"] == 3
    twin.tokens.clear()  # five minutes later
    assert client.project(3)["id"] == 3
    assert twin.asked.count("POST /api/token/refresh/") == 2

    monkeypatch.setenv(TOKEN, PERSONAL + "x")
    with pytest.raises(UserError, match=r"refuses the personal access token of .* \(Token is invalid\)"):
        StudioClient(twin.url).project(3)
    monkeypatch.setenv(TOKEN, "0" * 40)
    with pytest.raises(UserError, match=r"refuses the legacy token of .* \(Invalid token\.\)") as error:
        StudioClient(twin.url).project(3)
    assert "0" * 40 not in str(error.value)


def test_the_users_netrc_does_not_take_the_tokens_place(
    twin: StudioTwin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert StudioClient(twin.url).project(3)["id"] == 3


def test_every_task_comes_once_while_others_come_and_go(twin: StudioTwin) -> None:
    tasks = [twin.add(3, {"data": {"image": f"{i}.jpg"}}) for i in range(2 * PAGE + 50)]
    twin.add(4, {"data": {"image": "of another project"}})

    def change() -> None:
        if tasks[0] in twin.tasks:
            twin.tasks.remove(tasks[0])
            twin.add(3, {"data": {"image": "late.jpg"}})

    twin.on_page = change
    names = [task["data"]["image"] for task in StudioClient(twin.url).tasks(3, labels=False)]
    assert names == [*(f"{i}.jpg" for i in range(2 * PAGE + 50)), "late.jpg"]


def test_a_server_that_does_not_page_as_asked_is_told(
    twin: StudioTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (200, {"tasks": [{"id": 2, "data": {}}, {"id": 1, "data": {}}]})
    monkeypatch.setattr(twin, "_page", lambda _: page)
    with pytest.raises(UserError, match="does not page through tasks by their ids"):
        list(StudioClient(twin.url).tasks(3, labels=True))


def test_what_reads_is_tried_again_and_not_for_ever(twin: StudioTwin) -> None:
    twin.failures[:] = [503, "drop", 502]
    assert StudioClient(twin.url).project(3)["id"] == 3
    assert len(twin.asked) == 4
    twin.failures[:] = [503] * 20
    with pytest.raises(OutageError, match=r"does not answer \(it answers 503\); try again"):
        StudioClient(twin.url, patience_s=0.5).project(3)
    twin.failures[:] = [500]
    with pytest.raises(OutageError, match="fails \\(500: Internal Server Error\\)"):
        StudioClient(twin.url).project(3)
    with pytest.raises(OutageError, match=r"does not answer \(no connection\)"):
        StudioClient("http://127.0.0.1:9", patience_s=0.3).project(3)


def test_what_may_have_arrived_is_not_sent_again(twin: StudioTwin) -> None:
    task = {"data": {"image": "a.jpg"}}
    for failure in ("lost", "drop", 504, 500):
        twin.asked.clear()
        twin.failures[:] = [failure]
        with pytest.raises(OutageError):
            StudioClient(twin.url).add_tasks(3, [task])
        assert twin.asked == ["POST /api/projects/3/import"]
    twin.failures[:] = [429, 503]  # the server has not begun
    StudioClient(twin.url).add_tasks(3, [task])
    assert len(twin.tasks) == 2  # that of "lost", and this one


def test_a_personal_token_is_exchanged_although_the_server_is_busy(
    twin: StudioTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, PERSONAL)
    twin.failures[:] = [503, "drop", 502]
    assert StudioClient(twin.url).project(3)["id"] == 3
    twin.failures[:] = ["drop"]
    StudioClient(twin.url).add_tasks(3, [{"data": {"image": "a.jpg"}}])  # nothing of it was sent before
    assert len(twin.tasks) == 1
    twin.failures[:] = [503] * 20
    with pytest.raises(OutageError, match=r"does not answer \(it answers 503\); try again$"):
        StudioClient(twin.url, patience_s=0.3).add_tasks(3, [])


def test_an_import_that_is_done_later_is_waited_for(twin: StudioTwin) -> None:
    twin.enterprise = True
    StudioClient(twin.url).add_tasks(3, [{"data": {"image": "a.jpg"}}])
    assert twin.asked[-1] == "GET /api/projects/3/imports/7/"


def test_the_token_goes_to_no_other_server(twin: StudioTwin) -> None:
    with studio_twin() as other:
        for failure in (f"{other.url}/api/projects/3/?token=x", "https://example.org/"):
            twin.failures[:] = [failure]
            with pytest.raises(
                UserError, match=r"sends on to .*; give the address of Label Studio itself"
            ) as error:
                StudioClient(twin.url).project(3)
            assert "token=x" not in str(error.value)
        assert not other.asked


def test_refusals_and_strangers_are_told(twin: StudioTwin) -> None:
    client = StudioClient(twin.url + "/")
    with pytest.raises(
        UserError, match=r"refuses GET /api/projects/9/ \(404: No Project matches the given query.\)"
    ):
        client.project(9)
    twin.failures[:] = [200]  # any page
    with pytest.raises(UserError, match="does not answer as Label Studio does; check the address"):
        client.project(3)


def test_files_go_there_and_come_back_up_to_a_size(twin: StudioTwin) -> None:
    client = StudioClient(twin.url)
    path = client.upload(3, "photo.jpg", b"x" * 1000)
    assert b"x" * 1000 in twin.files[path]  # with the frame of the form
    assert len(client.file(path, 2000)) > 1000
    with pytest.raises(UserError, match="is larger than 999 bytes"):
        client.file(path, 999)
    twin.failures[:] = ["half"]
    with pytest.raises(OutageError, match=r"/data/upload/3/.* broke off \(ChunkedEncodingError\); try again"):
        client.file(path, 2000)

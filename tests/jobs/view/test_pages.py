"""The gallery in a browser, as files and from the server: the same page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import axe_playwright_python
import pytest
from masklake.jobs.cli import main

from tests.helpers.browser import chromium, page
from tests.helpers.gallery_lakes import NEW, OLD, gallery_lake, large_lake
from tests.jobs.view.test_server import serving


@dataclass(frozen=True)
class Galleries:
    browser: Any
    files: str
    served: str

    def address(self, kind: str, view: str = "") -> str:
        return f"{getattr(self, kind)}{view}"


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Galleries]:
    """One lake of 68 images, as a folder of files and on a server."""
    folder = tmp_path_factory.mktemp("pages")
    with chromium() as browser:
        lake = gallery_lake(folder, plain=64)
        assert main(["view", lake.uri, "--out", str(folder / "site"), "--against", OLD, "--json"]) == 0
        with serving(lake.uri) as server:
            files = (folder / "site" / "index.html").as_uri()
            yield Galleries(browser, files, f"http://127.0.0.1:{server.server_port}/index.html")


KINDS = pytest.mark.parametrize("kind", ["files", "served"])


def status(tab: Any, text: str) -> None:
    tab.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)


def cards(tab: Any) -> list[str]:
    return list(tab.locator(".card .key").all_inner_texts())


@KINDS
def test_filters_orders_and_pages(galleries: Galleries, kind: str) -> None:
    with page(galleries.browser) as tab:
        tab.goto(galleries.address(kind))
        status(tab, "1–60 of 68 images, by newest")
        assert len(cards(tab)) == 60
        tab.click("#page-on")
        status(tab, "61–68 of 68 images")
        assert "page=2" in tab.url
        tab.select_option("[name=label]", "person")
        status(tab, "1–1 of 1 image")
        assert cards(tab) == ["a00.jpg"]
        assert "1 dog, 1 person" not in tab.inner_text(".card")  # only what fits is shown
        tab.select_option("[name=label]", "*")
        tab.fill("[name=score]", "0.95")
        status(tab, "No image fits these filters; a lower score may show some.")
        tab.select_option("[name=label]", "")
        tab.select_option("[name=status]", "unreadable")
        status(tab, "1–1 of 1 image")
        assert "unreadable: broken JPEG content" in tab.inner_text(".card")
        tab.select_option("[name=status]", "")
        tab.select_option("[name=sort]", "doubt")
        status(tab, "by doubt")
        assert "1 in doubt" in tab.inner_text(".card >> nth=0")
        tab.select_option("[name=split]", "val")
        status(tab, "1–1 of 1 image")
        assert cards(tab) == ["a01.jpg"]
        tab.go_back()
        status(tab, "by doubt")


def drawn(tab: Any, nth: int = 0) -> int:
    """How many pixels of a canvas are not transparent."""
    counted = """n => { const c = document.querySelectorAll('canvas')[n], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let k = 0; for (let i = 3; i < d.length; i += 4) k += d[i] > 0; return k; }"""
    return int(tab.evaluate(counted, nth))


@KINDS
def test_one_image_its_instances_and_the_comparison(galleries: Galleries, kind: str) -> None:
    with page(galleries.browser) as tab:
        tab.goto(galleries.address(kind, f"#image={quote(f'{NEW}~0')}"))
        tab.wait_for_selector("#single:not([hidden])")
        assert tab.inner_text("#single-title") == "a00.jpg"
        boxes = tab.locator("tbody input[type=checkbox]")
        assert boxes.count() == 2
        both = drawn(tab)
        boxes.nth(1).uncheck()
        dog = drawn(tab)
        boxes.nth(0).uncheck()
        assert both > dog > 0 == drawn(tab)
        tab.locator(".points li").first.wait_for(state="attached")
        assert "nose: 31, 24" in tab.locator(".points li").all_text_contents()
        assert f"select * from all_instances where run = '{NEW}' and image_id = 0" in tab.inner_text("#facts")
        tab.select_option("[name=with]", "labels")
        tab.wait_for_selector("#stages.two")
        assert tab.inner_text("#single-note") == "1 matched, 1 missed, 1 invented"
        assert "IoU 1.00" in tab.inner_text("#stages")
        tab.select_option("[name=with]", OLD)
        tab.wait_for_function(
            "() => document.getElementById('single-note').textContent.includes('only in the other')"
        )
        assert "IoU 0.92" in tab.inner_text("#stages")
        with page(galleries.browser) as other:  # the address alone gives the same view
            other.goto(tab.url)
            other.wait_for_selector("#stages.two")
            assert other.inner_text("#single-note") == tab.inner_text("#single-note")


def test_the_keyboard_alone(galleries: Galleries) -> None:
    with page(galleries.browser) as tab:
        tab.goto(galleries.address("files", "#label=dog&score=0.6"))
        status(tab, "images")
        tab.wait_for_selector(".card")
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight"):
            tab.keyboard.press(key)
        chosen = tab.evaluate("document.activeElement.dataset.id")
        assert chosen == tab.locator(".card a").nth(1).get_attribute("data-id")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#single:not([hidden])")
        title = tab.inner_text("#single-title")
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function(
            "title => document.getElementById('single-title').textContent !== title", arg=title
        )
        tab.keyboard.press("ArrowLeft")
        tab.wait_for_function(
            "title => document.getElementById('single-title').textContent === title", arg=title
        )
        tab.keyboard.press("Escape")
        tab.wait_for_selector("#gallery:not([hidden]) .card")
        tab.wait_for_function("id => document.activeElement.dataset.id === id", arg=chosen)


@KINDS
def test_hostile_names_are_text(galleries: Galleries, kind: str) -> None:
    with page(galleries.browser) as tab:
        tab.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
        tab.goto(galleries.address(kind, f"#label={quote('<b>dog</b>')}&score=0"))
        status(tab, "1–1 of 1 image")
        (name,) = cards(tab)
        assert name.startswith("<img src=x onerror=alert(1)>'\"; drop table images;--\\u{202e}\\u{1b}[31m")
        assert tab.locator("img[src=x], .card b").count() == 0
        tab.click(".card a")
        tab.wait_for_selector("#single:not([hidden])")
        assert "<b>dog</b>" in tab.inner_text("tbody")
        tab.wait_for_function("() => document.querySelector('.photo img')?.naturalWidth === 64")


def test_what_was_not_looked_at_is_not_called_missed(galleries: Galleries) -> None:
    with page(galleries.browser) as tab:
        tab.goto(galleries.address("files", "#with=labels&split=none&label=dog"))
        status(tab, "of")
        tab.wait_for_selector(".card")
        assert "not labelled" in tab.inner_text(".card >> nth=0")
        assert "invented" not in tab.inner_text("#cards")
        tab.select_option("[name=split]", "val")
        status(tab, "1–1 of 1 image")
        assert "0 matched, 0 missed, 1 invented" in tab.inner_text(".card")


def test_why_a_photo_is_not_shown(galleries: Galleries) -> None:
    with page(galleries.browser) as tab:
        tab.goto(galleries.address("files", "#status=ok&page=2"))
        status(tab, "of 67 images")
        said = tab.locator(".card .why").all_inner_texts()
        assert any("is gone since" in text for text in said)
        assert any("has changed since" in text for text in said)


@pytest.mark.parametrize("view", ["", f"#image={NEW}~0&with=labels"])
def test_axe_has_no_complaint(galleries: Galleries, view: str) -> None:
    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
    for width, scheme in ((1200, "light"), (390, "dark")):
        with page(galleries.browser, width, color_scheme=scheme, bypass_csp=True) as tab:
            tab.goto(galleries.address("files", view))
            tab.wait_for_selector(".card" if not view else "#stages.two")
            tab.evaluate(script)
            found = tab.evaluate("axe.run({preload: false})")
            complaints = [
                (rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found["violations"]
            ]
            assert complaints == []
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
                "it scrolls sideways"
            )


@pytest.mark.slow
def test_a_hundred_thousand_images(galleries: Galleries, tmp_path: Path) -> None:
    lake = large_lake(tmp_path, 100_000)
    with serving(lake.uri) as server, page(galleries.browser) as tab:
        tab.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        status(tab, "1–60 of 100,000 images")
        assert cards(tab)[0] == "0099999.jpg"
        tab.fill("#page-number", "1667")
        tab.press("#page-number", "Enter")
        status(tab, "99,961–100,000 of 100,000 images")
        assert cards(tab)[-1] == "0000000.jpg"
        tab.select_option("[name=label]", "dog")
        tab.select_option("[name=sort]", "doubt")
        status(tab, "by doubt")
        assert "5 in doubt" in tab.inner_text(".card >> nth=0")
        assert tab.evaluate("document.querySelectorAll('*').length") < 2_000


def test_without_javascript(galleries: Galleries) -> None:
    with page(galleries.browser, java_script_enabled=False) as tab:
        tab.goto(galleries.address("files"))
        assert "needs JavaScript" in tab.inner_text("noscript")
        tab.click("noscript a")
        assert tab.locator("tbody tr").count() == 68
        assert "a00.jpg" in tab.inner_text("tbody")


def test_the_files_say_what_is_in_them(galleries: Galleries) -> None:
    folder = Path(galleries.files.removeprefix("file://")).parent
    assert len(list((folder / "images").iterdir())) == 65
    assert all(path.suffix == ".webp" and len(path.stem) == 32 for path in (folder / "images").iterdir())
    facts = json.loads((folder / "masklake-export.json").read_text())
    assert (facts["images"], facts["left_out"]) == (68, {"without a picture": 2})
    assert "gone.jpg" in (folder / "left-out.csv").read_text()

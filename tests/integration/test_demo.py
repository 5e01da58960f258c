"""The page of `afr-clip demo` in a real browser: everything a visitor does, at the widths of three devices."""

import csv
import json
import re
import signal
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from afr_clip import demo
from afr_clip.cli.command import CommandLineError
from afr_clip.demo_page.page import Models, serve
from helpers.browser import CHROMIUM, browser, demo_page

pytestmark = pytest.mark.integration

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("gradio") is None or find_spec("playwright") is None,
    reason="needs Chromium, and pip install 'afr-clip[demo]' playwright",
)

WIDTHS = (390, 820, 1280)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Ten good parts, and two with a spot."""
    folder, draw = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(100, 130, (96, 128, 3), dtype=np.uint8)
        if number >= 10:
            pixels[30:60, 40:70] = (200, 30, 20)
        Image.fromarray(pixels).save(folder / f"{'good' if number < 10 else 'bad'}_{number:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with demo_page(folder) as address:
        yield address
    assert sorted(path.name for path in folder.iterdir()) == ["log.txt"]  # what was dropped is removed
    assert "Traceback" not in (folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(params=WIDTHS)
def page(request, chromium, address):
    """The page in a window of a width. Nothing may be asked of another machine, and nothing may reach over the edge."""
    opened = chromium.new_page(viewport={"width": request.param, "height": 844})
    opened.set_default_timeout(120_000)  # a machine may be busy
    asked, faults = [], []
    opened.under_way = set()
    opened.on("request", lambda one: (asked.append(one.url), opened.under_way.add(one)))
    for end in ("requestfinished", "requestfailed"):
        opened.on(end, lambda one, known=opened.under_way: known.discard(one))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(address)
    opened.wait_for_selector("#inspect")
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= request.param
    foreign = {url for url in asked if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(address)}
    assert foreign == set()
    assert faults == []
    opened.close()


def drop(page, place: str, files) -> None:
    page.locator(f"#{place} input[type=file]").set_input_files(files)
    page.locator(f"#{place} a[href]").nth(len(files) - 1).wait_for(state="attached")  # it is on the server


def wait_for(page, half: str, words: str) -> None:
    page.locator(f"#{half}-found", has_text=re.compile(words, re.DOTALL)).wait_for()


def at_rest(page):
    """Return the page once nothing is under way: Gradio may lose what follows an answer that still arrives."""
    deadline = time.monotonic() + 120
    while any("/heartbeat/" not in one.url for one in page.under_way):  # that one never ends
        assert time.monotonic() < deadline, [one.url for one in page.under_way]
        page.wait_for_timeout(50)
    return page


def press(page, button: str) -> None:
    at_rest(page).click(f"#{button}")


def place_of_threshold(page, half: str) -> float:
    return float(page.locator(f"#{half}-found svg line").get_attribute("x1"))


def download(page, folder: Path, names: dict[str, str]) -> None:
    for label, name in names.items():
        with page.expect_download() as given:
            page.click(f"#first-{label}")
        assert given.value.suggested_filename == name
        given.value.save_as(folder / name)


def forget_by_another_name(page) -> None:
    """Calibrate for a tray, which clears the scores of plates."""
    at_rest(page).get_by_label("What they show").fill("tray")
    press(page, "calibrate")
    page.locator("#first-table tbody tr").first.wait_for(state="detached")
    assert page.locator("#first .pictures img").count() == 0


@needs_browser
def test_a_visitor_inspects_slides_calibrates_compares_and_downloads(page, parts, tmp_path):
    drop(page, "photographs", parts)
    press(page, "inspect")
    page.locator("#first-notice", has_text="The photographs need a name, got nothing.").wait_for()
    page.get_by_label("What they show").fill("plate")
    press(page, "inspect")
    wait_for(page, "first", r"12 photographs: .*The threshold is a guess")
    assert page.locator("#first-notice").inner_text().strip() == ""
    assert page.locator("#first-table tbody tr").count() == 12
    assert page.locator("#first .pictures img").count() == 12

    before, slider = place_of_threshold(page, "first"), at_rest(page).locator("#first-threshold input[type=range]")
    lowest = slider.get_attribute("min")
    slider.fill(lowest)
    wait_for(page, "first", "12 photographs: 12 anomalous")
    assert place_of_threshold(page, "first") < before
    assert page.locator("#first-found svg rect.anomalous").count() > 1

    page.get_by_role("button", name="Calibrate with good parts").click()
    page.locator("#calibrate").wait_for()
    drop(page, "good", parts[2:12])
    press(page, "calibrate")
    page.locator("#first-notice", has_text="5 % false alarms need 19 different good parts, got 10.").wait_for()
    page.get_by_label("number input for False alarms").fill("10")
    page.keyboard.press("Tab")

    at_rest(page).get_by_label("Compare with").click()
    page.get_by_role("option", name="pocket_names").click()
    page.locator("#second").wait_for()
    press(page, "calibrate")
    for half in ("first", "second"):
        wait_for(page, half, "The next good part is reported with a probability of at most 10 %")
    press(page, "inspect")
    wait_for(page, "second", r"12 photographs: 10 normal, 2 anomalous.*The next good part")
    wait_for(page, "first", r"12 photographs: 10 normal, 2 anomalous.*The next good part")
    assert page.locator("#first-notice").inner_text().strip() == ""

    download(page, tmp_path, {"CSV": "scores.csv", "COCO": "coco.json", "Calibration": "calibration.json"})
    with (tmp_path / "scores.csv").open(newline="") as file:
        decisions = {row["image"]: row["decision"] for row in csv.DictReader(file)}
    assert [name for name, decision in decisions.items() if decision == "anomalous"] == ["bad_10.png", "bad_11.png"]
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert len(coco["images"]) == 12
    assert {one["image_id"] for one in coco["annotations"]} >= {1, 2}
    assert json.loads((tmp_path / "calibration.json").read_text())["num_good"] == 10
    forget_by_another_name(page)


@needs_browser
def test_only_this_machine_reaches_the_page_and_only_under_its_own_name(address):
    port = urlsplit(address).port

    def answer(host: str) -> tuple[int, str]:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
        return int(text.split()[1]), text

    status, text = answer(f"127.0.0.1:{port}")
    assert status == 200
    assert "connect-src 'self'" in text
    assert "fonts.googleapis.com" not in text
    assert answer("evil.example")[0] == 400
    others = {one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in [one for one in others if not one.startswith("127.")]:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((other, port), timeout=2).close()


@pytest.mark.skipif(find_spec("gradio") is None, reason="needs pip install 'afr-clip[demo]'")
def test_a_port_in_use_is_named_and_ctrl_c_ends_the_page(tmp_path):
    with demo_page(tmp_path, ends_with=signal.SIGINT) as address:
        port = urlsplit(address).port
        with pytest.raises(ValueError, match=f"Port {port} cannot be used: Address already in use. Choose another"):
            serve(Models(["pocket"], "cpu"), tmp_path, port, pytest.fail)
    assert "The page is closed." in (tmp_path / "log.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--port", "70000"], "--port must lie between 0 and 65535, got 70000"),
        (["--checkpoint", "pocket", "pocket"], "--checkpoint must name different models"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_loaded(words, fault):
    with pytest.raises(CommandLineError, match=fault):
        demo.main(words)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(CommandLineError, match=r"Run pip install 'afr-clip\[demo\]'"):
        demo.main([])

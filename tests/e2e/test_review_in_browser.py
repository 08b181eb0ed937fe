"""A review in a real browser, from end to end: 20 answers, undo, close, go on, train with them; strangers outside.

A report and a review by keyboard alone, too.
"""

from __future__ import annotations

import csv
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SOURCE = Path(__file__).resolve().parents[2] / "src"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


def metapl(*words: object) -> str:
    """Run a command to its end; gives its stdout."""
    done = subprocess.run(command(*words), env=environment(), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "metapl", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Start ``metapl review`` and end it with Ctrl-C; gives the address that it prints."""
    words = command("review", run, "--no-browser")
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("review: ").strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels per class: much to learn from 20 answers."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    words = (
        "digits --labels 2 --validation none --method supervised --model mlp --steps 300 --seed 1 --quiet --no-report"
    )
    metapl("train", *words.split(), "--no-report", "--out", folder)
    return folder


def test_from_a_review_to_a_better_model(run: Path, browser: Any, tmp_path: Path) -> None:
    truth = load_digits().target

    def label(tab: Any, times: int) -> None:
        for _ in range(times):
            row = tab.locator(".row img").get_attribute("alt").removeprefix("Row ")
            with tab.expect_navigation():
                tab.keyboard.press(str(truth[int(row)]))

    file = run / "corrections.csv"
    with served(run) as address:
        tab = browser.new_page()
        tab.goto(address)
        label(tab, 20)
        last = read(file)[-1]
        with tab.expect_navigation():
            tab.keyboard.press("z")
        assert last["id"] in tab.locator(".row img").get_attribute("alt")
        assert len(read(file)) == 19
        tab.close()
    with served(run) as address:  # another day
        tab = browser.new_page()
        tab.goto(address)
        assert "19 of" in tab.title()
        label(tab, 1)
        tab.close()
    answers = read(file)
    assert len(answers) == 20
    assert all(row["label"] == str(truth[int(row["id"])]) for row in answers)
    second = tmp_path / "second"
    metapl("train", "--config", run / "config.yaml", "--corrections", file, "--out", second, "--quiet", "--no-report")
    before, after = (json.loads(metapl("evaluate", folder, "--json", "-"))["accuracy"] for folder in (run, second))
    assert after > before + 0.02, (before, after)


def read(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_browser_elsewhere_gets_nothing(run: Path, browser: Any, tmp_path: Path) -> None:
    """A page of another origin can neither read the review nor answer in it; wrong addresses lead nowhere."""
    (tmp_path / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    (run / "corrections.csv").unlink(missing_ok=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(tmp_path)))
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        with served(run) as address:
            host, token = address.split("/")[2:4]
            tab = browser.new_page()
            for wrong in (
                f"http://{host}/",
                f"http://{host}/{token[:-1]}_/",
                f"http://localhost:{host.split(':')[1]}/{token}/",
            ):
                assert tab.goto(wrong).status == 403, wrong
            for path in ("..%2f..%2fconfig.yaml", "config.yaml", "%2e%2e/%2e%2e/etc/passwd", "answer"):
                reply = tab.goto(address + path)
                assert reply.status in (403, 404), path
                assert "root:" not in reply.text()
            tab.goto(f"http://127.0.0.1:{other.server_address[1]}/")
            read_it = "url => fetch(url).then(r => r.text()).catch(() => 'refused')"
            assert tab.evaluate(read_it, address) == "refused"
            send = "{method: 'POST', mode: 'no-cors', body: new URLSearchParams({row: 0, choice: 1})}"
            tab.evaluate(f"async url => {{ await fetch(url, {send}).catch(() => 0); }}", address + "answer")
            with tab.expect_navigation():
                tab.evaluate(
                    """url => {
                        const form = document.createElement("form");
                        form.method = "post"; form.action = url;
                        for (const name of ["row", "choice"]) form.append(Object.assign(
                            document.createElement("input"), {name, value: "1"}));
                        document.body.append(form); form.submit();
                    }""",
                    address + "answer",
                )
            assert "403" in tab.content()
            assert not (run / "corrections.csv").exists()
            tab.goto(address)
            assert tab.locator("h1").inner_text() == "Which class is this?"
    finally:
        other.shutdown()
        other.server_close()


FOCUS = """() => {
    const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
    const shown = s.outlineStyle === "solid" && parseFloat(s.outlineWidth) >= 2;
    const seen = r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth;
    return [e.tagName, e.getAttribute("aria-label") || e.innerText.trim().split("\\n")[0], shown && seen];
}"""


def stops(tab: Any) -> list[str]:
    """Where Tab leads, from the top of the page to its end; each place must be in view, with a visible outline."""
    names = list[str]()
    for _ in range(60):
        tab.keyboard.press("Tab")
        tag, name, clear = tab.evaluate(FOCUS)
        if tag == "BODY":
            return names
        assert clear, (tag, name)
        names.append(name)
    raise AssertionError("Tab never leaves the page")


@pytest.mark.parametrize("width", [1200, 390])
def test_a_report_is_read_by_keyboard_alone(run: Path, browser: Any, tmp_path: Path, width: int) -> None:
    metapl("report", run)
    tab = browser.new_page(viewport={"width": width, "height": 800}, reduced_motion="reduce")
    tab.goto((run / "report.html").as_uri())
    names = stops(tab)
    assert names[:2] == ["To the content", "What to do next"]
    assert {"Every setting", "Results as stored", "Reproduce"} <= {*names}
    tab.reload()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("location.hash") == "#content"
    tab.keyboard.press("Tab")
    assert tab.evaluate(FOCUS)[1] not in ("To the content", "What to do next"), "the menu is behind"
    box = tab.locator("details", has_text="Every setting")
    box.locator("summary").focus()
    tab.keyboard.press("Enter")
    assert box.get_attribute("open") is not None
    assert "split:" in box.locator("pre").inner_text()


def test_a_review_is_answered_with_tab_and_enter(run: Path, browser: Any) -> None:
    (run / "corrections.csv").unlink(missing_ok=True)
    with served(run) as address:
        tab = browser.new_page()
        tab.goto(address)
        assert len(stops(tab)) == 13, "ten classes, unsure, none of these, undo"
        tab.reload()
        for _ in range(3):
            tab.keyboard.press("Tab")
        with tab.expect_navigation():
            tab.keyboard.press("Enter")
        assert "1 of" in tab.title()
        third = tab.locator("button").nth(2)
        assert (third.inner_text().strip(), third.get_attribute("aria-keyshortcuts")) == ("22", "2")
        tab.close()
    assert [row["label"] for row in read(run / "corrections.csv")] == ["2"]

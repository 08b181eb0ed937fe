"""40 payloads as class names, row ids, texts, settings and messages: they stay texts, also in a browser."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from payloads import aimed

from metapl.config.settings import GuardConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.data.memory.arrays import from_arrays
from metapl.report.charts import draw_all
from metapl.report.gather import stored
from metapl.report.page import run_page
from metapl.report.record import read_record
from metapl.report.write import report_result
from metapl.training.loop import train

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EACH = 3  # rows of each class
# All elements that our own templates and figures are made of.
OWN = set(
    """html head meta title style body a header nav main footer section figure figcaption div span p h1 h2 h3 ol ul li
    dl dt dd table thead tbody tr th td details summary pre code strong blockquote img svg g path defs use text tspan
    clippath rect caption""".split()  # noqa: SIM905
)


class Elements(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.names, self.attributes, self.texts = list[str](), list[tuple[str, str]](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(folder: Path, hit: str) -> Path:
    """The report of a run all of whose texts are payloads, with more of them in settings and messages."""
    payloads = aimed(hit)
    texts = [f"{payload} {k}" for k in range(EACH) for payload in payloads]
    y = np.array(payloads * EACH, dtype=object)
    y[-1] = ""
    source = from_arrays(texts, y, X_unlabeled=[f"new {payload}" for payload in payloads])
    source = replace(source, ids=tuple(f"{text} id" for text in [*texts, *payloads]), name=payloads[0])
    source.problems += [(payload, payload) for payload in payloads]
    config = RunConfig(
        payloads[2], method="fixmatch", steps=4, split=SplitConfig(validation=1), guard=GuardConfig("off")
    )
    result = train(config, folder, source=source)
    page = report_result(result)
    record, material = read_record(folder), stored(folder)
    assert material is not None
    alarms = [{"name": "x", "step": 1, "value": 0.0, "text": payload} for payload in payloads]
    hostile = replace(
        record,
        results={**record.results, "alarms": alarms, "model": payloads[5]},
        environment=dict(zip(payloads, payloads[::-1])),
        metrics=[{**row, payloads[0]: 1.0, payloads[4]: 2.0} for row in record.metrics],
        problems=dict(zip(payloads, payloads)),
    )
    findings = [{"level": p, "text": p, "remedy": p, "rows": 1} for p in payloads]
    material = {**material, "check": {"verdict": "WILL HURT", "findings": findings, "notes": payloads}}
    page.write_text(run_page(hostile, material, draw_all(hostile, material, None)), encoding="utf-8")
    return page


def test_payloads_stay_texts(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", "http://127.0.0.1:9/x").read_text(encoding="utf-8")
    found = Elements(page)
    assert set(found.names) <= OWN
    for name, value in found.attributes:
        assert not name.startswith("on"), (name, value)
        if name in ("src", "href"):
            assert value.startswith(("#", "data:image/png;base64,")), value
        assert name not in ("action", "formaction", "srcdoc", "style"), name
    assert found.names.count("style") == 1
    assert found.names.count("meta") == 5
    joined = " ".join(found.texts)
    for payload in aimed("http://127.0.0.1:9/x")[:20]:
        assert payload[:18] in joined, "it is shown, as a text"
    assert "49" not in joined.partition("{{ 7 * 7 }}")[2][:40]


@pytest.fixture
def watched() -> Iterator[tuple[str, list[str]]]:
    """A loopback address, and the requests that reach it."""
    hits = list[str]()

    class Watch(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Watch)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hit", hits
    server.shutdown()
    thread.join()
    server.server_close()


def opened(page: Path, profile: Path) -> str:
    """The document that a browser makes of the page, after its scripts, if any, have run."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", f"file://{page}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_runs_and_loads_nothing(tmp_path: Path, watched: tuple[str, list[str]]) -> None:
    address, hits = watched
    page = page_of(tmp_path / "run", address)
    document = opened(page, tmp_path / "profile")
    assert "What to do next" in document
    assert "<title>fixmatch on" in document
    assert hits == []
    bare = tmp_path / "bare.html"  # the same texts without protection: the browser does what they say
    bare.write_text(f"<!doctype html><title>x</title>{aimed(address)[0]}{aimed(address)[2]}", encoding="utf-8")
    opened(bare, tmp_path / "profile-2")
    assert hits

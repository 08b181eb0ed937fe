"""``metapl serve`` as a process on this machine: it answers, it ends on a signal, it logs nothing of a request."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from commands import Call, refused

UNIT = Path(__file__).parents[1] / "unit" / "deploy" / "test_serve.py"
STORED = Path(__file__).parents[1] / "fixtures" / "runs-0.1.0"


@pytest.fixture(scope="module")
def unit() -> ModuleType:
    """The unit tests' requests, and what must become of them."""
    spec = importlib.util.spec_from_file_location("unit_serve", UNIT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def served() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service of the stored table model, and its address."""
    words = [sys.executable, "-m", "metapl", "serve", str(STORED / "table"), "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving at http://127.0.0.1:"), line
        yield process, line.removeprefix("serving at ").strip()
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def test_it_answers_ends_on_a_signal_and_logs_nothing(served: tuple[subprocess.Popen[str], str]) -> None:
    process, address = served
    secret = {"width": "a secret value", "weight": 1, "colour": "red", "size": "large"}
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    answer = httpx.post(f"{address}/predict?top=2", json={"rows": [{**secret, "width": 1}, secret]}).json()["answers"]
    assert len(answer[0]["top"]) == 2
    assert answer[1]["error"]["status"] == 422
    begun = threading.Event()

    def slow() -> Iterator[bytes]:
        yield b'{"row": {"width": 1, "weight": 1, "colour": "red", '
        begun.set()
        time.sleep(1)
        yield b'"size": "large"}}'

    late: list[httpx.Response] = []
    send = {"content": slow(), "headers": {"Content-Type": "application/json"}}
    thread = threading.Thread(target=lambda: late.append(httpx.post(f"{address}/predict", timeout=60, **send)))
    thread.start()
    assert begun.wait(30)
    time.sleep(0.2)
    code, said = ended(process)
    thread.join()
    assert late[0].json() == pytest.approx({key: answer[0][key] for key in ("label", "probability")})
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in said
    assert "secret" not in said
    assert "/predict HTTP" not in said
    assert "Traceback" not in said


def test_what_cannot_be_served(call: Call, served: tuple[subprocess.Popen[str], str]) -> None:
    port = served[1].rpartition(":")[2]
    refused(call("serve", STORED / "table", "--port", port), f"127.0.0.1:{port}", "in use")
    refused(call("serve", STORED / "table", "--precision", "0.9"), "no answers for validation rows")
    refused(call("serve", STORED / "texts"), "--trust-code")
    refused(call("serve", STORED / "none"), "there is no trained model here")


@pytest.mark.slow
def test_a_thousand_requests_at_once(served: tuple[subprocess.Popen[str], str], unit: ModuleType) -> None:
    process, address = served
    bodies, statuses = unit.requests(1000)

    async def main() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=300) as client:
            return await asyncio.gather(*(client.post("/predict", **body) for body in bodies))

    unit.assert_all_answered(asyncio.run(main()), statuses)
    assert ended(process)[0] == 128 + signal.SIGTERM

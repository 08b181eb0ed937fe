"""The engine on Ray Data, with a stand-in for Ray that notes what it is asked for."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from metapl.errors import UserError
from metapl.inference.ray_engine import PARTS, ray_engine


class Rows:
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def map(self, job: Any) -> Rows:
        return Rows([job(row) for row in self.rows])

    def iter_rows(self) -> Any:
        return iter(self.rows)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = SimpleNamespace(sent=[], ended=0, context=SimpleNamespace(enable_progress_bars=True))

    def from_items(rows: list[Any], override_num_blocks: int) -> Rows:
        assert override_num_blocks == len(rows), "a part is a task of its own"
        fake.sent.append(len(rows))
        return Rows(rows)

    def init(address: str | None, **_: Any) -> None:
        if address == "nowhere":
            raise ConnectionError("no answer")

    def shutdown() -> None:
        fake.ended += 1

    data = SimpleNamespace(from_items=from_items, DataContext=SimpleNamespace(get_current=lambda: fake.context))
    module = SimpleNamespace(init=init, shutdown=shutdown, cluster_resources=lambda: {"CPU": 2.0}, data=data)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    return fake


def test_parts_are_sent_a_window_at_a_time(ray: SimpleNamespace) -> None:
    drawn: list[int] = []

    def parts() -> Any:
        for k in range(2 * PARTS + 3):
            drawn.append(k)
            yield k

    counts = ray_engine()(lambda part: {"rows": 10 * part}, parts())  # type: ignore[arg-type, return-value]
    assert next(iter(counts)) == {"rows": 0}
    assert drawn == list(range(2 * PARTS)), "a pool of any size is not read ahead"
    assert [count["rows"] for count in counts] == [10 * k for k in range(1, 2 * PARTS + 3)]
    assert ray.sent == [2 * PARTS, 3]
    assert ray.ended == 1
    assert not ray.context.enable_progress_bars


def test_the_cluster_is_left_after_an_error(ray: SimpleNamespace) -> None:
    with pytest.raises(ZeroDivisionError):
        list(ray_engine()(lambda part: {"rows": 1 // part}, [0]))  # type: ignore[arg-type, list-item, operator]
    assert ray.ended == 1


@pytest.mark.usefixtures("ray")
def test_a_missing_cluster_is_named() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers \(no answer\)"):
        list(ray_engine("nowhere")(lambda part: {}, []))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"metapl\[ray\]"):
        ray_engine()

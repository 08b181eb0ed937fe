"""The service gives the answers of ``metapl predict``, and an error of its own to whatever is damaged."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import metapl
from metapl.deploy.serve import Limits, make_app
from metapl.inference.answers import AnswerForm
from metapl.inference.predict import predict_folder, predict_source
from metapl.models import build_model
from metapl.runs.model_folder import Predictor
from metapl.types import Preprocessing, Tokens

STORED = Path(__file__).parents[2] / "fixtures" / "runs-0.1.0"
PHOTOS = sorted((STORED / "data" / "new-photos").glob("*.png"))
NAMES = ("one", "two", "zero")
LIMITS = Limits(body=20_000, rows=50, pixels=10_000, seconds=0.2)


def image_model() -> Predictor:
    torch.manual_seed(0)
    preprocessing = Preprocessing("image", (1, 8, 8), (0.3,), (0.37,), resized=True)
    return Predictor(build_model("small_cnn", (1, 8, 8), 3).eval(), preprocessing, NAMES, torch.device("cpu"))


def text_model() -> Predictor:
    torch.manual_seed(0)
    tokens = Tokens("words", 8)
    network = build_model("ngram", (8,), 3, tokens).eval()
    return Predictor(network, Preprocessing("text", (8,), (), (), tokens=tokens), NAMES, torch.device("cpu"))


def table_model() -> Predictor:
    return metapl.load_model(STORED / "table")


def array_model() -> Predictor:
    return metapl.load_model(STORED / "arrays")


def new_table() -> list[dict[str, Any]]:
    with open(STORED / "data" / "new-table.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def new_texts() -> list[str]:
    with open(STORED / "data" / "new-texts.csv", encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


Client = httpx.AsyncClient
Answers = list[dict[str, Any]]


def ask(
    predictor: Predictor,
    work: Callable[[Client], Awaitable[Any]],
    limits: Limits = LIMITS,
    form: AnswerForm | None = None,
) -> Any:
    """Run ``work`` with a client of the service."""

    async def main() -> Any:
        transport = httpx.ASGITransport(make_app(predictor, form, limits), raise_app_exceptions=False)
        async with Client(transport=transport, base_url="http://metapl") as client:
            return await work(client)

    return asyncio.run(main())


def post(predictor: Predictor, limits: Limits = LIMITS, query: str = "", **body: Any) -> httpx.Response:
    async def work(client: Client) -> httpx.Response:
        return await client.post(f"/predict{query}", **body)

    return ask(predictor, work, limits)


def assert_as_predict(answers: Answers, predictor: Predictor, wanted: Any) -> None:
    p = torch.cat([chunk.probabilities for chunk in wanted])
    assert [a["label"] for a in answers] == [predictor.class_names[k] for k in p.argmax(-1).tolist()]
    np.testing.assert_allclose([a["probability"] for a in answers], p.amax(-1), rtol=0, atol=1e-6)


def test_tables_as_predict() -> None:
    """Values as text, as they stand in a file, and as numbers."""
    predictor = table_model()
    wanted = list(predict_source(predictor, STORED / "data" / "new-table.csv"))
    numbers = [{**row, "width": float(row["width"] or "nan"), "extra": [1]} for row in new_table()]
    numbers = [{**row, "width": None if row["width"] != row["width"] else row["width"]} for row in numbers]
    for rows in (new_table(), numbers):
        answers = post(predictor, json={"rows": rows}).json()["answers"]
        assert_as_predict(answers, predictor, wanted)
    assert post(predictor, json={"row": new_table()[0]}).json() == pytest.approx(answers[0])


def test_arrays_and_texts_as_predict(tmp_path: Path) -> None:
    rows = np.load(STORED / "data" / "new-arrays.npz")["X"]
    listed = [[None if v != v else v for v in row] for row in rows.tolist()]
    wanted = list(predict_source(array_model(), STORED / "data" / "new-arrays.npz"))
    assert_as_predict(post(array_model(), json={"rows": listed}).json()["answers"], array_model(), wanted)
    wanted = list(predict_source(text_model(), STORED / "data" / "new-texts.csv"))
    assert_as_predict(post(text_model(), json={"rows": new_texts()}).json()["answers"], text_model(), wanted)


def test_images_as_predict_in_every_form() -> None:
    predictor = image_model()
    wanted = list(predict_folder(predictor, STORED / "data" / "new-photos"))
    contents = [path.read_bytes() for path in PHOTOS]
    coded = [base64.b64encode(content).decode() for content in contents]
    uris = [f"data:image/png;base64,{text}" for text in coded]
    files = [("file", (path.name, content)) for path, content in zip(PHOTOS, contents)]
    for body in ({"json": {"rows": coded}}, {"json": {"rows": uris}}, {"files": files}):
        assert_as_predict(post(predictor, **body).json()["answers"], predictor, wanted)
    for content, answer in zip(contents, post(predictor, files=files).json()["answers"]):
        alone = post(predictor, content=content, headers={"Content-Type": "image/png"}).json()
        assert alone == pytest.approx(answer)


def test_top_and_abstaining() -> None:
    row = {"row": new_table()[0]}
    plain = post(table_model(), json=row).json()
    three = post(table_model(), query="?top=9&abstain_below=0.99", json=row).json()
    assert [t["label"] for t in three["top"]] == sorted(
        NAMES, key=lambda name: -{t["label"]: t["probability"] for t in three["top"]}[name]
    )
    assert len(three["top"]) == 3
    assert sum(t["probability"] for t in three["top"]) == pytest.approx(1)
    assert plain["label"] == three["top"][0]["label"]
    assert three["label"] is None

    async def work(client: Client) -> Any:
        return (await client.post("/predict", json=row)).json()

    assert len(ask(table_model(), work, form=AnswerForm(top=2))["top"]) == 2


DAMAGED: dict[str, tuple[Callable[[], Predictor], Any, str]] = {
    "no object": (table_model, ["a"], "an object with a value for each column"),
    "missing column": (
        table_model,
        {"widht": 1, "weight": 1, "colour": "red", "size": "large"},
        "Did you mean 'widht'",
    ),
    "text for a number": (table_model, {**new_table()[1], "width": "wide"}, "column 'width' holds a text"),
    "true for a number": (table_model, {**new_table()[1], "width": True}, "column 'width' holds true or false"),
    "endless number": (table_model, {**new_table()[1], "width": 10**400}, "column 'width' holds a number"),
    "large number": (table_model, {**new_table()[1], "width": 1e300}, "not a finite number"),
    "number as Python writes it": (table_model, {**new_table()[1], "width": "1_000"}, "not a finite number"),
    "list for a category": (table_model, {**new_table()[1], "colour": ["red"]}, "holds a list, not a category"),
    "number for a text": (text_model, 3, "a row is a text, not a number"),
    "null for a text": (text_model, None, "a row is a text, not null"),
    "no base64": (image_model, "%%%", "not the base64 of an image"),
    "no image": (image_model, base64.b64encode(b"hello").decode(), "not an image in a known format"),
    "truncated": (image_model, base64.b64encode(PHOTOS[0].read_bytes()[:60]).decode(), "cannot be read"),
    "null for an image": (image_model, None, "not as null"),
    "too few numbers": (array_model, [1, 2], "the shape [2], the model was trained on [4]"),
    "uneven lists": (array_model, [[1, 2], [3]], "a list, not a finite number"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_row_gets_its_reason_and_never_ends_a_batch(case: str) -> None:
    model, row, reason = DAMAGED[case]
    predictor = model()
    good: Any = {
        table_model: lambda: new_table()[1],
        text_model: lambda: new_texts()[0],
        image_model: lambda: base64.b64encode(PHOTOS[0].read_bytes()).decode(),
        array_model: lambda: [1, 2, None, 4],
    }[model]()
    alone = post(predictor, json={"row": row})
    assert alone.status_code == 422
    assert reason in alone.json()["error"]["reason"]
    batch = post(predictor, json={"rows": [good, row, good]})
    assert batch.status_code == 200
    first, second, third = batch.json()["answers"]
    assert second == alone.json()
    wanted = pytest.approx(post(predictor, json={"row": good}).json())
    assert first == wanted
    assert third == wanted


def test_a_category_that_training_did_not_hold_counts_as_missing() -> None:
    rows = [{**new_table()[1], "colour": value} for value in ("violet", None, "", " ")]
    answers = post(table_model(), json={"rows": rows}).json()["answers"]
    assert all(answer == pytest.approx(answers[0]) for answer in answers)
    assert "error" not in answers[0]


def test_a_row_without_a_finite_answer() -> None:
    predictor = table_model()
    with torch.no_grad():
        next(predictor.model.parameters()).fill_(1e38)
    far = {**new_table()[1], "width": 3e38}
    answers = post(predictor, json={"rows": [far, {**far, "width": 0, "weight": 0}]}).json()["answers"]
    assert "too far" in answers[0]["error"]["reason"]


REFUSED: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no JSON": (400, "not JSON", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    "NaN": (
        400,
        "NaN is not a number",
        {"content": b'{"rows": [NaN]}', "headers": {"Content-Type": "application/json"}},
    ),
    "deep": (400, "not JSON", {"content": b"[" * 19_000, "headers": {"Content-Type": "application/json"}}),
    "no text": (400, "not JSON", {"content": b'{"row": "\xff"}', "headers": {"Content-Type": "application/json"}}),
    "another object": (400, "neither", {"json": {"rows": [], "row": 1}}),
    "a list": (400, "neither", {"json": [1]}),
    "no rows": (400, "no row", {"json": {"rows": []}}),
    "many rows": (413, "51 rows are more than 50", {"json": {"rows": [0] * 51}}),
    "large": (
        413,
        "larger than 20000 bytes",
        {"content": b" " * 30_000, "headers": {"Content-Type": "application/json"}},
    ),
    "another type": (415, "text/html", {"content": b"", "headers": {"Content-Type": "text/html"}}),
    "no type": (415, "content type is ''", {"content": b"{}"}),
    "no boundary": (400, "form", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
    "broken form": (400, "form", {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}),
    "many files": (400, "form", {"files": [("f", (f"{k}", b"")) for k in range(60)]}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_cannot_be_read(case: str) -> None:
    status, reason, body = REFUSED[case]
    answer = post(image_model(), **body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (status, status)
    assert reason in answer.json()["error"]["reason"]


@pytest.mark.parametrize("query", ["?top=0", "?top=x", "?abstain_below=2", "?abstain_below=nan"])
def test_odd_queries(query: str) -> None:
    assert post(table_model(), query=query, json={"row": new_table()[0]}).status_code == 400


def test_a_body_without_a_length_and_one_that_never_ends() -> None:
    async def large() -> Any:
        for _ in range(100):
            yield b" " * 1000

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    kind = {"Content-Type": "application/json"}
    assert post(table_model(), content=large(), headers=kind).status_code == 413
    assert post(table_model(), content=slow(), headers=kind).status_code == 408


def test_health_schema_and_other_addresses() -> None:
    async def work(client: Client) -> list[httpx.Response]:
        return [
            await client.get(place) for place in ("/health", "/schema", "/", "/predict", "/schema/../../etc/passwd")
        ]

    health, schema, *others = ask(table_model(), work)
    assert health.json() == {"status": "ok"}
    facts = schema.json()
    assert facts["classes"] == list(NAMES)
    row = facts["POST /predict"]["bodies"]["application/json"]["oneOf"][0]["properties"]["row"]
    assert row["required"] == ["width", "weight", "colour", "size"]
    assert row["properties"]["colour"] == {"enum": ["blue", "green", "red", None]}
    assert facts["limits"]["body"] == 20_000
    assert [(r.status_code, r.json()["error"]["status"]) for r in others] == [(404, 404), (405, 405), (404, 404)]


def test_half_a_surrogate_pair_in_a_name_is_answered() -> None:
    body = b'{"rows": [{"wid\\udc80th": 1}]}'
    answer = post(table_model(), content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert "column 'width' is missing" in answer.json()["answers"][0]["error"]["reason"]


def test_large_images_are_refused_by_their_header() -> None:
    content = io.BytesIO()
    Image.new("L", (200, 200)).save(content, "PNG")
    answer = post(image_model(), content=content.getvalue(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 422
    assert "above the limit of" in answer.json()["error"]["reason"]


def test_an_error_inside_is_an_answer_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = table_model()
    object.__setattr__(predictor, "model", lambda rows: 1 / 0)
    monkeypatch.setattr(Predictor, "probabilities", lambda self, rows: 1 / 0)
    answer = post(predictor, json={"row": new_table()[0]})
    assert answer.status_code == 500
    assert "division" not in answer.text


def requests(count: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Bodies, and the status that each must get: every fifth is damaged in one of several ways."""
    rows = new_table()
    odd: list[tuple[dict[str, Any], int]] = [
        ({"json": {"row": {**rows[0], "width": "x"}}}, 422),
        ({"json": {"rows": []}}, 400),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": {"rows": [None, rows[0]]}}, 200),
    ]
    made = [odd[k // 5 % 4] if k % 5 == 4 else ({"json": {"row": rows[k % len(rows)]}}, 200) for k in range(count)]
    return [body for body, _ in made], [status for _, status in made]


def assert_all_answered(found: list[httpx.Response], statuses: list[int]) -> None:
    wanted = next(iter(predict_source(table_model(), STORED / "data" / "new-table.csv")))
    assert [answer.status_code for answer in found] == statuses
    for k, answer in enumerate(found):
        content = answer.json()
        if k % 5 != 4:
            row = k % len(wanted.ids)
            assert content["label"] == wanted.labels[row]
            assert content["probability"] == pytest.approx(float(wanted.probabilities[row].max()), abs=1e-6)
        elif answer.status_code == 200:
            assert content["answers"][0]["error"]["status"] == 422
            assert content["answers"][1]["label"] == wanted.labels[0]
        else:
            assert content["error"]["reason"]


def test_many_requests_at_once() -> None:
    bodies, statuses = requests(60)

    async def work(client: Client) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/predict", **body) for body in bodies))

    assert_all_answered(ask(table_model(), work, Limits(bodies=8)), statuses)


def test_its_schema_is_json() -> None:
    for model in (image_model, text_model, array_model):

        async def work(client: Client) -> Any:
            return (await client.get("/schema")).json()

        assert json.dumps(ask(model(), work))

"""Review: the queue, the answers, the server's door, and what goes to and comes from other tools."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image

from metapl.config.settings import GuardConfig, LoopConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.data.corrections import read_corrections
from metapl.data.memory.arrays import from_arrays
from metapl.data.options import SourceOptions
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.report.pseudo_labels import PoolRow
from metapl.review.answers import Answer, AnswerFile, read_answers, write_answers
from metapl.review.exchange import export_to, import_from
from metapl.review.queue import Question, Review, _pool, open_review
from metapl.review.server import Session, keys_of, render, serve
from metapl.training.loop import train

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = RunConfig(
        "digits",
        method="pseudo_label",
        model="mlp",
        steps=60,
        split=SplitConfig(labels=8),
        loop=LoopConfig(log_every=5, eval_every=4),
        guard=GuardConfig("off"),
        settings=METHODS["pseudo_label"].Config(),
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config, folder)
    open_review(folder)  # the table of pseudo labels is made once
    return folder


@pytest.fixture
def review(trained: Path, tmp_path: Path) -> Review:
    shutil.copytree(trained, tmp_path / "run")
    return open_review(tmp_path / "run")


class Page:
    """A served review and requests to it."""

    def __init__(self, review: Review) -> None:
        self.session = Session(review, AnswerFile(review.folder, review.source))
        self.server, self.address = serve(self.session)
        self.place = urlsplit(self.address)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ask(self, path: str | None = None, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=20)
        body = None if form is None else urlencode(form)
        if path is None:
            path = self.place.path + ("" if form is None else "answer")
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if form is None else "POST", path, body, given)
        response = connection.getresponse()
        self.headers = dict(response.getheaders())
        text = response.read().decode()
        connection.close()
        return response.status, text

    def answer(self, choice: str) -> int:
        question = self.session.next()
        assert question is not None
        row = self.session.review.questions.index(question)
        return self.ask(form={"row": str(row), "choice": choice})[0]


@pytest.fixture
def page(review: Review) -> Iterator[Page]:
    served = Page(review)
    yield served
    served.server.shutdown()
    served.server.server_close()


def test_the_queue_has_each_pool_row_once_and_no_test_row(review: Review) -> None:
    index = [q.index for q in review.questions]
    assert len(index) == len(set(index))
    split = json.loads((review.folder / "split.json").read_text())
    assert not {q.id for q in review.questions} & set(split["test"])
    assert set(split["unlabeled"]) - set(split["labeled"]) <= {q.id for q in review.questions}
    assert "The two likeliest classes are" in review.questions[0].reason


def test_answers_are_kept_at_once_undone_and_gone_on_with(page: Page, review: Review) -> None:
    asked = [page.session.review.questions[k].id for k in range(3)]
    assert [page.answer(choice) for choice in ("3", "u", "n")] == [303, 303, 303]
    text = (review.folder / "corrections.csv").read_text(encoding="utf-8")
    assert text == f"id,label,answer\n{asked[0]},3,label\n{asked[1]},,unsure\n{asked[2]},,none\n"
    assert page.answer("z") == 303
    again = page.session.next()
    assert again is not None
    assert again.id == asked[2]
    assert len((review.folder / "corrections.csv").read_text(encoding="utf-8").splitlines()) == 3
    later = Session(review, AnswerFile(review.folder, review.source))  # another day
    assert later.answers.given == {asked[0]: Answer("3"), asked[1]: Answer("", "unsure")}
    assert later.progress()[0] == 2
    assert later.next() == again


def test_the_columns_of_a_table_are_headers_of_their_lines(review: Review) -> None:
    source = from_arrays(np.eye(3, dtype=np.float32), ["a", "b", "c"])
    question = Question(0, "0", "a", 0.4, "The two likeliest classes are 1 point apart.")
    table = replace(review, source=source, class_names=("a", "b", "c"), questions=(question,))
    page, _ = render(Session(table, AnswerFile(review.folder, source)))
    assert page.count('<th scope="row"') == 3


def test_strangers_get_nothing(page: Page) -> None:
    host = page.place.netloc
    status, text = page.ask()
    assert status == 200
    assert "Which class is this?" in text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    token = page.place.path.strip("/")
    form = {"row": "0", "choice": "1"}
    assert page.ask("/")[0] == 403
    assert page.ask(f"/{token[:-1]}x/")[0] == 403
    assert page.ask("/wrong/answer", form)[0] == 403
    assert page.ask(Host="evil.example")[0] == 403
    assert page.ask(Host=f"localhost.evil.example:{page.place.port}")[0] == 403
    assert page.ask(form=form, Origin="http://evil.example")[0] == 403
    assert page.ask(form=form, Origin="null")[0] == 403
    assert page.ask(form=form, Sec_Fetch_Site="cross-site")[0] == 403
    for path in ("../../../etc/passwd", "..%2f..%2fetc/passwd", "config.yaml", "/etc/passwd", "answer"):
        status, text = page.ask(f"/{token}/{path}")
        assert status == 404
        assert "root:" not in text
    assert not page.session.answers.given
    assert page.ask(form=form, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")[0] == 303


@pytest.mark.parametrize("form", [{"row": "0", "choice": "10"}, {"row": "x", "choice": "1"}, {"row": "999999"}, {}])
def test_answers_that_mean_nothing_change_nothing(page: Page, form: dict[str, str]) -> None:
    assert page.ask(form=form)[0] == 400
    assert not page.session.answers.given


def test_a_form_that_is_too_long_is_refused(page: Page) -> None:
    assert page.ask(form={"row": "0", "choice": "1" * 5000})[0] == 413


def test_texts_of_the_data_stay_texts(page: Page, review: Review) -> None:
    bad = "<script>alert(1)</script>"
    object.__setattr__(review, "class_names", (bad, *review.class_names[1:]))
    _, text = page.ask()
    assert bad not in text
    assert "&lt;script&gt;alert(1)" in text


def test_label_studio_and_csv_come_back_as_they_went(review: Review, tmp_path: Path) -> None:
    answers = AnswerFile(review.folder, review.source)
    first, second = review.questions[0].id, review.questions[1].id
    answers.give(first, Answer("4"))
    answers.give(second, Answer("", "unsure"))
    export_to(review, answers, tmp_path / "tasks.json")
    export_to(review, answers, tmp_path / "plain.csv")
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert tasks[0]["data"]["image"].startswith("data:image/png")
    assert tasks[0]["predictions"][0]["result"][0]["value"]["choices"] == [review.questions[0].guess]
    for name in ("tasks.json", "plain.csv"):
        (review.folder / "corrections.csv").unlink()
        fresh = AnswerFile(review.folder, review.source)
        assert import_from(review, fresh, tmp_path / name).startswith("2 answers read, 2 new")
        assert fresh.given == {first: Answer("4"), second: Answer("", "unsure")}
    with pytest.raises(UserError, match="exists already"):
        export_to(review, answers, tmp_path / "plain.csv")
    tasks[0]["annotations"][0]["result"][0]["value"]["choices"] = ["eleven"]
    (tmp_path / "bad.json").write_text(json.dumps(tasks), encoding="utf-8")
    with pytest.raises(UserError, match="no class 'eleven'"):
        import_from(review, answers, tmp_path / "bad.json")


def test_ids_that_a_spreadsheet_would_compute_come_back(tmp_path: Path) -> None:
    rows = np.zeros((3, 2), dtype=np.float32)
    source = from_arrays(rows, ["=a", "b", "=a"])
    source.ids = ("=1+1", "-x", "c")
    given = {"=1+1": Answer("=a"), "-x": Answer("", "none"), "c": Answer("", "unsure")}
    write_answers(tmp_path / "a.csv", given)
    assert "'=1+1,'=a,label" in (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert read_answers(tmp_path / "a.csv", source) == given


def test_cleanlab_gets_arrays_without_pickle(review: Review, tmp_path: Path) -> None:
    export_to(review, AnswerFile(review.folder, review.source), tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz", allow_pickle=False) as arrays:
        assert arrays["pred_probs"].shape == (80, 10)
        assert arrays["labels"].tolist() == [int(review.source.labels[k]) for k in review.taught.index]


def test_cleanlab_brings_mended_labels_back(review: Review, tmp_path: Path) -> None:
    export_to(review, AnswerFile(review.folder, review.source), tmp_path / "c.npz")
    answers = AnswerFile(review.folder, review.source)
    assert import_from(review, answers, tmp_path / "c.npz").startswith("0 answers read")
    with np.load(tmp_path / "c.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    arrays["labels"][3] = (arrays["labels"][3] + 1) % 10
    arrays["labels"][5] = -1
    np.savez(tmp_path / "mended.npz", **arrays)
    assert import_from(review, answers, tmp_path / "mended.npz").startswith("2 answers read, 2 new")
    ids, label = arrays["ids"].tolist(), str(arrays["labels"][3])
    assert answers.given == {ids[3]: Answer(label), ids[5]: Answer("", "unsure")}
    for change in (
        {"labels": arrays["labels"] + 10},
        {"labels": arrays["labels"] - 12},
        {"labels": arrays["labels"][:4]},
        {"ids": arrays["ids"][::-1] + "x"},
    ):
        np.savez(tmp_path / "bad.npz", **{**arrays, **change})
        with pytest.raises(UserError, match=r"bad\.npz"):
            import_from(review, answers, tmp_path / "bad.npz")


def test_fiftyone_gets_a_folder_and_its_answers_come_back(review: Review, tmp_path: Path) -> None:
    answers = AnswerFile(review.folder, review.source)
    first, second = review.questions[:2]
    answers.give(first.id, Answer("4"))
    answers.give(second.id, Answer("", "unsure"))
    export_to(review, answers, tmp_path / "tasks")
    images = sorted(p.stem for p in (tmp_path / "tasks" / "data").iterdir())
    labels = json.loads((tmp_path / "tasks" / "labels.json").read_text())["labels"]
    guesses = json.loads((tmp_path / "tasks" / "predictions.json").read_text())["labels"]
    assert images == sorted(labels) == sorted(guesses)
    assert len(images) == 1000
    assert {name: label for name, label in labels.items() if label is not None} == {f"{first.index:06d}": "4"}
    assert guesses[f"{second.index:06d}"]["label"] == second.guess
    with Image.open(tmp_path / "tasks" / "data" / f"{first.index:06d}.png") as picture:
        assert np.array_equal(np.asarray(picture), review.source.rows(np.array([first.index]))[0, 0].numpy())
    (review.folder / "corrections.csv").unlink()
    fresh = AnswerFile(review.folder, review.source)
    assert import_from(review, fresh, tmp_path / "tasks").startswith("1 answers read, 1 new")
    assert fresh.given == {first.id: Answer("4")}


@pytest.mark.parametrize(
    ("label", "classes"),
    [("7", None), (1, ["3", "7"]), ({"label": "7", "confidence": 0.5}, None), ({"label": 0}, ["7"])],
)
def test_every_way_in_which_fiftyone_writes_a_label(
    review: Review, tmp_path: Path, label: object, classes: object
) -> None:
    question = review.questions[0]
    content = {"classes": classes, "labels": {f"{question.index:06d}": label}}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    answers = AnswerFile(review.folder, review.source)
    import_from(review, answers, tmp_path)
    assert answers.given == {question.id: Answer("7")}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"classes": ["7"], "labels": {"000001": -1}}',
        '{"labels": {"x": "1"}}',
        '{"labels": {"999999": "1"}}',
        '{"labels": {"1": [1]}}',
    ],
)
def test_a_folder_that_fiftyone_did_not_write_changes_nothing(review: Review, tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    answers = AnswerFile(review.folder, review.source)
    with pytest.raises(UserError, match=r"labels\.json"):
        import_from(review, answers, tmp_path)
    assert not answers.given


def test_rows_that_are_not_images_do_not_go_to_fiftyone(review: Review, tmp_path: Path) -> None:
    table = from_arrays(np.zeros((3, 2), dtype=np.float32), ["a", "b", "a"])
    questions = tuple(Question(k, table.ids[k], "a", 0.5, "close") for k in range(3))
    other = replace(review, source=table, class_names=("a", "b"), questions=questions)
    with pytest.raises(UserError, match="shows images"):
        export_to(other, AnswerFile(tmp_path, table), tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


def test_a_run_with_corrections_does_not_ask_for_them_again(review: Review, tmp_path: Path) -> None:
    answers, question = AnswerFile(review.folder, review.source), review.questions[0]
    answers.give(question.id, Answer(review.source.class_names[int(review.source.labels[question.index])]))
    config = RunConfig(
        "digits",
        method="supervised",
        model="mlp",
        steps=4,
        split=SplitConfig(labels=8),
        guard=GuardConfig("off"),
        source=SourceOptions(corrections=str(answers.path)),
    )
    second = train(config, tmp_path / "second")
    assert question.index in second.split.labeled
    opened = open_review(tmp_path / "second")
    kept = AnswerFile(opened.folder, opened.source)
    assert kept.given == answers.given
    assert Session(opened, kept).answer("", "z")
    assert kept.given == answers.given, "undo leaves what is not asked again"


def test_ids_and_labels_of_a_csv_table_are_those_of_the_source() -> None:
    row = PoolRow("'=a", "'@b", 0.9, 0.8, None, None, True, "")
    ((number, found),) = _pool([row], {"=a": 7}, ("@b", "c"))
    assert (number, found.id, found.label) == (7, "=a", "@b")


def test_a_class_that_ends_with_a_blank_comes_back(tmp_path: Path) -> None:
    write_answers(tmp_path / "corrections.csv", {"1": Answer("cat "), "2": Answer("dog")})
    assert read_corrections(tmp_path / "corrections.csv", ("1", "2"), ("cat ", "dog")) == {"1": "cat ", "2": "dog"}


def test_each_class_has_a_key_of_its_own() -> None:
    assert keys_of(["cat", "dog", "eel"]) == ["1", "2", "3"]
    assert keys_of(["0", "1", "2"]) == ["0", "1", "2"]
    assert keys_of(["n", "y"]) == ["1", "2"]  # n means none of these
    many = keys_of([f"class {k}" for k in range(40)])
    assert len(many) == 40
    assert many[33:] == [""] * 7
    assert len(set(many[:33])) == 33


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_person_at_a_keyboard_in_a_real_browser(page: Page, review: Review) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        errors = list[str]()
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.goto(page.address)
        for k in range(20):
            with tab.expect_navigation():
                tab.keyboard.press("un1234567890"[k % 12])
        with tab.expect_navigation():
            tab.keyboard.press("z")
        assert tab.locator("h1").inner_text() == "Which class is this?"
        assert [text for text in errors if "favicon" not in text] == []
        browser.close()
    kept = AnswerFile(review.folder, review.source).given
    assert list(kept) == [q.id for q in review.questions[:19]]
    assert kept[review.questions[2].id] == Answer("1")
    assert kept[review.questions[1].id] == Answer("", "none")

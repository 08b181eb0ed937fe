"""Files of rows through the command line: train, evaluate, predict and resume, as a user would."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Call, refused, sums, table
from sklearn.datasets import load_breast_cancer

from metapl.cli import main
from metapl.inference.predict import predict_source
from metapl.runs.model_folder import load_model

QUICK = ("--steps", "40", "batch.labeled=16", "batch.unlabeled=32", "--guard", "off", "--quiet")
SHORT = (*QUICK, "--method", "supervised")
CLASSES = ("NA", "None", "null", "1", "01")


def write(path: Path, rows: list[dict[str, Any]], columns: list[str], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def cancer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The breast cancer data of scikit-learn: one fifth test rows; of the others, 10 per class have a label."""
    found = load_breast_cancer()
    names, order = [str(n) for n in found.feature_names], np.random.default_rng(0).permutation(len(found.target))
    kept: dict[int, int] = {0: 0, 1: 0}
    rows = []
    for place, k in enumerate(order.tolist()):
        y, test = int(found.target[k]), place % 5 == 0
        kept[y] += not test
        label = str(found.target_names[y]) if test or kept[y] <= 10 else ""
        rows.append({**dict(zip(names, found.data[k])), "diagnosis": label, "split": "test" if test else "train"})
    return write(tmp_path_factory.mktemp("cancer") / "cancer.csv", rows, [*names, "diagnosis", "split"])


def person(draw: random.Random, labeled: bool = True) -> dict[str, Any]:
    """A row of a made-up census: the class decides age, work and, less, hours; some values are missing."""
    k = draw.randrange(len(CLASSES))
    return {
        "age": "" if draw.random() < 0.1 else round(draw.gauss(20 + 15 * k, 4), 1),
        "work": draw.choice(["=office", "farm", "01", "1", "?"][k : k + 1] * 4 + ["farm", ""]),
        "hours": "NA" if draw.random() < 0.1 else round(draw.gauss(30 + 3 * k, 4)),
        "note": f"person {draw.random()}",
        "label": CLASSES[k] if labeled else "",
        "truth": CLASSES[k],
    }


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labelled.csv, unlabelled.tsv and test.csv, their columns in different orders; and rows to predict."""
    root, draw = tmp_path_factory.mktemp("people"), random.Random(0)
    columns = ["age", "work", "hours", "note", "label"]
    folder = root / "people"
    write(folder / "labelled.csv", [person(draw) for _ in range(80)], columns)
    write(folder / "unlabelled.tsv", [person(draw, False) for _ in range(300)], columns[3::-1], "\t")
    write(folder / "test.csv", [person(draw) for _ in range(60)], columns[::-1], ";")
    new = [{**person(draw, False), "id": f"=n{k}", "more": k} for k in range(40)]
    new[7]["work"] = "moon"
    write(root / "new.csv", new, ["more", "hours", "id", "work", "age"], "|")
    write(root / "truth.csv", new, ["hours", "truth", "work", "age"])
    return root


@pytest.fixture(scope="module")
def people_run(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "people"
    assert main(["train", str(people / "people"), *SHORT, "--steps", "200", "--out", str(out)]) == 0
    return out


def test_a_table_with_ten_labels_per_class(call: Call, cancer: Path) -> None:
    before = sums(cancer.parent)
    done = call("train", cancer, "source.table.label=diagnosis", *QUICK, "mpl.finetune_steps=5", "--out", "run")
    assert done.code == 0, done
    split = json.loads(Path("run/split.json").read_text())
    assert len(split["labeled"]) + len(split["validation"]) == 20
    assert len(split["test"]) == 114
    assert json.loads(Path("run/model/model.json").read_text())["class_names"] == ["benign", "malignant"]
    assert call("evaluate", "run").code == 0
    judged = json.loads(Path("run/evaluation.json").read_text())
    assert judged["rows"] == 114
    assert judged["accuracy"] > 0.8
    assert call("evaluate", "run").out.startswith(call("evaluate", "run", cancer).out.rstrip())  # and names the report
    done = call("predict", "run", cancer)
    assert len(table(done.out)) == 569
    assert table(done.out)[0]["id"] == "2"
    assert sums(cancer.parent) == before


def test_class_names_survive_and_columns_are_matched_by_name(call: Call, people: Path, people_run: Path) -> None:
    before = sums(people)
    assert json.loads((people_run / "model" / "model.json").read_text())["class_names"] == sorted(CLASSES)
    done = call("evaluate", people_run)
    assert done.code == 0, done
    judged = json.loads((people_run / "evaluation.json").read_text())
    assert set(judged["per_class_accuracy"]) == set(CLASSES)
    assert judged["accuracy"] > 0.5
    done = call("predict", people_run, people / "new.csv", "--out", "p.csv")
    assert done.code == 0, done
    assert "note: new.csv: columns not used: 'more'" in done.err
    assert "read as missing: 'work' 1" in done.err
    rows = table(Path("p.csv").read_text())
    assert [row["id"] for row in rows] == [f"'=n{k}" for k in range(40)]
    assert {row["label"] for row in rows} <= set(CLASSES)
    truth = [row["truth"] for row in table((people / "truth.csv").read_text())]
    assert sum(row["label"] == t for row, t in zip(rows, truth)) > 20
    assert sums(people) == before


def test_evaluate_on_other_files(call: Call, people: Path, people_run: Path) -> None:
    own = call("evaluate", people_run, "--json", "-").out
    assert call("evaluate", people_run, people / "people", "--json", "-").out == own
    assert json.loads(call("evaluate", people_run, people / "people" / "test.csv", "--json", "-").out) == json.loads(
        own
    )
    done = call("evaluate", people_run, people / "people" / "labelled.csv")
    assert "holds rows that the model was trained on" in done.err
    refused(call("evaluate", people_run, people / "truth.csv"), "truth.csv", "there must be one column of labels")
    write(Path("odd.csv"), [{"age": 1, "work": "farm", "hours": 2, "label": "NB"}], ["age", "work", "hours", "label"])
    refused(call("evaluate", people_run, "odd.csv"), "odd.csv, line 2", "the model knows no class 'NB'")


def test_what_new_rows_lack_is_named(call: Call, people_run: Path) -> None:
    Path("new.csv").write_text("age,work\n1,farm\n")
    refused(call("predict", people_run, "new.csv"), "new.csv: column 'hours' is missing")
    Path("new.csv").write_text("age,work,hours\n1,farm,2\nten,farm,3\n")
    refused(call("predict", people_run, "new.csv", "--out", "p.csv"), "new.csv, line 3", "'ten'")
    Path("new.csv").write_text("age,work,hours\n1,farm\n")
    refused(call("predict", people_run, "new.csv"), "new.csv, line 2", "2 fields where the header has 3")
    refused(call("predict", people_run, "none.csv"), "no such file")
    assert not Path("p.csv").exists()


def test_a_stopped_run_goes_on_and_changed_data_are_noticed(call: Call, people: Path) -> None:
    assert call("train", people / "people", *SHORT, "loop.save_every=20", "--out", "whole").code == 0
    whole = Path("whole/model/weights.safetensors").read_bytes()
    run = Path("run")
    run.mkdir()
    for name in ("config.yaml", "env.json", "split.json", "metrics.jsonl"):
        (run / name).write_bytes((Path("whole") / name).read_bytes())
    steps = sorted(Path("whole/checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    (run / "checkpoints" / steps[0].name).mkdir(parents=True)
    for file in steps[0].iterdir():
        (run / "checkpoints" / steps[0].name / file.name).write_bytes(file.read_bytes())
    done = call("resume", run)
    assert done.code == 0, done
    assert (run / "model" / "weights.safetensors").read_bytes() == whole
    copy = Path("copy")
    for path in (people / "people").iterdir():
        copy.mkdir(exist_ok=True)
        (copy / path.name).write_bytes(path.read_bytes())
    assert call("train", copy, *SHORT, "--out", "second").code == 0
    text = (copy / "unlabelled.tsv").read_text().replace("farm", "form", 1)
    (copy / "unlabelled.tsv").write_text(text)
    refused(call("evaluate", "second"), "the data changed")


def test_bad_rows_stop_the_training_or_are_listed(call: Call) -> None:
    rows = ["age,work,label"] + [
        f"{20 + 3 * k % 41}.5,{'ab'[k % 2]},{'uv'[k % 2] if k < 20 else ''}" for k in range(60)
    ]
    rows[30] += ",more"
    Path("x.csv").write_text("\n".join(rows))
    refused(call("train", "x.csv", *SHORT, "--out", "run"), "x.csv, line 31", "source.table.skip_bad_rows=true")
    assert not Path("run").exists()
    assert call("train", "x.csv", "source.table.skip_bad_rows=true", *SHORT, "--out", "run").code == 0
    problems = table(Path("run/problems.csv").read_text())
    assert [row["id"] for row in problems] == ["x.csv, line 31"]
    done = call("evaluate", "run", "x.csv")
    refused(done, "x.csv is what this run was trained on", "rows that it has not seen")
    Path("good.csv").write_text("\n".join(row for row in rows if "more" not in row))
    assert call("train", "good.csv", *SHORT, "--out", "strict").code == 0
    done = call("predict", "strict", "x.csv")  # which takes no settings
    refused(done, "x.csv, line 31")
    assert "skip_bad_rows" not in done.err
    assert ".." not in done.err


def test_texts_and_lists_of_images(call: Call, data: Path) -> None:
    texts = [f"{['who is', 'where is'][k % 2]} number {k}" for k in range(60)]
    lines = [
        json.dumps({"question": t, "label": ["HUM", "LOC"][k % 2] if k < 20 else None}) for k, t in enumerate(texts)
    ]
    Path("t.jsonl").write_text("\n".join(lines))
    assert call("train", "t.jsonl", *SHORT, "--out", "texts").code == 0
    answers = table(call("predict", "texts", "t.jsonl").out)
    assert [row["label"] for row in answers[:4]] == ["HUM", "LOC", "HUM", "LOC"]
    found = sorted((data / "plain").rglob("*.png"))
    rows = [f"{path.relative_to(data)}\t{path.parent.name if k % 2 else ''}" for k, path in enumerate(found)]
    Path("list.tsv").write_text("\n".join(["path\tlabel", *rows]))
    assert call("train", "list.tsv", *SHORT, f"source.root={data}", "--out", "images").code == 0
    answers = table(call("predict", "images", "list.tsv").out)
    assert [row["id"] for row in answers] == [row.split("\t")[0] for row in rows]
    assert {row["label"] for row in answers} <= {path.parent.name for path in found}


def german(path: Path, rows: int, labeled: int, codec: str = "cp1252", seed: int = 0) -> Path:
    """As a German Excel writes it; the class decides the two lengths. Classes look like numbers."""
    draw, lines = random.Random(seed), ["Länge;Höhe;Ort;label"]
    for k in range(rows):
        c = k % 3
        numbers = [f"{draw.gauss(5 * c, 1):.3f}".replace(".", ","), f"{draw.gauss(-c, 1):.1f}".replace(".", ",")]
        lines.append(";".join([*numbers, draw.choice(["Köln", "Zürich"]), ("1,5", "Größe", "2")[c] * (k < labeled)]))
    path.write_bytes("\r\n".join([*lines, ""]).encode(codec))
    return path


def test_a_german_spreadsheet(call: Call) -> None:
    german(Path("de.csv"), 150, 60)
    before = sums(Path())
    wrong = (
        "de.csv, line 1: byte 0xe4 is not valid UTF-8 (in cp1252 the word is 'Länge')",
        "set source.table.encoding=cp1252",
    )
    refused(call("train", "de.csv", *SHORT, "--out", "run"), *wrong)
    refused(call("check", "de.csv"), *wrong)
    comma = "de.csv, line 2: column 'Länge'", "a number with a decimal comma", "set source.table.decimal=comma"
    refused(call("train", "de.csv", "source.table.encoding=cp1252", *SHORT, "--out", "run"), *comma)
    refused(call("check", "de.csv", "source.table.encoding=cp1252"), *comma)
    settings = ("source.table.encoding=cp1252", "source.table.decimal=comma")
    done = call("check", "de.csv", *settings)
    assert done.out.startswith("OK: de.csv, 150 table rows of 3 columns, 3 classes"), done
    done = call("train", "de.csv", *settings, *SHORT, "--steps", "100", "--out", "run")
    assert done.code == 0, done
    card = json.loads(Path("run/model/model.json").read_text())
    assert card["class_names"] == ["1,5", "2", "Größe"]
    assert [c["levels"] for c in card["preprocessing"]["columns"]] == [[], [], ["Köln", "Zürich"]]
    assert {name: sums(Path())[name] for name in before} == before

    german(Path("new.csv"), 60, 60, seed=1)
    german(Path("new8.csv"), 60, 60, "utf-8", seed=1)
    judged = json.loads(call("evaluate", "run", "new.csv", "--json", "-").out)
    assert judged["accuracy"] > 0.8
    done = call("evaluate", "run", "new8.csv", "--json", "-")
    assert json.loads(done.out) == judged
    assert "note: new8.csv: is in UTF-8, not in cp1252" in done.err
    wanted = table(call("predict", "run", "new.csv").out)
    assert {row["label"] for row in wanted} == {"1,5", "2", "Größe"}
    found = [name for chunk in predict_source(load_model("run"), "new.csv") for name in chunk.labels]
    assert found == [row["label"] for row in wanted]
    Path("point.csv").write_text("Länge;Höhe;Ort\n1.5;2;Köln\n")
    refused(call("predict", "run", "point.csv"), "point.csv, line 2: column 'Länge' has '1.5'", "Write 1,5.")
    assert "source." not in call("predict", "run", "point.csv").err


def test_evaluated_rows_that_were_trained_on_are_counted(call: Call) -> None:
    draw = random.Random(3)
    rows = [
        {"a": round(draw.gauss(3 * (k % 2), 1), 4), "b": draw.choice(["x", "y", ""]), "label": "uv"[k % 2] * (k < 40)}
        for k in range(140)
    ]
    write(Path("own.csv"), rows, ["a", "b", "label"])
    assert call("train", "own.csv", *SHORT, "--out", "run").code == 0
    new = [{**row, "a": row["a"] + 50} for row in rows[:20]]
    hidden = [{**row, "label": "u"} for row in rows[100:107]]
    told = "stand among the rows that the model was trained on"
    write(Path("other.csv"), [*new, *rows[:10], *hidden], ["label", "b", "a"])
    done = call("evaluate", "run", "other.csv")
    assert f"note: 17 of these 37 rows {told} (10 with their label): they make the figures too good" in done.err, done
    write(Path("new.csv"), new, ["label", "b", "a"])
    assert told not in call("evaluate", "run", "new.csv").err
    write(Path("own.csv"), rows[1:], ["a", "b", "label"])  # changed since: nothing is known
    done = call("evaluate", "run", "other.csv")
    assert (done.code, told in done.err) == (0, False)


def test_rows_trained_on_are_counted_whatever_kind_of_file_it_was(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"a": k % 7 + k / 100, "b": k % 5 / 2, "label": "uv"[k % 2] * (k < 40)} for k in range(90)]
    write(Path("own.txt"), rows, ["a", "b", "label"])
    write(Path("other.csv"), rows[:4], ["a", "b", "label"])
    write(Path("test.csv"), [{"a": 50 + k, "b": 1, "label": "uv"[k % 2]} for k in range(20)], ["a", "b", "label"])
    assert call("train", "csv:own.txt", *SHORT, "source.test=test.csv", "--out", "run").code == 0
    told = "4 of these 4 rows stand among the rows"
    assert told in call("evaluate", "run", "other.csv").err
    sizes = [Path(name).stat().st_size for name in ("own.txt", "test.csv")]
    for most in (sum(sizes), sum(sizes) - 1):  # the test rows are read again, too
        with monkeypatch.context() as patch:
            patch.setattr("metapl.inference.leakage.MAX_BYTES", most)
            done = call("evaluate", "run", "other.csv")
        assert (done.code, told in done.err) == (0, most == sum(sizes))
    X = np.array([[row["a"], row["b"]] for row in rows], dtype=np.float32)
    y = np.where(np.arange(90) < 40, np.arange(90) % 2, -1)
    for spec, name in (("own.npz", "arrays"), ("npz:own.npz", "again")):
        np.savez("own.npz", X=X, y=y)
        np.savez("other.npz", X=X[:5], y=y[:5])
        assert call("train", spec, *SHORT, "--out", name).code == 0
        assert "5 of these 5 rows stand among the rows" in call("evaluate", name, "other.npz").err


def test_evaluated_texts_that_were_trained_on_are_counted(call: Call) -> None:
    rows = [
        {"text": f"{'good' if k % 2 else 'bad'} thing number {k}", "label": "uv"[k % 2] * (k < 40)} for k in range(90)
    ]
    write(Path("own.csv"), rows, ["text", "label"])
    assert call("train", "own.csv", *SHORT, "--out", "run").code == 0
    write(Path("other.csv"), [*rows[:4], {"text": "a good thing", "label": "v"}], ["text", "label"])
    assert "4 of these 5 rows stand among the rows" in call("evaluate", "run", "other.csv").err


def test_a_doubtful_column_of_labels_is_told_before_the_run_stops(call: Call) -> None:
    rows = [{"age": 18 + k % 60, "size": k % 7 + 0.5, "sick": "no" if k % 3 else "yes"} for k in range(180)]
    write(Path("x.csv"), rows, ["age", "size", "sick"])
    done = call("train", "x.csv", "source.table.label=age", "--steps", "5", "--out", "run")
    assert done.code == 2, done
    lines = done.err.splitlines()
    told = "the label column 'age' has 60 different values in 180 labelled rows, such as '18' and '77'"
    wanted = f"{told}. Name the column of classes with source.table.label; few different values are in 'size', 'sick'"
    assert any(wanted in line for line in lines[:-1]), done
    assert lines[-1].startswith("error: ")


def test_rows_from_stdin_and_answers_as_parquet(
    call: Call, people: Path, people_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    wanted = table(call("predict", people_run, people / "new.csv", "--top", "2").out)
    text = (people / "new.csv").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text))))
    assert table(call("predict", people_run, "-", "--top", "2").out) == wanted
    lines = "".join(json.dumps(row) + "\n" for row in csv.DictReader(text.decode().splitlines(), delimiter="|"))
    with_mark = io.BytesIO(lines.encode("utf-8-sig"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(with_mark)))
    done = call("predict", people_run, "-", "--top", "2")
    assert table(done.out) == wanted, done.err
    done = call("predict", people_run, people / "new.csv", "--top", "2", "--out", "p.parquet")
    assert done.code == 0, done.err
    rows = parquet.read_table("p.parquet").to_pylist()
    assert [(r["id"], r["label"]) for r in rows] == [(r["id"].lstrip("'"), r["label"]) for r in wanted]
    refused(call("predict", people_run, people / "new.csv", "--out", "p.parquet"), "exists already")
    assert call("predict", people_run, people / "new.csv", "--out", "p.parquet", "--overwrite").code == 0

"""Files of answers: the classes asked for, abstaining, CSV and Parquet, names on a terminal, and whose file it is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from metapl.errors import UserError
from metapl.inference.answers import AnswerForm, CsvAnswers, ParquetAnswers, write_answers
from metapl.inference.predict import Predictions

CLASSES = ("cat", "=dog", "a\x1b[31mred")
P = torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]])
CHUNK = Predictions(("r1", "r\x1b2"), ("=dog", "cat"), P, (("bad", "cannot be read"),))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def csv_of(form: AnswerForm, file: io.StringIO) -> list[str]:
    answers = CsvAnswers(file, form.header(len(CLASSES)))
    assert write_answers([CHUNK], answers, form, CLASSES) == (2, [("bad", "cannot be read")])
    return file.getvalue().splitlines()


def test_the_most_probable_class_with_formulas_guarded() -> None:
    lines = csv_of(AnswerForm(), io.StringIO())
    assert lines == ["id,label,probability", "r1,'=dog,0.700000", "r\x1b2,cat,0.500000"]


def test_several_classes_the_most_probable_first() -> None:
    lines = csv_of(AnswerForm(top=2), io.StringIO())
    assert lines[0] == "id,label,probability,label_2,probability_2"
    assert lines[1] == "r1,'=dog,0.700000,cat,0.200000"
    assert csv_of(AnswerForm(top=9), io.StringIO())[0].endswith("label_3,probability_3"), "no more than there are"


def test_a_row_below_the_threshold_gets_no_label() -> None:
    assert csv_of(AnswerForm(abstain_below=0.6), io.StringIO())[1:] == ["r1,'=dog,0.700000", "r\x1b2,,0.500000"]
    assert csv_of(AnswerForm(abstain_below=0.5), io.StringIO())[2] == "r\x1b2,cat,0.500000", "exactly at it has one"


def test_a_terminal_gets_no_control_characters() -> None:
    assert "\x1b" not in "".join(csv_of(AnswerForm(top=3), Terminal()))
    assert "\x1b" in "".join(csv_of(AnswerForm(top=3), io.StringIO())), "a pipe gets the names as they are"


@pytest.mark.parametrize(("top", "below"), [(0, 0.0), (1, -0.1), (1, 1.1)])
def test_settings_out_of_range(top: int, below: float) -> None:
    with pytest.raises(UserError, match="Give"):
        AnswerForm(top, below)


def test_parquet_has_the_same_answers_and_is_known_again(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    form, path = AnswerForm(top=2, abstain_below=0.6), tmp_path / "p.parquet"
    file = ParquetAnswers(path, form.header(3))
    write_answers([CHUNK, Predictions((), (), torch.zeros(0, 3))], file, form, CLASSES)
    file.close()
    rows = parquet.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == ["r1", "r\x1b2"], "Parquet keeps the text"
    assert [row["label"] for row in rows] == ["=dog", ""]
    assert rows[0]["probability"] == pytest.approx(0.7)
    assert rows[1]["label_2"] == CLASSES[2]

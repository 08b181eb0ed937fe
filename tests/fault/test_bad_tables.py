"""A corpus of files of rows as people have them. None crashes; none is relabelled without a word; none is changed.

Each case says what must come out: an error that names the file, and the line where there is one; or classes and labels,
row by row, and a note where something was read in a way that may surprise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metapl import open_source
from metapl.data.sources import SourceOptions
from metapl.errors import UserError

SETTINGS = ("source.table.encoding", "source.table.decimal", "source.table.delimiter")  # such a mistake lies in no file
GOOD = "a,b,label\n1,x,u\n2,y,v\n3,x,\n"


@dataclass
class Refused:
    """A file that must be refused, with these words; ``line`` None: the mistake has no line."""

    name: str
    content: bytes | str
    words: str
    line: str | None
    skipped: list[str | None] | None = None  # labels by row with skip_bad_rows, None: refused then, too
    options: dict[str, object] = field(default_factory=dict)
    file: str = "x.csv"


@dataclass
class Read:
    """A file that must be read, with these labels (None: unlabelled), and with a note that holds ``told``."""

    name: str
    content: bytes | str
    labels: list[str | None]
    told: str = ""
    options: dict[str, object] = field(default_factory=dict)
    file: str = "x.csv"


UVN: list[str | None] = ["u", "v", None]
REFUSED = [
    Refused(
        "a field too few", "a,b,label\n1,x,u\n2,y\n3,x,v\n", "2 fields where the header has 3", "line 3", ["u", "v"]
    ),
    Refused("a field too many", "a,b,label\n1,x,u\n2,y,v,w\n3,x,v\n", "4 fields", "line 3", ["u", "v"]),
    Refused("a comma in a text", "a,b,label\n1,x, y,u\n2,y,v\n3,x,u\n", "4 fields", "line 2", ["v", "u"]),
    Refused("a quote left open", 'a,b,label\n1,"x,u\n2,y,v\n', "never closed", "lines 2 to 3"),
    Refused("a quote open to the end", 'a,b,label\n1,x,u\n2,y,"v\n', "never closed", "line 3"),
    Refused("text after a quote", 'a,b,label\n1,"x"y,u\n2,y,v\n3,x,u\n', "closing quote", "line 2", ["v", "u"]),
    Refused(
        "two quotes around two rows", 'a,b,label\n1,x,"u\n2,y,v"\n3,x,u\n4,y,v\n', "several lines", "line 2", ["u", "v"]
    ),
    Refused("a NUL byte", "a,b,label\n1,x,u\n2,\0,v\n3,y,v\n", "NUL byte", "line 3", ["u", "v"]),
    Refused(
        "Latin-1",
        "a,b,label\n1,x,u\n2,café,v\n3,y,v\n".encode("latin-1"),
        "0xe9 is not valid UTF-8 (in cp1252 the word is 'café'). Save it as UTF-8, or set source.table.encoding=cp1252",
        "line 3",
        ["u", "v"],
    ),
    Refused("an old DOS file", "a,b,label\n1,Tür,u\n".encode("cp850"), "source.table.encoding=cp850", "line 2"),
    Refused("UTF-16 without a mark", GOOD.encode("utf-16-le"), "source.table.encoding=utf-16-le", "line 1"),
    Refused("UTF-16, cut", GOOD.encode("utf-16")[:-1], "middle of a character", None, options={"skip_bad_rows": True}),
    Refused("an unknown encoding", GOOD, "encoding is 'ansi'", None, options={"encoding": "ansi"}, file="x.csv"),
    Refused(
        "UTF-16 said, and no mark",
        GOOD.encode("utf-16-le"),
        "which UTF-16 it is in. Save it as UTF-8, or set source.table.encoding=utf-16-le (as on Windows) or utf-16-be",
        None,
        options={"encoding": "utf-16"},
    ),
    Refused(
        "UTF-32 said, and no mark",
        GOOD.encode("utf-32-le"),
        "source.table.encoding=utf-32-le (as on Windows) or utf-32-be",
        None,
        options={"encoding": "utf-32"},
    ),
    *(
        Refused(f"the encoding {name}", GOOD, f"encoding is '{name}'", None, options={"encoding": name})
        for name in ("idna", "unicode_escape", "raw_unicode_escape", "Unicode-Escape")
    ),
    Refused("an encoding that is no text", GOOD, "encoding is 'rot13'", None, options={"encoding": "rot13"}),
    Refused(
        "a byte that means nothing in the encoding",
        b"a,label\n1,u\n2,\x81\n",
        "byte 0x81 is not valid CP1252",
        "line 3",
        options={"encoding": "cp1252"},
    ),
    Refused("cut in a character", "a,b,label\n1,x,u\n2,y,v\n3,é".encode()[:-1], "middle of a character", None),
    Refused("two columns of one name", "a,a,label\n1,x,u\n", "two columns are called 'a'", "line 1"),
    Refused("two columns of one name but for blanks", "a,a ,label\n1,x,u\n", "two columns are called 'a'", "line 1"),
    Refused("a column without a name", "a,,label\n0,x,u\n", "no name", None),
    Refused("no header", "5.1,3.5,setosa\n4.9,3.0,setosa\n", "not like the names of columns", "line 1"),
    Refused("an empty file", "", "empty", "line 1"),
    Refused("blank lines alone", "\n\n\n", "empty", "line 1"),
    Refused("a blank first line", "\n" + GOOD, "first line is blank", "line 1"),
    Refused("a header alone", "a,b,label\n", "no rows", None),
    Refused("another delimiter", "a:b:label\n1:x:u\n2:y:v\n", "no column holds the label", None),
    Refused("a delimiter that is not there", GOOD, "no column holds the label", None, options={"delimiter": "tab"}),
    Refused("two delimiters", "a;b,label\n1;x,u\n2;y,v\n", "separated by comma", "line 1"),
    Refused("no label column", "a,b\n1,x\n2,y\n", "no column holds the label", None),
    Refused("two label columns", "a,class,y\n1,x,u\n2,y,v\n", "several columns may hold the label", None),
    Refused("the label alone", "label\nu\nv\n", "only one column", None),
    Refused("classes that look the same", "a,label\n1.5,Cat\n2,dog\n3,cat\n", "differ only by case", "line 4"),
    Refused("a class with a blank after it", "a,label\n1.5,cat\n2,dog\n3,cat \n", "differ only by case", "line 4"),
    Refused("a label of blanks", "a,label\n1.5,u\n2,  \n3,v\n", "made of blanks", "line 3", ["u", "v"]),
    Refused("numbers with a comma", "a;label\n1,5;u\n2;v\n", "Write 1.5, or set source.table.decimal=comma", "line 2"),
    Refused(
        "many numbers with a comma",
        "a;label\n" + "".join(f"{k},{k % 7};u\n" for k in range(1500)),
        "Write 0.0, or set source.table.decimal=comma",
        "line 2",
    ),
    Refused(
        "a comma that may mark thousands",
        "a;label\n1,500;u\n2;v\n",
        "If the comma marks thousands, take it out",
        "line 2",
    ),
    Refused("marked thousands", "a;label\n1.234,5;u\n2;v\n", "thousands marked. Write it plainly", "line 2"),
    Refused("marked thousands, many", "a;label\n192.168.100.300;u\n2;v\n", "thousands marked", "line 2"),
    Refused("marked thousands, English", 'a,label\n"1,234.5",u\n2,v\n', "thousands marked", "line 2"),
    Refused(
        "points where commas belong", "a;label\n1,5;u\n2.5;v\n", "with a point", "line 3", options={"decimal": "comma"}
    ),
    Refused(
        "a point that may mark thousands",
        "a;label\n1,5;u\n2.500;v\n",
        "If the point marks thousands, take it out",
        "line 3",
        options={"decimal": "comma"},
    ),
    Refused("an unknown decimal sign", GOOD, "decimal is 'dot'", None, options={"decimal": "dot"}),
    Refused(
        "decimal commas and no header",
        "5,1;3,5;u\n4,9;3,0;v\n",
        "not like the names of columns",
        "line 1",
        options={"decimal": "comma"},
    ),
    Refused("an infinite number", "a,label\n1,u\ninf,v\n", "infinite", "line 3"),
    Refused("a number beyond float32", "a,label\n1,u\n1e39,v\n", "too large", "line 3"),
    Refused(
        "an id twice",
        "id,a,label\n1,1,u\n2,2,v\n1,3,v\n",
        "stands already in x.csv, line 2",
        "line 4",
        ["u", "v"],
        {"id": "id"},
    ),
    Refused("an empty id", "id,a,label\n1,1,u\n,2,v\n3,3,v\n", "is empty", "line 3", ["u", "v"], {"id": "id"}),
    Refused(
        "an unknown split",
        "a,split,label\n1.5,train,u\n2,valid,v\n3,train,v\n",
        "'valid' is not one of",
        "line 3",
        ["u", "v"],
    ),
    Refused(
        "a test class that is new", "a,split,label\n1.5,,u\n2,,v\n3,test,w\n", "'w' is not among", "line 4", ["u", "v"]
    ),
    Refused(
        "a quantity as label", "a,y\n" + "".join(f"{k},{k}.5\n" for k in range(30)), "a quantity, not a class", "line 2"
    ),
    Refused(
        "a quantity of commas as label",
        "a;y\n" + "".join(f"{k};{k},5\n" for k in range(30)),
        "a quantity, not a class",
        "line 2",
    ),
    Refused(
        "ages as label",
        "sex,age\n" + "".join(f"{'mf'[k % 2]},{18 + k * 7 % 61}\n" for k in range(60)),
        "number of the rows, not a class. Name the column of classes with source.table.label; few different values are "
        "in "
        "'sex'",
        "line 2",
        options={"label": "age"},
    ),
    Refused(
        "row numbers as label",
        "n,target\n" + "".join(f"{k},{'uv'[k % 2]}\n" for k in range(30)),
        "not a class. Did you mean source.table.label=target?",
        "line 2",
        options={"label": "n"},
    ),
    Refused("a bad row after Excel's word", "sep=;\na;label\n1;u;3\n2;v\n3;u\n", "3 fields", "line 3", ["v", "u"]),
    Refused("another delimiter by Excel's word", "sep=x\naxlabel\n1xu\n", "delimiter is 'x'", None),
    Refused("a path out of the folder", "path,label\n../a.png,u\nb.png,v\n", "leads out of", "line 2"),
    Refused(
        "a path twice, written otherwise",
        "path,label\n./im/a.png,u\nim/b.png,v\nim/x/../a.png,v\n",
        "'im/x/../a.png' stands already in x.csv, line 2 (as './im/a.png')",
        "line 4",
    ),
    Refused("a path twice", "path,label\na.png,u\na.png,v\n", "stands already", "line 3"),
    Refused(
        "broken JSON",
        '{"a": 1, "label": "u"}\n{"a": 2,\n{"a": 3, "label": "v"}\n',
        "not valid JSON",
        "line 2",
        ["u", "v"],
        file="x.jsonl",
    ),
    Refused("a JSON list", '[{"a": 1, "label": "u"}]\n', "the file is not JSON Lines", "line 1", file="x.jsonl"),
    Refused(
        "JSON nested too deeply",
        '{"a": 1, "label": "u"}\n{"a": ' + "[" * 100_000 + "]" * 100_000 + '}\n{"a": 3, "label": "v"}\n',
        "nested too deeply",
        "line 2",
        ["u", "v"],
        file="x.jsonl",
    ),
    Refused(
        "infinite JSON",
        '{"a": 1, "label": "u"}\n{"a": 1, "label": -Infinity}\n{"a": 3, "label": "v"}\n',
        "holds -Infinity, which is not valid JSON",
        "line 2",
        ["u", "v"],
        file="x.jsonl",
    ),
    Refused("an empty JSON file", "", "no row", None, file="x.jsonl"),
]
GERMAN = "Länge;Ort;label\n1,5;Köln;1,5\n-2;Zürich;2,5\n1,5E+02;Köln;\n"
READ = [
    Read("plain", GOOD, UVN),
    Read(
        "a German spreadsheet",
        GERMAN.encode("cp1252"),
        ["1,5", "2,5", None],
        "2 features: 'Länge', 'Ort'",
        {"encoding": "cp1252", "decimal": "comma"},
    ),
    Read(
        "UTF-8 that is said to be something else",
        GERMAN.encode(),
        ["1,5", "2,5", None],
        "x.csv: is in UTF-8, not in latin-1, and read as that",
        {"encoding": "latin-1", "decimal": "comma"},
    ),
    Read("UTF-16", GOOD.encode("utf-16"), UVN),
    Read(
        "addresses of computers, no marked thousands",
        "a,label\n192.168.100.100,u\n192.168.100.101,v\n192.168.100.100,\n",
        UVN,
    ),
    Read("UTF-16, big end first, said", GOOD.encode("utf-16-be"), UVN, options={"encoding": "utf-16-be"}),
    Read("UTF-32", GOOD.encode("utf-32"), UVN, "by its first bytes, not in cp1252", {"encoding": "cp1252"}),
    Read(
        "Windows-1252 that is said to be Latin-1",
        "a;label\n1;5 €\n2;6 €\n".encode("cp1252"),
        ["5 \x80", "6 \x80"],
        "is it in cp1252?",
        {"encoding": "latin-1"},
    ),
    Read(
        "JSON in Latin-1",
        '{"a": 1, "label": "ü"}\n{"a": 2.5, "label": "v"}\n'.encode("latin-1"),
        ["ü", "v"],
        options={"encoding": "latin-1", "decimal": "comma"},
        file="x.jsonl",
    ),
    Read("commas in the header", "a, cm;label\n1,5;u\n2;v\n", ["u", "v"], options={"decimal": "comma"}),
    Read("quoted decimal commas", 'a,label\n"1,5",u\n2,v\n', ["u", "v"], options={"decimal": "comma"}),
    Read("a BOM", b"\xef\xbb\xbf" + GOOD.encode(), UVN),
    Read("CRLF", GOOD.replace("\n", "\r\n"), UVN),
    Read("CR", GOOD.replace("\n", "\r"), UVN),
    Read("no line end at the end", GOOD.rstrip("\n"), UVN),
    Read("Excel's own word on the delimiter", "sep=;\r\n" + GOOD.replace(",", ";"), UVN),
    Read("Excel's own word, a tab, in quotes", '"sep=\t"\n' + GOOD.replace(",", "\t"), UVN),
    Read("semicolons in a .csv", GOOD.replace(",", ";"), UVN),
    Read("commas in a .tsv", GOOD, UVN, file="x.tsv"),
    Read("blank lines", GOOD.replace("\n2", "\n\n\n2"), UVN, "2 blank lines passed over"),
    Read("blanks around names", GOOD.replace("a,b,label", " a , b , label "), UVN),
    Read("everything quoted", "\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in GOOD.split()), UVN),
    Read(
        "a line break in a text",
        'a,b,label\n1,"x\ny",u\n2,y,v\n',
        ["u", "v"],
        "1 row of several lines, the first on line 2",
    ),
    Read("a quote inside a field", 'a,b,label\n1,5" disk,u\n2,"6"" disk",v\n', ["u", "v"]),
    Read(
        "odd names of classes",
        "a,label\n"
        + "".join(f"{k}.5,{n}\n" for k, n in enumerate(("NA", "None", "null", "1", "01", "2.0", "?", "-1"))),
        ["NA", "None", "null", "1", "01", "2.0", "?", "-1"],
        "are taken for classes",
    ),
    Read("names that a spreadsheet computes", "a,label\n1.5,=1+1\n2,@x\n", ["=1+1", "@x"]),
    Read("true and false", "a,label\n1.5,TRUE\n2,FALSE\n3,\n", ["TRUE", "FALSE", None]),
    Read("names beyond ASCII", "a,label\n1.5,déjà\n2,日本\n", ["déjà", "日本"]),
    Read(
        "missing numbers",
        "a,b,label\nNA,1,u\n?,2,v\n3,,u\n",
        ["u", "v", "u"],
        "read as missing, of 3 rows: 'a' 2, 'b' 1",
    ),
    Read(
        "a slip among numbers",
        "a,label\n1,u\n2,v\n3,u\nl0,v\n",
        ["u", "v", "u", "v"],
        "but 'l0' (x.csv, line 5) is not",
    ),
    Read(
        "many class numbers, one row each",  # not in their order, as row numbers would be
        "a,label\n" + "".join(f"{k % 3}.5,{k * 7 % 30}\n" for k in range(30)),
        [str(k * 7 % 30) for k in range(30)],
        "the label column 'label' has 30 different values in 30 labelled rows, such as '0' and '29'",
    ),
    Read(
        "many class numbers, some rows each",
        "a,label\n" + "".join(f"{k % 3}.5,{k % 30}\n" for k in range(90)),
        [str(k % 30) for k in range(90)],
    ),
    Read(
        "many names, one row each",
        "a,label\n" + "".join(f"{k % 3}.5,name {k:02}\n" for k in range(30)),
        [f"name {k:02}" for k in range(30)],
        "has 30 different values in 30 labelled rows, such as 'name 00' and 'name 29'. Name the column of classes",
    ),
    Read("long fields", f"a,b,label\n1,{'x' * 200_000},u\n2,y,v\n", ["u", "v"]),
    Read("names of columns that pandas gives", "0,1,label\n1,5,u\n2,4,v\n", ["u", "v"]),
    Read(
        "JSON with NaN",
        '{"a": 1, "label": "u"}\n{"a": NaN, "label": "NaN"}\n{"a": 2, "label": NaN}\n',
        ["u", "NaN", None],
        "'NaN' is taken for a class",
        file="x.jsonl",
    ),
    Read(
        "JSON with gaps",
        '{"a": 1, "label": "u"}\n\n{"label": 1}\n{"a": null}\n',
        ["u", "1", None],
        "the key 'label' is in 2 of 3 lines",
        file="x.jsonl",
    ),
]


def sums(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and change time of each file."""
    found = sorted(folder.rglob("*"))
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in found if p.is_file()}


def put(folder: Path, case: Refused | Read) -> tuple[str, dict[str, tuple[str, int]]]:
    path = folder / case.file
    path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    return str(path), sums(folder)


def labels_of(path: str, options: dict[str, object]) -> tuple[list[str | None], tuple[str, ...], list[tuple[str, str]]]:
    source = open_source(path, SourceOptions(**options))  # type: ignore[arg-type]
    return [source.class_names[k] if k >= 0 else None for k in source.labels], source.notes, source.problems


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused(tmp_path: Path, case: Refused) -> None:
    path, before = put(tmp_path, case)
    with pytest.raises(UserError) as error:
        open_source(path, SourceOptions(**case.options))  # type: ignore[arg-type]
    text = str(error.value)
    setting = next((name for name in SETTINGS if text.startswith(name)), "")
    assert text.startswith(f"{case.file}, {case.line}: " if case.line else f"{setting or case.file}: ")
    assert case.words in text
    assert "\n" not in text
    assert error.value.remedy
    assert sums(tmp_path) == before


@pytest.mark.parametrize("case", [case for case in REFUSED if case.skipped], ids=lambda case: case.name)
def test_left_out_when_asked(tmp_path: Path, case: Refused) -> None:
    """The other rows keep their own labels, and the bad row stands among the problems, by file and line."""
    path, before = put(tmp_path, case)
    labels, _, problems = labels_of(path, {**case.options, "skip_bad_rows": True})
    assert labels == case.skipped
    assert len(problems) == 1
    assert problems[0][0].startswith(case.file)
    assert case.line is not None
    assert case.line in problems[0][0]
    assert sums(tmp_path) == before


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_read(tmp_path: Path, case: Read) -> None:
    path, before = put(tmp_path, case)
    labels, notes, problems = labels_of(path, case.options)
    assert labels == case.labels
    assert not problems
    assert not case.told or any(case.told in note for note in notes), notes
    assert sums(tmp_path) == before


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_source(str(tmp_path / "none.csv"))
    (tmp_path / "x.csv").write_text(GOOD)
    with pytest.raises(UserError, match=r"source\.unlabeled: .*not a file of rows by its suffix"):
        open_source(str(tmp_path / "x.csv"), SourceOptions(unlabeled=str(tmp_path)))

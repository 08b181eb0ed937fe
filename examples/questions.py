"""Questions in a CSV file, few of them with a label: train, judge, label the rest.

    python examples/questions.py               # makes a small file to try it on
    python examples/questions.py FILE.csv      # your own: columns text and label, empty if unlabelled

The same on the command line: metapl train FILE.csv --out run; metapl predict run FILE.csv --out labels.csv
Nothing is downloaded: words are hashed. With a sentence encoder in a folder of yours, add --encoder hf:FOLDER.
"""

import csv
import itertools
import random
import sys
import tempfile
from pathlib import Path

import metapl

STEPS = 300
PEOPLE = ("Ada Lovelace", "the mayor of Lyon", "your grandmother", "Marie Curie", "the captain", "our new neighbour")
PLACES = ("Lisbon", "the old harbour", "the nearest chemist", "Lake Como", "the town hall", "platform nine")
THINGS = ("eggs", "bridges", "bus stops", "moons of Jupiter", "keys on a piano", "languages in Peru")
FORMS = {
    "person": ("Who was {p}", "Who met {p} in {l}", "Which author wrote about {p}", "Who sold {t} to {p}"),
    "place": ("Where is {l}", "Where did {p} buy {t}", "In which city was {p} born", "What is the way to {l}"),
    "number": ("How many {t} are there", "How far is {l}", "What does {p} pay for {t}", "How old is {p}"),
}


def make_file(path: Path, labels: int = 5) -> Path:
    """Made-up questions of three kinds; ``labels`` of each kind carry their label, 14 of each are for testing."""
    rows = []
    for kind, forms in FORMS.items():
        parts = itertools.product(forms, PEOPLE, PLACES, THINGS)
        made = {form.format(p=person, l=place, t=thing) + "?" for form, person, place, thing in parts}
        rows += [(text, kind) for text in random.Random(0).sample(sorted(made), 54)]
    random.Random(1).shuffle(rows)
    seen = dict.fromkeys(FORMS, 0)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for text, kind in rows:
            seen[kind] += 1
            test = seen[kind] > 40
            writer.writerow([text, kind if test or seen[kind] <= labels else "", "test" if test else "train"])
    return path


def main(path: Path) -> None:
    print(metapl.check(path), "\n")
    result = metapl.fit(path, method="fixmatch", steps=STEPS, progress=True)
    if len(result.split.test):
        judged = result.evaluate()
        print(f"\n{100 * judged['accuracy']:.1f} % of {judged['rows']} test questions")
    for question in ("Who painted the ceiling?", "Where do swallows winter?", "How many legs has a spider?"):
        p = result.predict_proba([question])[0]
        print(f"{question} {result.class_names[p.argmax()]} ({100 * p.max():.0f} %)")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(make_file(Path(folder) / "questions.csv"))

"""A folder of images of which few have a label: check it, train, judge, label the rest.

    python examples/photos.py            # makes a folder of small pictures to try it on
    python examples/photos.py FOLDER     # your own: FOLDER/labelled/CLASS/*, FOLDER/unlabelled/*, FOLDER/test/CLASS/*
    python examples/photos.py FOLDER RUN # RUN: the new folder for the run, by default photos-run where you are

FOLDER is only read. The same on the command line: metapl check FOLDER; metapl train FOLDER --out run;
metapl evaluate run; metapl predict run FOLDER/unlabelled --out labels.csv
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

import metapl

STEPS = 400
NAMES = ("zero", "one", "two", "three", "four")


def make_folder(root: Path) -> Path:
    """Handwritten digits as PNG files: 5 of each class labelled, 20 for testing, the others without a label."""
    count = dict.fromkeys(NAMES, 0)
    for k, (pixels, digit) in enumerate(zip(*load_digits(n_class=len(NAMES), return_X_y=True))):
        name = NAMES[digit]
        count[name] += 1
        place = f"labelled/{name}" if count[name] <= 5 else f"test/{name}" if count[name] <= 25 else "unlabelled"
        (root / place).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels.reshape(8, 8) * 15.9).astype("uint8"))
        image.resize((24, 24)).save(root / place / f"{k:04d}.png")
    return root


def main(folder: Path, run: Path, steps: int = 0) -> None:  # 0: what suits the rows
    print(metapl.check(folder), "\n")
    result = metapl.fit(folder, steps=steps, out=run, progress=True)
    print("\n" + result.summary["guard"]["text"], "\n")
    judged = result.evaluate()
    print(f"{100 * judged['accuracy']:.1f} % of {judged['rows']} test images")
    predictor = metapl.load_model(run)  # as a later program would
    for chunk in metapl.predict_folder(predictor, folder / "unlabelled"):
        for name, label, p in list(zip(chunk.ids, chunk.labels, chunk.probabilities.amax(1).tolist()))[:3]:
            print(f"{name}: {label} ({100 * p:.0f} %)")
        break


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "photos-run"))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(make_folder(Path(made, "photos")), Path(made, "run"), STEPS)

"""A DataFrame of which few rows have a label, with scikit-learn's habits: fit, score, search, save.

python examples/dataframe.py        # needs pandas, which scikit-learn users mostly have
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metapl import LabeledKFold, SemiSupervisedClassifier

STEPS = 300
LABELS = 60


def make_frame() -> tuple[pd.DataFrame, pd.Series]:
    """Handwritten digits as 64 columns of numbers, with a column of categories and some gaps added; labels as text."""
    X, y = load_digits(return_X_y=True, as_frame=True)
    X = X.copy()
    X["ink"] = pd.cut(X.sum(axis=1), 3, labels=["little", "some", "much"])
    X.loc[X.index % 7 == 0, "pixel_3_3"] = np.nan
    return X, "digit " + y.astype(str)


def main() -> None:
    X, y = make_frame()
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
    few = y.astype(object).copy()
    few.iloc[LABELS:] = None  # the others lose their label

    model = SemiSupervisedClassifier(steps=STEPS, random_state=0).fit(X, few)
    print(f"metapl, {few.notna().sum()} labels and {few.isna().sum()} rows without: {model.score(X_test, y_test):.3f}")

    numbers = X.drop(columns="ink").fillna(X.mean(numeric_only=True))
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(numbers[:LABELS], y[:LABELS])
    tested = X_test.drop(columns="ink").fillna(X.mean(numeric_only=True))
    print(f"logistic regression on the {LABELS} labels alone: {plain.score(tested, y_test):.3f}")

    guess = pd.Series(model.transduction_, index=X.index)
    print(f"labels it gave to the other rows that are right: {(guess[LABELS:] == y[LABELS:]).mean():.3f}")

    grid = {"method": ["supervised", "mpl"]}
    search = GridSearchCV(SemiSupervisedClassifier(steps=STEPS, random_state=0), grid, cv=LabeledKFold(2))
    print("by cross-validation on the labelled rows:", search.fit(X, few).best_params_)

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")  # weights and JSON, no pickle
        again = SemiSupervisedClassifier.load(Path(folder) / "model")
        assert (again.predict(X_test) == model.predict(X_test)).all()


if __name__ == "__main__":
    main()

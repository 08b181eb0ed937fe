"""The recipe for Spark in docs/label.md, on a local Spark where it is installed (pyspark and Java)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metapl
from metapl.cli import main

pd = pytest.importorskip("pandas")
PAGE = Path(__file__).parents[2] / "docs" / "label.md"


def recipe() -> str:
    """Return the code block that follows the word Spark."""
    found = re.search(r"^Spark:\n\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.filterwarnings("ignore")  # of Spark's own
def test_the_recipe_as_it_stands_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
    labels = ["left" if row.a < row.b else "right" for row in rows.itertuples()]
    rows.assign(label=labels).to_csv(tmp_path / "rows.csv", index=False)
    words = ["train", str(tmp_path / "rows.csv"), "--labels", "8", "--steps", "5", "--guard", "off", "--no-report"]
    assert main([*words, "--quiet", "--out", str(tmp_path / "runs" / "people-mpl-0")]) == 0
    rows.assign(id=[f"r{k}" for k in range(300)]).to_parquet(tmp_path / "pool")
    monkeypatch.setenv("TZ", "UTC")
    spark = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        scope: dict[str, Any] = {"metapl": metapl, "pandas": pd, "spark": spark}
        exec(recipe().replace("/shared", str(tmp_path)), scope)
    finally:
        spark.stop()
    found = pd.read_parquet(tmp_path / "labels").sort_values("id", ignore_index=True)
    whole = metapl.label_batch(
        metapl.load_model(tmp_path / "runs" / "people-mpl-0"), pd.read_parquet(tmp_path / "pool")
    )
    expected = pd.DataFrame(whole).sort_values("id", ignore_index=True)
    assert list(found["id"]) == list(expected["id"])
    assert list(found["label"]) == list(expected["label"])
    assert np.allclose(found["confidence"], expected["confidence"], atol=1e-6)
    assert np.allclose(found["margin"], expected["margin"], atol=1e-6)
    assert found["problem"].isna().all()

"""Label new rows with an exported model: onnxruntime and NumPy, no metapl.

metapl export RUN --out model.onnx
python examples/onnx_predict.py model.onnx photo.jpg another.png    # images
python examples/onnx_predict.py model.onnx new.csv                  # a table, or texts in a column called text
"""

import csv
import json
import re
import sys
import unicodedata
from hashlib import blake2b
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model, *files):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["metapl"])
    entry = facts["input"]
    if "layout" in entry:
        names, rows = files, [pixels(file, entry) for file in files]
    else:
        with open(files[0], encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        names = [row.get("id", k) for k, row in enumerate(table, start=2)]
        texts = "tokenizer" in entry
        rows = [tokens(row["text"], entry["tokenizer"], model) if texts else numbers(row, entry) for row in table]
    (p,) = session.run(None, {"rows": np.array(rows, dtype=entry["dtype"])})
    for name, k in zip(names, p.argmax(1)):
        print(f"{name},{facts['classes'][k]}")
    return p


def pixels(file, entry):
    """Return a photograph, upright and at the model's size, [height, width, channels]."""
    _, height, width, channels = entry["shape"]
    image = ImageOps.exif_transpose(Image.open(file)).convert("L" if channels == 1 else "RGB")
    ways = {"cover": ImageOps.fit, "stretch": Image.Image.resize, "pad": ImageOps.pad}
    grey = {"color": (128,) * channels} if entry["resize"] == "pad" else {}
    if image.size != (width, height):
        image = ways[entry["resize"]](image, (width, height), Image.Resampling.BILINEAR, **grey)
    return np.array(image).reshape(height, width, channels)


def numbers(row, entry):
    """Return a row of a table by the model's columns; what is missing or not known is NaN."""
    values = []
    for column in entry.get("columns") or [{"name": name, "levels": []} for name in row]:
        text, levels = row[column["name"]].strip(), column["levels"]
        known = text in levels if levels else text not in ("", "NA", "nan")
        values.append((levels.index(text) if levels else float(text)) if known else np.nan)
    return values


def tokens(text, tokenizer, model):
    """Return the ids of a text. Words are hashed, without a vocabulary; another tokenizer lies beside the model."""
    length = tokenizer["length"]
    if tokenizer["name"] == "words":
        kinds = [(c, unicodedata.category(c)) for c in text[: 64 * length]]
        clean = "".join(" " if kind == "Cc" else c for c, kind in kinds if kind != "Cf")
        clean = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", clean).casefold())
        ids = [word_id(word) for word in re.findall(tokenizer["pattern"], clean)[:length]]
    else:
        from tokenizers import Tokenizer

        ids = Tokenizer.from_file(str(Path(model).with_suffix(".tokenizer.json"))).encode(text).ids
    return ids + [tokenizer["pad"]] * (length - len(ids))


def word_id(word):
    """Return 15 bits of the hash of the word's first 5 letters, then 16 bits of its own hash."""
    stem, whole = (
        int.from_bytes(blake2b(part.encode(), digest_size=4).digest(), "little") for part in (word[:5], "\0" + word)
    )
    return max(stem >> 17 << 16 | whole & 0xFFFF, 2)


if __name__ == "__main__":
    main(*sys.argv[1:])

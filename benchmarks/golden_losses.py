"""Losses of 50 steps of every method on images, a table and texts: to see whether a change of the code moved one bit.

    python benchmarks/golden_losses.py before.json              record (3 minutes on one core)
    python benchmarks/golden_losses.py after.json               record again after the change
    python benchmarks/golden_losses.py --compare before.json after.json

``--compare`` ends with 1 and names the first difference, or with 0. It asks for equality, so both files must come from
one machine with one PyTorch. Numbers that only the second file has (a new logged value, say) are counted, not refused.

Only public names are used, so the same file runs on older versions: ``PYTHONPATH=OLD/src python golden_losses.py``.

Every entry of the JSON, ``{case: {kind: ...}}``, holds every logged number of every step (``float.hex()``), the SHA-256
of the final weights, the validation figures, and the network that was chosen. A case is a method, or a method with
settings that reach another part of it. ``commands`` holds the answers of ``metapl evaluate`` and ``metapl predict``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import metapl

STEPS = 50
KINDS = ("image", "table", "text")
TOPICS = ("north", "south", "east")  # the classes of the texts
# Since version 0.2 ``mpl`` returns the mean of student and teacher; without it, its result is that of version 0.1.
ALWAYS: dict[str, dict[str, Any]] = {"mpl": {"offer_teacher": False}}
MPL = {"uda_threshold": 0.3, "uda_ramp": 0.2, "finetune_steps": 4}
ALL_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("supervised", {"label_smoothing": 0.1}),
    "pseudo_label": ("pseudo_label", {"threshold": 0.3, "ramp": 0.2}),
    "mean_teacher": ("mean_teacher", {}),
    "self_training": ("self_training", {"threshold": 0.12}),
    "co_training": ("co_training", {"ramp": 0.2}),
    "uda": ("uda", {"threshold": 0.3, "ramp": 0.2}),
    "fixmatch": ("fixmatch", {"threshold": 0.3}),
    "flexmatch": ("flexmatch", {"threshold": 0.3}),
    "freematch": ("freematch", {"decay": 0.9}),
    "softmatch": ("softmatch", {"decay": 0.9}),
    "mpl": ("mpl", MPL),
    "self_mpl": ("self_mpl", {"uda_threshold": 0.3, "uda_ramp": 0.2}),
    "mpl_reduced": ("mpl_reduced", {"uda_threshold": 0.3, "finetune_steps": 4}),
}
ONE_KIND: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # on images alone: method, its settings, others
    "supervised, defaults": ("supervised", {}, {}),
    "pseudo_label, epochs": (
        "pseudo_label",
        {"schedule": "epoch", "epoch_steps": 20, "threshold": 0.2, "mean": "kept"},
        {},
    ),
    "pseudo_label, epochs, views": (
        "pseudo_label",
        {"schedule": "epoch", "epoch_steps": 20, "threshold": 0.1, "judge": "views"},
        {},
    ),
    "mean_teacher, kl": ("mean_teacher", {"consistency": "kl", "teacher_mode": "eval", "student_view": "weak"}, {}),
    "self_training, soft": ("self_training", {"labels": "soft", "threshold": 0.12, "balance": True}, {}),
    "co_training, threshold": ("co_training", {"select": "threshold", "threshold": 0.2, "learn_view": "weak"}, {}),
    "uda, curriculum": ("uda", {"selection": "curriculum", "threshold": 0.3}, {}),
    "uda, adaptive": ("uda", {"selection": "adaptive", "selection_decay": 0.9}, {}),
    "uda, precision": ("uda", {"threshold": "precision=0.5"}, {}),
    "uda, off": ("uda", {"weight": 0.0}, {}),
    "fixmatch, soft": ("fixmatch", {"selection": "soft", "selection_decay": 0.9}, {}),
    "fixmatch, precision": ("fixmatch", {"threshold": "precision=0.5"}, {}),
    "mpl, defaults": ("mpl", {}, {}),
    "mpl, sampled": ("mpl", {**MPL, "feedback": "sampled"}, {}),
    "mpl, official": ("mpl", {**MPL, "feedback": "official"}, {}),
    "mpl, no feedback, no uda": ("mpl", {"feedback": "none", "uda_weight": 0.0}, {}),
    "mpl, late": ("mpl", {**MPL, "feedback_start": 0.2, "feedback_ramp": 0.2, "student_wait": 0.1}, {}),
    "mpl, even rows, strong labels": ("mpl", {**MPL, "feedback_rows": "even", "label_view": "strong"}, {}),
    "mpl, difference": ("mpl", {**MPL, "derivative": "difference", "feedback_cap": 0.0}, {}),
    "mpl, precision": ("mpl", {**MPL, "uda_threshold": "precision=0.5"}, {}),
    "mpl, soft": ("mpl", {**MPL, "uda_selection": "soft", "uda_selection_decay": 0.9}, {}),
    "mpl, adamw, clip": ("mpl", MPL, {"optim.name": "adamw", "optim.lr": 0.003, "optim.clip": 0.2}),
    "mpl, nesterov": ("mpl", {**MPL, "teacher_lr": 0.02}, {"optim.nesterov": True, "optim.warmup": 5}),
    "self_mpl, defaults": ("self_mpl", {}, {}),
    "self_mpl, sampled": ("self_mpl", {"feedback": "sampled", "uda_threshold": 0.3, "pseudo_weight": 0.5}, {}),
    "self_mpl, no feedback": ("self_mpl", {"feedback": "none", "uda_weight": 0.0, "label_smoothing": 0.1}, {}),
    "self_mpl, adamw, clip": ("self_mpl", {}, {"optim.name": "adamw", "optim.lr": 0.003, "optim.clip": 0.2}),
    "mpl_reduced, no feedback": ("mpl_reduced", {"feedback": "none", "teacher_share": 0.5}, {}),
    "mpl_reduced, adamw, clip": ("mpl_reduced", {}, {"optim.name": "adamw", "optim.lr": 0.003, "optim.clip": 0.2}),
    "guard": ("fixmatch", {"threshold": 0.3}, {"guard.mode": "return", "guard.least_steps": 20}),
}


def write_table(path: Path, rows: int, seed: int) -> None:
    """Four numbers, two columns of categories, gaps in both, three classes."""
    draw, lines = random.Random(seed), ["a,b,c,d,colour,size,label"]
    for _ in range(rows):
        k = draw.randrange(3)
        numbers = [f"{draw.gauss((k - 1) * s, 1.0):.4f}" for s in (1.5, -0.7, 0.3, 0.0)]
        colour = draw.choice(("red", "red", "green") if k == 0 else ("green", "blue", "blue"))
        cells = [*numbers, colour, draw.choice(("small", "large"))]
        lines.append(",".join(["" if draw.random() < 0.05 else cell for cell in cells] + [f"class {k}"]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_texts(path: Path, rows: int, seed: int) -> None:
    """Texts of 5 to 14 words, some of which their class has to itself; three classes."""
    draw, lines = random.Random(seed), ["text,label"]
    for _ in range(rows):
        k = draw.randrange(3)
        own = [f"{TOPICS[k]}{draw.randrange(15)}" for _ in range(draw.randrange(1, 5))]
        words = own + [f"word{draw.randrange(60)}" for _ in range(draw.randrange(4, 11))]
        draw.shuffle(words)
        lines.append(f"{' '.join(words)},{TOPICS[k]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_images(folder: Path, count: int) -> None:
    """The last digits of scikit-learn's set as PNG files, one folder per class."""
    digits = load_digits()
    for k, (image, label) in enumerate(zip(digits.images[-count:], digits.target[-count:])):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / str(label) / f"{k:03d}.png")


def write_data(root: Path) -> dict[str, tuple[str, str]]:
    """For each kind the data to train on, and new rows."""
    write_table(root / "table.csv", 360, 1)
    write_table(root / "new-table.csv", 40, 2)
    write_texts(root / "texts.csv", 360, 3)
    write_texts(root / "new-texts.csv", 40, 4)
    write_images(root / "new-images", 40)
    return {
        "image": ("digits", str(root / "new-images")),
        "table": (str(root / "table.csv"), str(root / "new-table.csv")),
        "text": (str(root / "texts.csv"), str(root / "new-texts.csv")),
    }


def train(data: str, method: str, settings: dict[str, Any], others: dict[str, Any], out: Path) -> dict[str, Any]:
    """One run; all that it logged and ended with."""
    options: dict[str, Any] = {
        "method": method, "seed": 7, "steps": STEPS, "device": "cpu", "split.labels": 8, "split.validation": 3,
        "batch.labeled": 16, "batch.unlabeled": 32, "loop.log_every": 1, "guard.mode": "off",
    }  # fmt: skip
    options |= {f"{method}.{key}": value for key, value in (ALWAYS.get(method, {}) | settings).items()} | others
    metapl.train(metapl.make_config(data, options=options), out)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {
        "metrics": read_metrics(out / "metrics.jsonl"),
        "weights": sha256_of_tensors(out / "model" / "weights.safetensors"),
        "validation": hexadecimal(results["validation"]),
        "chosen": [results["chosen"], results["candidate"]],
    }


def read_metrics(path: Path) -> dict[str, list[str | None]]:
    """Each logged number by name, one value per step; None where a step did not log it."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = sorted({name for row in rows for name in row})
    return {name: [hexadecimal(row.get(name)) for row in rows] for name in names}


def hexadecimal(value: Any) -> Any:
    """``value`` with every number written so that no bit is lost."""
    if isinstance(value, dict):
        return {key: hexadecimal(v) for key, v in value.items()}
    if isinstance(value, list):
        return [hexadecimal(v) for v in value]
    return float(value).hex() if isinstance(value, float | int) and not isinstance(value, bool) else value


def sha256_of_tensors(path: Path) -> str:
    """SHA-256 over names, shapes and bytes of the tensors in a safetensors file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else repr(tensor).encode())
    return digest.hexdigest()


def ask(run: Path, new_rows: str, work: Path) -> dict[str, Any]:
    """Return the answers of ``metapl evaluate`` and ``metapl predict`` as a user of the command line gets them."""

    def command(*words: str) -> str:
        called = [sys.executable, "-m", "metapl", *words]
        return subprocess.run(called, check=True, capture_output=True, text=True, cwd=work).stdout

    return {
        "evaluate": hexadecimal(json.loads(command("evaluate", str(run), "--json", "-"))),
        "evaluate new rows": hexadecimal(json.loads(command("evaluate", str(run), new_rows, "--json", "-"))),
        "predict": command("predict", str(run), new_rows).splitlines(),
    }


def record(only: list[str]) -> dict[str, Any]:
    """Every case on every kind that it is meant for; ``only``: the cases whose names begin with one of these."""
    found: dict[str, Any] = {"machine": {"torch": torch.__version__, "processor": platform.machine()}, "commands": {}}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_data(root)
        for case, kind, method, settings, others in _cases():
            if only and not case.startswith(tuple(only)):
                continue
            out = root / f"{case} {kind}".replace(" ", "-").replace(",", "")
            found.setdefault(case, {})[kind] = train(data[kind][0], method, settings, others, out)
            print(f"{case}, {kind}", file=sys.stderr, flush=True)
            if case == "mpl":
                found["commands"][kind] = ask(out, data[kind][1], root)
    return found


def _cases() -> Iterator[tuple[str, str, str, dict[str, Any], dict[str, Any]]]:
    for case, (method, settings) in ALL_KINDS.items():
        yield from ((case, kind, method, settings, {}) for kind in KINDS)
    for case, (method, settings, others) in ONE_KIND.items():
        yield case, "image", method, settings, others


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Where ``new`` lacks or contradicts something of ``old``, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key in new:
                yield from differences(value, new[key], f"{place} / {key}")
            else:
                yield f"{place} / {key} is gone"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for k, (one, other) in enumerate(zip(old, new)):
            yield from differences(one, other, f"{place} [{k}]")
    elif old != new:
        yield f"{place}: {old!r:.100} became {new!r:.100}"


def added(old: Any, new: Any) -> int:
    """How many keys only ``new`` has."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return 0
    return len(new.keys() - old.keys()) + sum(added(old[key], new[key]) for key in old.keys() & new.keys())


def compare(old: Path, new: Path) -> int:
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    if first := next(differences(one, other), None):
        print(f"different{first}")
        return 1
    cases = sum(len(kinds) for case, kinds in one.items() if case != "machine")
    print(f"equal: {cases} entries; {added(one, other)} keys only in {new}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="the JSON file to write; with --compare the two to compare")
    parser.add_argument("--compare", action="store_true", help="compare two files instead of recording one")
    parser.add_argument("--only", action="append", default=[], help="record the cases whose names begin so")
    given = parser.parse_args()
    if given.compare:
        return compare(*given.files)
    print(f"recording {metapl.__file__}", file=sys.stderr)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the commands, which are processes of their own
    with tempfile.TemporaryDirectory() as cache:
        os.environ["METAPL_CACHE"] = cache
        text = json.dumps(record(given.only), indent=1)
    given.files[0].write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What ``metapl check`` finds, on made-up data where the truth is known."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_sample_images, load_wine

import metapl
from metapl.checks import Check, check
from metapl.checks.names import twins
from metapl.data.likeness import codes_of, distance, pairs_of
from metapl.data.memory.source import MemorySource
from metapl.data.tables.spelling import doubtful
from metapl.data.texts.tokens import encode_texts
from metapl.types import Column

Array = np.ndarray[Any, Any]
CLASSES = ("cat", "dog")


def images(
    pixels: Array, labels: Array | None = None, test: Array | None = None, names: tuple[str, ...] = CLASSES
) -> MemorySource:
    """A source over uint8 [n, H, W] or [n, H, W, 3]."""
    data = torch.from_numpy(np.ascontiguousarray(pixels))
    data = data.unsqueeze(1) if data.ndim == 3 else data.permute(0, 3, 1, 2).contiguous()
    labels = np.arange(len(data)) % len(names) if labels is None else labels
    return MemorySource(
        "made", "image", data, labels, names, is_test=np.zeros(len(data), dtype=bool) if test is None else test
    )


def crops(count: int, side: int = 32, seed: int = 0) -> Array:
    """Different pieces of the two photographs that scikit-learn brings, uint8 [count, side, side, 3]."""
    draw = np.random.default_rng(seed)
    photos = load_sample_images().images
    cells = [(k, y, x) for k in (0, 1) for y in range(0, 427 - side, side) for x in range(0, 640 - side, side)]
    chosen = draw.permutation(len(cells))[:count]
    made = [photos[k][y : y + side, x : x + side] for k, y, x in (cells[c] for c in chosen)]
    assert len(made) == count
    return np.stack(made)


def finding(made: Check, kind: str) -> Any:
    found = [f for f in made.findings if f.kind == kind]
    assert len(found) == 1, made.findings
    return found[0]


def kinds(made: Check) -> set[str]:
    return {f.kind for f in made.findings}


def named(made: Check, kind: str) -> set[tuple[str, str]]:
    return {(row, other) for k, row, other, _ in made.problems if k == kind}


# -- clean data


def test_digits_are_ok() -> None:
    made = metapl.check("digits")
    assert (made.verdict, made.findings, len(made.problems)) == ("OK", (), 1)  # 1585 and 1648, a hair apart
    assert made.facts["rows"]["all"] == 1797
    assert str(made).startswith("OK: digits, 1,797 images of 1 x 8 x 8, 10 classes\n")


def test_different_pieces_of_a_photograph_are_no_copies() -> None:
    pieces = crops(200)
    made = check(images(pieces[pieces.reshape(200, -1).std(axis=1) > 20]))  # a piece of sky is like the next
    assert not made.problems


def test_nothing_is_changed() -> None:
    source = images(crops(50))
    before = (source.fingerprint(), source.data.clone(), torch.get_rng_state())
    check(source)
    source._fingerprint = ""
    assert source.fingerprint() == before[0]
    assert torch.equal(source.data, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


# -- copies of images


def jpeg(image: Array, quality: int = 75) -> Array:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def resized(image: Array) -> Array:
    side = image.shape[0]
    small = Image.fromarray(image).resize((side * 3 // 4,) * 2, Image.Resampling.BILINEAR)
    return np.array(small.resize((side, side), Image.Resampling.BILINEAR))


def brighter(image: Array) -> Array:
    return np.clip(np.rint(image * 1.05), 0, 255).astype(np.uint8)


def shifted(image: Array) -> Array:
    return np.roll(image, 1, axis=1)


@pytest.mark.parametrize(
    ("change", "side", "least"),
    [
        *((jpeg, 32, 0.7), (resized, 32, 0.7), (brighter, 32, 0.9), (shifted, 32, 0.4)),
        *((jpeg, 64, 0.85), (resized, 64, 0.95), (brighter, 64, 0.95), (shifted, 64, 0.75)),
    ],
)
def test_near_copies_are_found(change: Callable[[Array], Array], side: int, least: float) -> None:
    """Recompressed, resized there and back, 5 % brighter, moved by a pixel; each with its own original."""
    originals = crops(100, side)
    keep = originals.reshape(100, -1).std(axis=1) > 20  # a piece of sky is like the next
    originals = originals[keep]
    count = len(originals)
    source = images(np.concatenate([originals, np.stack([change(x) for x in originals])]))
    made = check(source)
    found = {pair for kind in ("near duplicate", "duplicate") for pair in named(made, kind)}
    wanted = {(str(count + k), str(k)) for k in range(count)}
    assert len(found & wanted) >= least * count, (len(found & wanted), count)
    assert len(found - wanted) <= 0.03 * count, found - wanted


def test_the_same_shape_in_another_colour_is_no_copy() -> None:
    pieces = crops(60)
    source = images(np.concatenate([pieces, pieces[:5][..., [2, 0, 1]]]))
    colourful = np.abs(pieces[:5].astype(int)[..., 0] - pieces[:5][..., 2]).mean(axis=(1, 2)) > 25
    found = {row for row, _ in named(check(source), "near duplicate")}
    assert colourful.any()
    assert not found & {str(60 + k) for k in np.flatnonzero(colourful)}


def test_leakage_is_the_worst() -> None:
    pieces = crops(100)
    pixels = np.concatenate([pieces, pieces[:3], np.stack([brighter(x) for x in pieces[90:92]])])
    labels = np.where(np.arange(105) < 50, np.arange(105) % 2, -1)
    labels[80:] = np.arange(25) % 2
    labels[100:103] = labels[:3]
    test = np.arange(105) >= 80
    labels[90:92], labels[103:] = labels[90:92], -1
    test[103:] = False  # unlabelled, each nearly a test row
    made = check(images(pixels, labels, test))
    worst = made.findings[0]
    assert (worst.kind, worst.level, worst.rows) == ("test_in_labelled", "WILL HURT", 3)
    assert "3 of 23 (13.0 %) test rows also stand among the labelled rows (3 exactly, 0 nearly)" in worst.text
    assert finding(made, "test_in_unlabelled").level == "LOOK AT THIS"
    assert named(made, "test in labelled") == {("100", "0"), ("101", "1"), ("102", "2")}
    assert named(made, "test in unlabelled") == {("90", "103"), ("91", "104")}
    assert made.facts["copies"]["test in labelled"] == {"exact": 3, "near": 0}
    assert made.verdict == "WILL HURT"
    assert made.usable


def test_the_same_image_under_two_classes() -> None:
    pieces = crops(40)
    pixels = np.concatenate([pieces, pieces[:1], brighter(pieces[7])[None]])
    labels = np.concatenate([np.arange(40) % 2, [1], [0]])  # row 0 is a cat, row 7 a dog
    made = check(images(pixels, labels))
    assert (finding(made, "label_conflict").rows, finding(made, "label_conflict").level) == (2, "WILL HURT")
    assert finding(made, "near_label_conflict").rows == 2
    assert named(made, "label conflict") == {("0", "40"), ("40", "0"), ("7", "41"), ("41", "7")}
    assert ("label conflict", "0", "40", "exact: 'cat' here, 'dog' there") in made.problems


def test_copies_among_the_rows_without_a_label_and_with_one() -> None:
    pieces = crops(60)
    pixels = np.concatenate([pieces, pieces[40:60], pieces[:4]])
    labels = np.concatenate([np.arange(40) % 2, -np.ones(40), np.arange(4) % 2]).astype(np.int64)
    made = check(images(pixels, labels))
    assert made.facts["copies"]["within unlabelled"]["exact"] == 20
    assert made.facts["copies"]["within labelled"]["exact"] == 4
    assert finding(made, "unlabelled_copies").rows == 20
    assert "validation rows are drawn" in finding(made, "labelled_copies").remedy
    assert ("83", "3") in named(made, "duplicate")


def test_many_equal_rows_take_no_square() -> None:
    pixels = np.full((20_000, 8, 8), 7, dtype=np.uint8)
    made = check(images(pixels))
    assert made.facts["copies"]["within labelled"] == {"exact": 19_999, "near": 0}
    assert finding(made, "flat_images").rows == 20_000
    assert finding(made, "label_conflict").rows == 20_000


def test_codes_of_near_vectors_meet_and_others_do_not() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((3000, 64)).astype(np.float32)
    vectors[1500:] = vectors[:1500] + 0.05 * draw.standard_normal((1500, 64)).astype(np.float32)
    codes = codes_of(vectors)
    pairs = pairs_of(codes)
    true = pairs[:, 1] == pairs[:, 0] + 1500
    assert true.sum() >= 1490
    assert (~true).sum() < 100
    one, other = codes[:1], codes[1500:1501]
    assert distance(one, other)[0] == sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(one[0], other[0]))


def test_pairs_are_bounded_where_rows_lie_densely() -> None:
    """Four columns: nearly every row is a candidate for every other, yet only the closest are kept."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(3000, 4)).astype(np.float32)
    X[2900:] = X[:100] + 1e-4
    codes = codes_of(X)
    every = pairs_of(codes, most=10**6)
    assert len(every) == len(np.unique(every, axis=0)) > 30 * len(X)
    kept = pairs_of(codes, most=5)
    assert np.bincount(kept[:, 0]).max() == 5
    asked = {tuple(pair) for pair in every.tolist()}
    assert {tuple(pair) for pair in kept.tolist()} < asked
    assert (kept[:, 0] < kept[:, 1]).all()
    assert len({tuple(pair) for pair in kept.tolist()} & {(k, 2900 + k) for k in range(100)}) >= 95
    made = check(MemorySource("made", "table", torch.from_numpy(X), np.arange(3000) % 2, CLASSES))
    assert made.facts["copies"]["within labelled"]["near"] >= 95


# -- classes, labels, names


@pytest.mark.parametrize(
    ("counts", "kind", "words", "verdict"),
    [
        ((0, 0), "no_labels", "no row has a label", "CANNOT BE USED"),
        ((9, 0), "empty_class", "1 class has no labelled row to train from: 'dog'", "CANNOT BE USED"),
        ((9, 1), "single_label", "1 class has one labelled row: 'dog'", "LOOK AT THIS"),
        ((9, 3), "few_labels", "1 class has fewer than 5 labelled rows: 'dog'", "LOOK AT THIS"),
        ((60, 5), "skew", "'cat' has 60, 'dog' 5 (1 to 12)", "LOOK AT THIS"),
    ],
)
def test_classes(counts: tuple[int, int], kind: str, words: str, verdict: str) -> None:
    labels = np.repeat([0, 1, -1], [*counts, 100])
    made = check(images(crops(len(labels)), labels))
    assert words in finding(made, kind).text
    assert made.verdict == verdict
    assert made.usable == (verdict != "CANNOT BE USED")


def test_one_class_and_fewer_unlabelled_rows() -> None:
    made = check(images(crops(20), np.repeat([0, -1], [12, 8]), names=("cat",)))
    assert finding(made, "one_class").level == "CANNOT BE USED"
    assert "(8) than labelled ones (12)" in finding(made, "few_unlabelled").text


@pytest.mark.parametrize(
    ("names", "by"),
    [
        (("cat", "Cat"), "case"),
        (("cat", "cat "), "case"),
        (("hot dog", "hot  dog"), "case"),
        (("hot dog", "hot_dog"), "hyphens or underscores"),
        (("e-mail", "E-Mail"), "case"),
        (("caf\u00e9", "cafe\u0301"), "case"),
        (("cat", "cats"), "a plural s"),
    ],
)
def test_twins(names: tuple[str, str], by: str) -> None:
    ((one, other, why),) = twins(names)
    assert (one, other) == names
    assert why.startswith(by)
    made = check(images(crops(20), names=names))
    assert finding(made, "class_twins").level == ("LOOK AT THIS" if by == "a plural s" else "WILL HURT")


def test_names_that_are_no_twins() -> None:
    assert twins(["gas", "ga", "1", "11", "a", "as", "x+", "x-y"]) == []
    assert twins(["-1", "1", "1-2", "12", "-1.5", "1.5"]) == []
    assert doubtful(["-1", "1"]) == []
    assert doubtful(["-1", "0", "1"]) == ["-1"]
    assert doubtful(["cat", "None", " nan ", "nothing"]) == ["None", " nan "]
    assert finding(check(images(crops(9), names=("cat", "unlabelled"))), "class_without_name").level == "WILL HURT"


# -- rows from elsewhere


def partly(foreign: Array, seed: int, per_class: int = 10) -> MemorySource:
    """Digits with ``per_class`` labels each, 800 without, and foreign rows after these."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * 15.9).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(pixels))
    labeled = np.concatenate([order[bunch.target[order] == c][:per_class] for c in range(10)])
    pool = np.setdiff1d(order, labeled)[:800]
    labels = np.concatenate([bunch.target[labeled], -np.ones(800 + len(foreign))]).astype(np.int64)
    rows = np.concatenate([pixels[labeled], pixels[pool], foreign])
    return images(rows, labels, names=tuple(map(str, range(10))))


@pytest.mark.parametrize("per_class", [2, 10])
def test_digits_are_not_strange_to_digits(per_class: int) -> None:
    for seed in range(5):
        made = check(partly(np.zeros((0, 8, 8), dtype=np.uint8), seed, per_class))
        assert not kinds(made) & {"strange_rows", "parts_differ"}
        assert made.facts["strange"]["share"] < 0.05


@pytest.mark.parametrize("kind", ["photographs", "inverted"])
def test_foreign_rows_are_found(kind: str) -> None:
    photographs = crops(160, 8)[..., 1]
    inverted = 255 - np.rint(load_digits().images[-160:] * 15.9).astype(np.uint8)
    made = check(partly(photographs if kind == "photographs" else inverted, 0))
    assert 150 <= finding(made, "strange_rows").rows <= 180
    named_rows = {int(row) for row, _ in named(made, "strange")}
    assert len(named_rows) == 20
    assert min(named_rows) >= 900, "the strangest are the foreign ones"


def test_a_pool_from_another_source_differs_as_a_whole() -> None:
    draw = np.random.default_rng(0)
    data = np.concatenate([draw.normal(0, 1, (100, 6)), draw.normal(1.2, 1, (400, 6))])
    labels = np.repeat([0, 1, -1], [50, 50, 400])
    assert "AUC 0.9" in finding(check(table(data, labels)), "parts_differ").text
    same = np.concatenate([draw.normal(0, 1, (100, 6)), draw.normal(0, 1, (400, 6))])
    assert check(table(same, labels)).verdict == "OK"


def test_texts_in_another_tongue_are_strange() -> None:
    foreign = [" ".join(f"wort{k}x{j}" for j in range(30)) for k in range(100)]
    labels = np.concatenate([np.arange(100) % 2, -np.ones(400)]).astype(np.int64)
    made = check(texts([*sentences(400), *foreign], labels))
    assert 80 <= finding(made, "strange_rows").rows <= 120


# -- tables


def table(data: Array, labels: Array | None = None, **more: Any) -> MemorySource:
    labels = np.arange(len(data)) % 2 if labels is None else labels
    return MemorySource("made", "table", torch.from_numpy(np.asarray(data, dtype=np.float32)), labels, CLASSES, **more)


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_iris])
def test_real_tables(load: Callable[[], Any]) -> None:
    bunch = load()
    names = tuple(map(str, bunch.target_names))
    data = torch.from_numpy(bunch.data.astype(np.float32))
    made = check(MemorySource("real", "table", data, bunch.target, names))
    assert made.verdict == "OK"
    equal = len(bunch.data) - len(np.unique(bunch.data, axis=0))  # iris has one flower twice
    assert made.facts["copies"]["within labelled"] == {"exact": equal, "near": 0}


def test_rows_of_a_table_that_were_rounded() -> None:
    data = load_breast_cancer().data
    rounded = np.array([[float(f"{v:.3g}") for v in row] for row in data[:40]])
    changed = (rounded != data[:40]).any(axis=1)
    made = check(table(np.concatenate([data, rounded, data[100:105]])))
    near = named(made, "near duplicate")
    wanted = {(str(len(data) + k), str(k)) for k in np.flatnonzero(changed)}
    assert len(wanted) > 20
    assert len(near & wanted) >= 0.95 * len(wanted)
    assert not near - wanted
    assert {("609", "100"), ("613", "104")} <= named(made, "duplicate")


def test_columns() -> None:
    draw = np.random.default_rng(0)
    data = draw.standard_normal((200, 9)).astype(np.float32)
    data[:, 1], data[:, 2], data[:, 3] = 4, np.nan, np.arange(200) + 1000
    data[:150, 4], data[7, 5] = np.nan, np.inf
    data[:, 6] = draw.permutation(200) * 1000.0  # whole and all different, but no running number
    data[:, 7] = draw.integers(0, 3, 200)
    names = ("a", "constant", "empty", "id", "sparse", "infinite", "salary", "colour", "b")
    columns = tuple(Column(name, ("r", "g", "b") if name == "colour" else ()) for name in names)
    made = check(table(data, columns=columns))
    wanted = {"constant": ["constant"], "empty": ["empty"], "sparse": ["sparse"], "like_ids": ["id"]}
    assert made.facts["columns"] == {**wanted, "infinite": ["infinite"]}
    assert made.findings[0].kind == "columns_infinite"
    assert "1 column like a row number: 'id'" in finding(made, "columns_like_ids").text


def test_rows_of_categories_repeat_by_nature() -> None:
    draw = np.random.default_rng(0)
    data = draw.integers(0, 3, (500, 3))
    test = np.arange(500) >= 400
    columns = tuple(Column(f"c{k}", ("x", "y", "z")) for k in range(3))
    made = check(table(data, columns=columns, is_test=test))
    assert finding(made, "test_in_labelled").level == "LOOK AT THIS"
    assert "labelled_copies" not in kinds(made)


# -- texts

WORDS = ("river", "stone", "paper", "light", "garden", "window", "silver", "music", "train", "cloud", "bread", "horse")


def texts(lines: list[str], labels: Array | None = None, **more: Any) -> MemorySource:
    rows, tokens, _ = encode_texts(lines, "words", "auto")
    labels = np.arange(len(lines)) % 2 if labels is None else labels
    return MemorySource("made", "text", rows, labels, CLASSES, tokens=tokens, **more)


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, 10)) + f" {draw.integers(10**6)}" for _ in range(count)]


def test_texts() -> None:
    lines = sentences(300)
    one_word = [f"{line} indeed" for line in lines[:10]]
    case = [line.upper() for line in lines[10:15]]
    made = check(texts([*lines, *one_word, *case, "", "  "]))
    assert {(str(300 + k), str(k)) for k in range(10)} == named(made, "near duplicate")
    assert {(str(310 + k), str(10 + k)) for k in range(5)} <= named(made, "duplicate")
    assert finding(made, "empty_texts").rows == 2
    assert {row for kind, row, _, _ in made.problems if kind == "empty text"} == {"315", "316"}


def test_texts_that_are_cut() -> None:
    made = check(texts([" ".join(map(str, range(k, k + 400))) for k in range(0, 40_000, 1000)]))
    assert "100 % of the texts fill all 256 places" in finding(made, "cut_texts").text


# -- how it is shown


def test_seven_findings_are_cut_to_six_lines_and_stay_on_their_lines() -> None:
    names = ("a\nb", "A\nb", "None", "cats", "cat", "z")
    pixels = np.concatenate([crops(60), np.zeros((4, 32, 32, 3), dtype=np.uint8)])
    labels = np.concatenate([np.repeat(np.arange(6), [52, 1, 1, 2, 3, 1]), np.arange(4)])
    made = check(images(pixels, labels, names=names))
    lines = str(made).splitlines()
    assert len(made.findings) > 6
    assert sum(line.startswith("- ") for line in lines) == 7
    assert lines[7].startswith(f"- and {len(made.findings) - 6} more")
    levels = [f.level for f in made.findings]
    assert levels == sorted(levels, key=["CANNOT BE USED", "WILL HURT", "LOOK AT THIS"].index)


def test_empty_source() -> None:
    made = check(images(np.zeros((0, 8, 8), dtype=np.uint8), np.zeros(0, dtype=np.int64)))
    assert made.verdict == "CANNOT BE USED"


def test_digits_of_one_class_are_no_copies() -> None:
    bunch = load_digits()
    eights = np.rint(bunch.images[bunch.target == 8] * 15.9).astype(np.uint8)
    assert not check(images(eights)).problems

"""Checkpoints under attack: flipped bits, cut files, kills, full disks, planted code."""

from __future__ import annotations

import ast
import builtins
import errno
import json
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import nn

from metapl import open_source
from metapl.config.settings import load_config, make_config
from metapl.data.memory.digits import open_digits
from metapl.errors import UserError
from metapl.models import build_model
from metapl.models.weights import read_weights
from metapl.runs import checkpoint
from metapl.runs.checkpoint import MANIFEST, PARTS, DamagedCheckpoint
from metapl.runs.folder import load_split
from metapl.runs.model_folder import Predictor, load_model, save_model
from metapl.types import Preprocessing
from metapl.utils import files

SRC = Path(__file__).parents[2] / "src" / "metapl"
FILES = (*PARTS, MANIFEST)


def state_of(step: int) -> dict[str, Any]:
    """A state that says which step it belongs to in every tensor."""
    return {
        "model": {"weight": torch.full((6, 5), float(step)), "steps": torch.tensor(step)},
        "optimizer": {"state": {0: {"momentum": torch.full((3,), float(step))}}, "groups": [{"lr": 0.1, "k": None}]},
        "pair": (step, True, "text ü"),
    }


def is_whole(state: dict[str, Any], step: int) -> bool:
    expected = state_of(step)
    return (
        torch.equal(state["model"]["weight"], expected["model"]["weight"])
        and state["model"]["steps"].item() == step
        and torch.equal(state["optimizer"]["state"][0]["momentum"], expected["optimizer"]["state"][0]["momentum"])
        and state["pair"] == expected["pair"]
    )


def test_round_trip_of_every_kind(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    many = {str(k): torch.arange(6).reshape(2, 3).to(k) for k in kinds}
    odd = {
        "strided": torch.arange(12.0).reshape(3, 4).t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    shared = torch.ones(4)
    tree = {"many": many, "odd": odd, 3: [1, 2.5, None, False, "x"], "t": (shared, shared[:2], ()), "e": {}}
    back = checkpoint.load(checkpoint.save(tmp_path, 5, tree))
    assert list(back) == list(tree)
    assert back[3] == tree[3]
    assert isinstance(back["t"], tuple)
    assert back["t"][2] == ()
    for group in ("many", "odd"):
        for name, value in tree[group].items():  # type: ignore[union-attr]
            got = back[group][name]
            assert got.dtype == value.dtype
            assert got.shape == value.shape
            assert torch.equal(got.nan_to_num(7.0), value.nan_to_num(7.0)) if got.is_floating_point() else True
            assert got.is_floating_point() or torch.equal(got, value)
    with pytest.raises(TypeError, match="set"):
        checkpoint.save(tmp_path, 6, {"x": {1, 2}})
    assert checkpoint.load_latest(tmp_path)[0] == 5


# ---- damage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Checkpoints at steps 10 and 20."""
    for step in (10, 20):
        checkpoint.save(tmp_path, step, state_of(step))
    return tmp_path


def assert_refused(folder: Path, name: str) -> None:
    newest = folder / "step-00000020"
    with pytest.raises(DamagedCheckpoint) as error:
        checkpoint.load(newest)
    assert str(newest / name) in str(error.value)
    step, state, damaged = checkpoint.load_latest(folder)
    assert step == 10
    assert is_whole(state, 10)
    assert len(damaged) == 1
    assert str(newest / name) in damaged[0]


@pytest.mark.parametrize("flips", [200, pytest.param(1000, marks=pytest.mark.fault)])
def test_flipped_bits(two: Path, flips: int) -> None:
    draw = random.Random(flips)
    for k in range(flips):
        name = FILES[k % 3]
        path = two / "step-00000020" / name
        good = path.read_bytes()
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        assert_refused(two, name)
        path.write_bytes(good)
    assert checkpoint.load_latest(two)[0] == 20


def test_every_bit_of_the_manifest(two: Path) -> None:
    """It has no other file to vouch for it: its format number and step are covered too."""
    path = two / "step-00000020" / MANIFEST
    good = path.read_bytes()
    for k in range(8 * len(good)):
        bad = bytearray(good)
        bad[k // 8] ^= 1 << k % 8
        path.write_bytes(bad)
        with pytest.raises(DamagedCheckpoint, match="manifest"):
            checkpoint.load(path.parent)


@pytest.mark.parametrize("cuts", [50, pytest.param(200, marks=pytest.mark.fault)])
def test_truncations(two: Path, cuts: int) -> None:
    draw = random.Random(cuts)
    for k in range(cuts):
        name = FILES[k % 3]
        path = two / "step-00000020" / name
        good = path.read_bytes()
        path.write_bytes(good[: 0 if k < 3 else draw.randrange(len(good))])
        assert_refused(two, name)
        path.write_bytes(good)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_or_a_folder_in_its_place(two: Path, name: str) -> None:
    path = two / "step-00000020" / name
    path.unlink()
    assert_refused(two, name)
    path.mkdir()
    assert_refused(two, name)


def test_files_of_another_step(two: Path) -> None:
    shutil.copy(two / "step-00000010" / PARTS[0], two / "step-00000020" / PARTS[0])
    assert_refused(two, PARTS[0])
    shutil.rmtree(two / "step-00000020")
    shutil.copytree(two / "step-00000010", two / "step-00000020")
    assert_refused(two, MANIFEST)


def test_everything_damaged_or_nothing_there(two: Path, tmp_path: Path) -> None:
    for path in two.glob("step-*/" + PARTS[1]):
        path.write_text("{}")
    with pytest.raises(UserError, match=r"nothing to resume from .*step-00000020.*step-00000010"):
        checkpoint.load_latest(two)
    with pytest.raises(UserError, match="no checkpoint was saved"):
        checkpoint.load_latest(tmp_path / "none")
    assert checkpoint.steps(tmp_path / "none") == []


def test_another_format_is_not_called_damage(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(two, 30, state_of(30))
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 2 is not 1") as error:
        checkpoint.load_latest(two)
    assert not isinstance(error.value, DamagedCheckpoint)


# ---- rotation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_rotation_keeps_the_newest(tmp_path: Path, keep: int) -> None:
    for step in (9, 10, 99, 100, 1000):  # as numbers, not as text
        checkpoint.save(tmp_path, step, state_of(step), keep)
    assert checkpoint.steps(tmp_path) == [9, 10, 99, 100, 1000][-keep:]


def test_keep_zero_keeps_all(tmp_path: Path) -> None:
    for step in range(4):
        checkpoint.save(tmp_path, step, state_of(step), keep=0)
    assert checkpoint.steps(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_later_checkpoints_do_not_push_the_whole_one_out(tmp_path: Path, keep: int) -> None:
    """A run that went back to step 10 because 20 and 30 were damaged saves step 15."""
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, state_of(step), keep=9)
    for step in (20, 30):
        (tmp_path / f"step-{step:08d}" / PARTS[0]).write_bytes(b"rubbish")
    assert checkpoint.load_latest(tmp_path)[0] == 10
    checkpoint.save(tmp_path, 15, state_of(15), keep)
    step, state, damaged = checkpoint.load_latest(tmp_path)
    assert (step, damaged) == (15, [])
    assert is_whole(state, 15)
    checkpoint.save(tmp_path, 20, state_of(20), keep)  # over the place of a damaged one
    assert checkpoint.load_latest(tmp_path)[0] == 20


def test_a_step_saved_again_replaces_the_old_one(two: Path) -> None:
    checkpoint.save(two, 20, {"x": 1})
    assert checkpoint.load_latest(two)[:2] == (20, {"x": 1})
    assert not list(two.glob(".tmp-*"))


def test_leftovers_of_a_kill_are_removed(two: Path) -> None:
    (two / ".tmp-00000030-999").mkdir()
    (two / ".tmp-00000030-999" / PARTS[0]).write_bytes(b"half")
    assert checkpoint.load_latest(two)[0] == 20
    checkpoint.save(two, 30, state_of(30))
    assert not list(two.glob(".tmp-*"))


# ---- every call that can fail ----------------------------------------------------------------------------------


class Disk:
    """Counts the calls that touch the disk; at the n-th one it fails, or the process dies; ``events``: the calls."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        fail_at: int = 0,
        watch: Callable[[], None] | None = None,
        die: bool = False,
    ):
        self.calls, self.fail_at, self.watch, self.die = 0, fail_at, watch, die
        self.events: list[tuple[str, str]] = []
        patches: list[tuple[Any, str, Any]] = [
            (safetensors.torch, "save_file", self.save_file),
            (files, "open", self.open),
            (os, "fsync", self.fsync),
            (os, "replace", self.replace),
            (os, "mkdir", self.mkdir),
            (shutil, "rmtree", self.rmtree),
        ]
        self.real = {name: getattr(owner, name, builtins.open) for owner, name, _ in patches}
        for owner, name, stand_in in patches:
            monkeypatch.setattr(owner, name, stand_in, raising=False)

    def note(self, call: str, path: Any) -> None:
        if self.watch:
            now, self.watch = self.watch, None  # looking reads files, which is not to be counted
            now()
            self.watch = now
        self.calls += 1
        self.events.append((call, Path(path).name))
        if self.calls == self.fail_at and self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls == self.fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    def save_file(self, tensors: Any, path: Path) -> None:
        self.real["save_file"](tensors, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])  # what a full disk leaves
        self.note("write", path)
        path.write_bytes(whole)

    def open(self, path: Any, mode: str = "r", **how: Any) -> Any:
        file = self.real["open"](path, mode, **how)
        if mode == "w":
            write = file.write

            def half(text: str) -> int:
                write(text[: len(text) // 2])
                file.flush()
                self.note("write", path)
                return int(write(text[len(text) // 2 :]))

            file.write = half
        return file

    def fsync(self, handle: int) -> None:
        self.note("fsync", os.readlink(f"/proc/self/fd/{handle}"))
        self.real["fsync"](handle)

    def replace(self, source: Any, target: Any) -> None:
        self.note("rename", target)
        self.real["replace"](source, target)

    def mkdir(self, path: Any, *rest: Any) -> None:
        self.note("mkdir", path)
        self.real["mkdir"](path, *rest)

    def rmtree(self, path: Any, ignore_errors: bool = False) -> None:
        try:
            self.note("remove", path)
            self.real["rmtree"](path, ignore_errors)
        except OSError:
            if not ignore_errors:
                raise


def saving(folder: Path, step: int, keep: int) -> str:
    """What the user is told, or nothing where all went well."""
    try:
        checkpoint.save(folder, step, state_of(step), keep)
    except UserError as error:
        return str(error)
    return ""


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize(("keep", "again"), [(1, False), (2, False), (2, True)])
def test_a_full_disk_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, again: bool) -> None:
    """Save step 30 (or 20 once more) with the n-th call failing, for every n: what was whole stays whole."""
    target = 20 if again else 30
    n, failures = 0, 0
    while True:
        n += 1
        folder = tmp_path / str(n)
        for step in (10, 20):
            checkpoint.save(folder, step, state_of(step), keep)
        with monkeypatch.context() as patch:
            disk = Disk(patch, n)
            message = saving(folder, target, keep)
        failures += bool(message)
        assert not message or ("No space left on device" in message and "metapl resume" in message)
        assert "\n" not in message
        step, state, damaged = checkpoint.load_latest(folder)
        assert step in (20, target)
        assert is_whole(state, step)
        assert damaged == []
        assert not list(folder.glob(".tmp-*")) or disk.events[n - 1][0] == "remove"
        checkpoint.save(folder, 40, state_of(40), keep)  # there is room again
        assert checkpoint.load_latest(folder)[0] == 40
        if disk.calls < n:
            break
    assert failures >= 12, "the calls are really counted"


@needs_proc
@pytest.mark.parametrize("keep", [1, 2])
def test_at_every_call_a_whole_checkpoint_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    checkpoint.save(tmp_path, 10, state_of(10), keep)
    seen: list[int] = []

    def watch() -> None:
        step, state, damaged = checkpoint.load_latest(tmp_path)
        assert is_whole(state, step)
        assert damaged == []
        seen.append(step)

    Disk(monkeypatch, watch=watch)
    for step in (20, 30, 40):
        checkpoint.save(tmp_path, step, state_of(step), keep)
    assert seen == sorted(seen)
    assert set(seen) == {10, 20, 30, 40}


@needs_proc
def test_order_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write, flush the file, flush the folder, rename, flush the parent, and only then remove the oldest."""
    for step in (10, 20):
        checkpoint.save(tmp_path / "c", step, state_of(step))
    disk = Disk(monkeypatch)
    checkpoint.save(tmp_path / "c", 30, state_of(30))
    aside = f".tmp-00000030-{os.getpid()}"

    def at(call: str, name: str) -> int:
        places = [k for k, e in enumerate(disk.events) if e == (call, name)]
        assert len(places) == 1, (call, name, disk.events)
        return places[0]

    renamed = at("rename", "step-00000030")
    assert at("write", PARTS[0]) < at("fsync", PARTS[0]) < renamed
    for name in (PARTS[1], MANIFEST):
        temporary = f".{name}.{os.getpid()}.tmp"
        assert at("write", temporary) < at("fsync", temporary) < at("rename", name) < renamed
    assert at("fsync", PARTS[0]) < at("write", f".{MANIFEST}.{os.getpid()}.tmp")
    folder_flushes = [k for k, e in enumerate(disk.events) if e == ("fsync", aside)]
    assert at("rename", MANIFEST) < folder_flushes[-1] < renamed
    assert renamed < at("fsync", "c") < at("remove", "step-00000010")


@needs_proc
def test_write_text_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    for n in range(1, 5):
        files.write_text(path, "old")
        with monkeypatch.context() as patch:
            Disk(patch, n)
            with pytest.raises(OSError, match="No space"):
                files.write_text(path, "new text")
        assert path.read_text() == ("old" if n < 4 else "new text")  # the fourth is the folder's flush


# ---- kill -9 ---------------------------------------------------------------------------------------------------


def killed_in_a_save(folder: Path, step: int, call: int) -> int:
    """In a child: save ``step`` and the ones after it, and die by SIGKILL at the given disk call; its status."""
    child = os.fork()
    if child == 0:
        try:
            Disk(pytest.MonkeyPatch(), call, die=True)
            for later in range(step, step + 9):
                checkpoint.save(folder, later, state_of(later))
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


@needs_proc
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kills", [24, pytest.param(200, marks=pytest.mark.fault)])
def test_kill_9_while_saving(tmp_path: Path, kills: int) -> None:
    """The child dies in the middle of a write, a flush, a rename or a removal: no clock decides which."""
    checkpoint.save(tmp_path, 0, state_of(0))
    draw, inside, last = random.Random(2), 0, 0
    for _ in range(kills):
        status = killed_in_a_save(tmp_path, last + 1, draw.randrange(1, 60))
        assert os.WIFSIGNALED(status), "the child was still saving"
        inside += bool(list(tmp_path.glob(".tmp-*")))
        step, state, damaged = checkpoint.load_latest(tmp_path)
        assert is_whole(state, step)
        assert step >= last, "nothing that was whole is lost"
        assert damaged == []
        last = step
    assert last > kills
    assert inside >= kills // 2
    checkpoint.save(tmp_path, last + 1, state_of(last + 1))
    assert not list(tmp_path.glob(".tmp-*"))


# ---- planted code ----------------------------------------------------------------------------------------------


class Payload:
    """Runs a shell command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch '{marker}'"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "planted code ran"


def pickles(folder: Path, marker: Path) -> list[bytes]:
    """The payload in every wrapping that numpy and torch would open."""
    payload = Payload(marker)
    made = [pickle.dumps(payload), pickle.dumps({"tensor": payload}, protocol=0)]
    torch.save({"x": payload}, folder / "zip.pt")
    torch.save({"x": payload}, folder / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(folder / "a.npz", x=np.array([payload], dtype=object))
    np.save(folder / "a.npy", np.array([payload], dtype=object), allow_pickle=True)
    return made + [(folder / n).read_bytes() for n in ("zip.pt", "old.pt", "a.npz", "a.npy")]


def test_the_payload_is_alive(tmp_path: Path) -> None:
    for k, content in enumerate(pickles(tmp_path, tmp_path / "alive")[:2]):
        pickle.loads(content)
        assert (tmp_path / "alive").exists(), k
        (tmp_path / "alive").unlink()


def reseal(path: Path) -> None:
    """The manifest as an attacker would write it: all sums right."""
    facts = {"format": 1, "step": 20, "sha256": {p: files.sha256(path / p) for p in PARTS}}
    files.write_json(path / MANIFEST, {**facts, "seal": files.seal(facts)})


def test_planted_checkpoints(two: Path, tmp_path: Path, marker: Path) -> None:
    newest = two / "step-00000020"
    originals = {name: (newest / name).read_bytes() for name in PARTS}
    for content in pickles(tmp_path, marker):
        for name in PARTS:
            (newest / name).write_bytes(content)
            reseal(newest)
            step, _, damaged = checkpoint.load_latest(two)
            assert (step, len(damaged)) == (10, 1)
            (newest / name).write_bytes(originals[name])
        (newest / MANIFEST).write_bytes(content)
        assert checkpoint.load_latest(two)[0] == 10
    for tree in (
        {"__reduce__": ["os.system", [f"touch {marker}"]]},
        {"tensor": "nowhere"},
        {"eval": [f"__import__('os').system('touch {marker}')"]},
        {"dict": [["x"]]},
        {"dict": 3},
        [1],
    ):
        (newest / PARTS[1]).write_text(json.dumps(tree))
        reseal(newest)
        assert checkpoint.load_latest(two)[0] == 10
    save_file({}, newest / PARTS[0])
    reseal(newest)
    assert checkpoint.load_latest(two)[0] == 10


def test_planted_models(tmp_path: Path, marker: Path) -> None:
    preprocessing = Preprocessing("image", (1, 8, 8), (0.5,), (0.3,))
    model: nn.Module = build_model("small_cnn", (1, 8, 8), 2)
    folder, device = tmp_path / "model", torch.device("cpu")
    save_model(folder, Predictor(model, preprocessing, ("a", "b"), device), "small_cnn", {})
    load_model(folder, device)
    originals = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(originals) == {"model.json", "weights.safetensors"}
    for content in pickles(tmp_path, marker):
        for name, good in originals.items():
            (folder / name).write_bytes(content)
            with pytest.raises(UserError):
                load_model(folder, device)
            (folder / name).write_bytes(good)
    card = json.loads(originals["model.json"])
    for changes in (
        {"model": f"os:system('touch {marker}')"},
        {"model": "os:system"},
        {"class_names": 3},
        {"model": 3},
    ):
        (folder / "model.json").write_text(json.dumps({**card, **changes}))
        with pytest.raises(UserError):
            load_model(folder, device)


YAML_TAGS = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/new:os.system ['touch {}']",
    "!!python/object/apply:subprocess.check_output [['touch', '{}']]",
    "!!python/object/apply:builtins.eval [\"__import__('os').system('touch {}')\"]",
    "!!python/object/new:type {{args: [z, !!python/tuple [], {{extend: !!python/name:exec }}], listitems: '{}'}}",
    "!!python/module:os.{}",
]


@pytest.mark.parametrize("tag", YAML_TAGS)
def test_planted_yaml(tag: str, tmp_path: Path, marker: Path) -> None:
    text = tag.format(marker)
    for content in (f"data: {text}\n", f"{text}\n", f"data: digits\nmpl: {{feedback: {text}}}\n"):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(UserError):
            load_config(tmp_path / "config.yaml")
        with pytest.raises(UserError):
            make_config("digits", file=tmp_path / "config.yaml")
    with pytest.raises(UserError):
        make_config("digits", overrides=[f"seed={text}"])


def test_planted_splits_and_data(tmp_path: Path, marker: Path) -> None:
    run, idx, tree = tmp_path / "run", tmp_path / "idx", tmp_path / "tree"
    for folder in (run, idx, tree / "labelled" / "a", tree / "labelled" / "b"):
        folder.mkdir(parents=True)
    for content in pickles(tmp_path, marker):
        (run / "split.json").write_bytes(content)
        with pytest.raises(UserError, match="split"):
            load_split(run, open_digits())
        for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
            (idx / name).write_bytes(content)
        with pytest.raises(UserError):
            open_source(f"idx:{idx}")
        for name in ("labelled/a/1.png", "labelled/b/2.npy", "labelled/b/3.jpg"):
            (tree / name).write_bytes(content)
        with pytest.raises(UserError):
            open_source(str(tree)).rows(np.arange(1))


FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "torch.load", "torch.save", "torch.jit.load",
}  # fmt: skip


def findings(text: str) -> list[str]:
    """What in a source file could run code that came with the data."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            found += [n for n in names if n.partition(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in FORBIDDEN_CALLS else []
            for k in node.keywords:
                value = getattr(k.value, "value", None)
                found += [k.arg] if (k.arg, value) in (("allow_pickle", True), ("weights_only", False)) else []
                found += ["shell"] if k.arg == "shell" and value is not False else []
    return found


ALLOWED = {
    # What a process hands to one that it has just started, over a pipe: as multiprocessing does it, never from a file.
    "training/workers.py": ["pickle"],
    # CIFAR is published as pickles: read by an unpickler that knows arrays alone (test_published.py plants a payload).
    "data/memory/published.py": ["pickle"],
    # A .pth file that the user names: torch's unpickler of tensors alone (test_planted_weights).
    "models/weights.py": ["pickle", "torch.load"],
}


def test_no_source_file_could_run_what_it_loads() -> None:
    paths = sorted(SRC.rglob("*.py"))
    assert len(paths) > 20
    found = {str(p.relative_to(SRC)): found for p in paths if (found := findings(p.read_text(encoding="utf-8")))}
    assert found == ALLOWED
    jobs = (SRC / "training" / "workers.py").read_text(encoding="utf-8")
    assert jobs.count("pickle.") == 2, "one dumps by the parent, one loads of exactly that"
    assert "pickle.load(" not in jobs
    assert "open(" not in jobs
    published = (SRC / "data" / "memory" / "published.py").read_text(encoding="utf-8")
    names = {n.attr for n in ast.walk(ast.parse(published)) if isinstance(n, ast.Attribute) and _is_pickle(n.value)}
    assert names == {"Unpickler", "UnpicklingError"}, "only to be derived from and restricted"
    weights = ast.parse((SRC / "models" / "weights.py").read_text(encoding="utf-8"))
    assert {n.attr for n in ast.walk(weights) if isinstance(n, ast.Attribute) and _is_pickle(n.value)} == {
        "UnpicklingError"
    }
    loads = [n for n in ast.walk(weights) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert len(loads) == 1
    assert ("weights_only", True) in {(k.arg, getattr(k.value, "value", None)) for k in loads[0].keywords}


def _is_pickle(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "pickle"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_planted_weights(tmp_path: Path, marker: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for content in pickles(tmp_path, marker):
        path.write_bytes(content)
        with pytest.raises(UserError):
            read_weights(path)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "np.load(p, allow_pickle=True)",
        "torch.load(p, weights_only=False)",
        "torch.load(p)",
        "subprocess.run(c, shell=True)",
    ],
)
def test_the_search_finds(line: str) -> None:
    assert findings(line)
    assert not findings("model.eval()\nyaml.safe_load(t)\nnp.load(p, allow_pickle=False)\njson.load(f)")

"""torchvision's and Hugging Face's data sets: read from disk; fetched only where that is asked for."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from metapl import open_source as embedded
from metapl.data.embedded import EmbeddedSource
from metapl.data.memory.published import PublishedOptions, open_hf, open_torchvision
from metapl.data.sources import SourceOptions
from metapl.errors import UserError

RNG = np.random.default_rng(0)


def write_idx(folder: Path, count: int = 6) -> np.ndarray[Any, Any]:
    """The four raw files of the MNIST family; the training images."""
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    for part in ("train", "t10k"):
        head = np.array([0x803, count, 8, 8], dtype=">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = np.array([0x801, count], dtype=">u4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes(k % 3 for k in range(count)))
    return images


@pytest.mark.parametrize("spelling", ["FashionMNIST", "fashionmnist"])
def test_files_on_disk_are_read_without_a_network(tmp_path: Path, spelling: str, monkeypatch: Any) -> None:
    images = write_idx(tmp_path / "FashionMNIST" / "raw")
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: pytest.fail("it went to fetch"))
    source = open_torchvision(spelling, PublishedOptions(root=str(tmp_path)))
    assert source.name == "torchvision:FashionMNIST"
    assert torch.equal(source.data[:6, 0], torch.from_numpy(images))
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2] * 2
    assert source.is_test.tolist() == [False] * 6 + [True] * 6
    assert source.class_names == ("T-shirt/top", "Trouser", "Pullover"), "those that occur"


def test_an_encoder_gets_small_images_a_few_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    """At the encoder's size the 12 images would take twelve times what is allowed here."""
    pytest.importorskip("timm")
    write_idx(tmp_path / "FashionMNIST" / "raw")
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("metapl.data.memory.datasets.MAX_BYTES", 4096)
    options = SourceOptions(root=str(tmp_path), encoder="timm:test_resnet", encoder_size=64)
    source = embedded("torchvision:FashionMNIST", options)
    assert isinstance(source, EmbeddedSource)
    assert source.encoder.takes.shape == (1, 8, 8)
    assert source.rows(np.arange(12)).shape == (12, source.encoder.features)
    with pytest.raises(UserError, match="above the limit"):
        embedded("torchvision:FashionMNIST", replace(options, image_size=64))


def test_nothing_is_fetched_unless_asked(tmp_path: Path, monkeypatch: Any) -> None:
    calls = []

    def download(self: Any) -> None:
        calls.append(self)
        if not Path(self.raw_folder).exists():
            write_idx(Path(self.raw_folder))

    monkeypatch.setattr(datasets.MNIST, "download", download)
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"set source\.download=true to fetch them") as error:
        open_torchvision("KMNIST", PublishedOptions())
    assert error.value.where == "torchvision:KMNIST"
    assert not calls
    assert not (tmp_path / "cache").exists()
    first = open_torchvision("KMNIST", PublishedOptions(download=True))
    assert calls
    assert (tmp_path / "cache" / "data" / "torchvision" / "kmnist" / "KMNIST" / "raw").is_dir()
    fetched = len(calls)
    again = open_torchvision("KMNIST", PublishedOptions(download=True))
    assert len(calls) == fetched, "what is there is not fetched again"
    assert again.fingerprint() == first.fingerprint()


def test_a_failed_fetch_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: (_ for _ in ()).throw(OSError("no\nnetwork")))
    with pytest.raises(UserError, match=r"cannot be fetched \(OSError: no network\)"):
        open_torchvision("MNIST", PublishedOptions(root=str(tmp_path), download=True))


def test_unlabelled_rows_of_a_set_that_has_them(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part, count in (("train", 4), ("test", 2), ("unlabeled", 3)):
        RNG.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            np.arange(1, count + 1, dtype=np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\ncat\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:  # the published files' check sums are not ours
        patch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
        source = open_torchvision("STL10", PublishedOptions(root=str(tmp_path), rows={"image_size": 16}))
    assert source.data.shape == (9, 3, 16, 16)
    assert source.labels.tolist() == [0, 1, 2, 3, -1, -1, -1, 0, 1]
    assert source.class_names == ("airplane", "bird", "car", "cat")


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("planted", [False, True])
def test_pickled_sets_hold_arrays_and_nothing_that_runs(tmp_path: Path, monkeypatch: Any, planted: bool) -> None:
    folder, cls = tmp_path / "cifar-10-batches-py", datasets.CIFAR10
    folder.mkdir()
    pixels = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)

    def write(name: str, content: Any) -> str:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    bait = {"extra": Planted(tmp_path / "planted")} if planted else {}
    train = write("data_batch_1", {"data": pixels, "labels": [0, 1, 0, 1], **bait})
    test = write("test_batch", {"data": pixels[:2], "labels": [1, 0]})
    meta = write("batches.meta", {"label_names": ["airplane", "bird"]})
    monkeypatch.setattr(cls, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(cls, "test_list", [["test_batch", test]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": meta})
    if planted:
        with pytest.raises(UserError, match=r"holds more than arrays \(it names posix\.mkdir"):
            open_torchvision("CIFAR10", PublishedOptions(root=str(tmp_path)))
        assert not (tmp_path / "planted").exists()
    else:
        source = open_torchvision("CIFAR10", PublishedOptions(root=str(tmp_path)))
        assert torch.equal(source.data[:4].flatten(1), torch.from_numpy(pixels))
        assert source.class_names == ("airplane", "bird")
        assert source.labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert sys.modules["torchvision.datasets.cifar"].pickle is pickle


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which this machine serves it to itself."""
    folder = tmp_path / "published"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *given: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_cifar_is_fetched_unpacked_and_kept(publisher: tuple[Path, str], tmp_path: Path, monkeypatch: Any) -> None:
    """torchvision's own code fetches and unpacks, from this machine; a fetch that breaks off leaves nothing."""
    folder, address = publisher
    inner, cls = tmp_path / "cifar-10-batches-py", datasets.CIFAR10
    inner.mkdir()
    pixels = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
    contents = {
        "data_batch_1": {"data": pixels, "labels": [0, 1, 0, 1]},
        "test_batch": {"data": pixels[:2], "labels": [1, 0]},
        "batches.meta": {"label_names": ["airplane", "bird"]},
    }
    for name, content in contents.items():
        (inner / name).write_bytes(pickle.dumps(content, protocol=2))
    md5 = {name: hashlib.md5((inner / name).read_bytes()).hexdigest() for name in contents}
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        archive.add(inner, inner.name)
    monkeypatch.setattr(cls, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(cls, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(cls, "url", f"{address}/cifar.tar.gz")
    monkeypatch.setattr(cls, "filename", "cifar.tar.gz")
    monkeypatch.setattr(cls, "tgz_md5", "0" * 32)
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"cannot be fetched \(RuntimeError: File not found or corrupted"):
        open_torchvision("CIFAR10", PublishedOptions(download=True))
    assert not list((tmp_path / "cache" / "data" / "torchvision").iterdir())
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5((folder / "cifar.tar.gz").read_bytes()).hexdigest())
    source = open_torchvision("CIFAR10", PublishedOptions(download=True))
    assert torch.equal(source.data[:4].flatten(1), torch.from_numpy(pixels))
    (folder / "cifar.tar.gz").unlink()
    assert open_torchvision("CIFAR10", PublishedOptions()).fingerprint() == source.fingerprint()
    assert [p.name for p in (tmp_path / "cache" / "data" / "torchvision").iterdir()] == ["cifar10"]


def test_unknown_names_and_missing_packages(monkeypatch: Any) -> None:
    with pytest.raises(UserError, match="Did you mean 'CIFAR10'"):
        open_torchvision("CIFAR11", PublishedOptions())
    with pytest.raises(UserError, match="is not a known"):
        open_torchvision("PhotoTour", PublishedOptions())
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match=r"pip install 'metapl\[vision\]'"):
        open_torchvision("MNIST", PublishedOptions())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'metapl\[hf\]'"):
        open_hf("imdb", PublishedOptions())


# -- Hugging Face


@pytest.fixture
def hub() -> Any:
    import datasets as library  # slow to import: only for these tests

    return library


def texts(hub: Any, labels: list[int], names: list[str] | None = None) -> Any:
    rows = {"text": [f"text {k}" for k in range(len(labels))], "label": labels}
    features = {"text": hub.Value("string"), "label": hub.ClassLabel(names=names or ["neg", "pos"])}
    return hub.Dataset.from_dict(rows, features=hub.Features(features))


def test_a_folder_that_save_to_disk_wrote(hub: Any, tmp_path: Path) -> None:
    splits = {"train": texts(hub, [0, 1, 1]), "test": texts(hub, [1, 0]), "unsupervised": texts(hub, [-1, -1])}
    hub.DatasetDict(splits).save_to_disk(str(tmp_path / "set"))
    source = open_hf(str(tmp_path / "set"), PublishedOptions(rows={"max_tokens": 4}))
    assert source.kind == "text"
    assert source.labels.tolist() == [0, 1, 1, -1, -1, 1, 0]
    assert source.is_test.tolist() == [False] * 5 + [True] * 2
    assert source.class_names == ("neg", "pos")


def test_validation_rows_judge_where_test_rows_have_no_labels(hub: Any, tmp_path: Path) -> None:
    splits = {"train": texts(hub, [0, 1]), "test": texts(hub, [-1, -1]), "validation": texts(hub, [1, 1, 0])}
    hub.DatasetDict(splits).save_to_disk(str(tmp_path / "sst2"))
    assert open_hf("sst2", PublishedOptions(root=str(tmp_path))).labels.tolist() == [0, 1, 1, 1, 0]


def test_images_and_named_columns(hub: Any, tmp_path: Path) -> None:
    from PIL import Image

    pixels = RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    rows = {
        "picture": [Image.fromarray(p) for p in pixels],
        "text": ["a"] * 4,
        "coarse": [1, 0, 1, 0],
        "label": [0] * 4,
    }
    found = hub.Dataset.from_dict(rows).cast_column("coarse", hub.ClassLabel(names=["no", "yes"]))
    found.save_to_disk(str(tmp_path / "set"))
    source = open_hf(str(tmp_path / "set"), PublishedOptions(label="coarse", contents="picture"))
    assert torch.equal(source.data, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert source.labels.tolist() == [1, 0, 1, 0]
    assert source.class_names == ("no", "yes")
    assert not source.is_test.any()
    with pytest.raises(UserError, match="Did you mean 'coarse'"):
        open_hf(str(tmp_path / "set"), PublishedOptions(label="corse"))


def test_fetched_once_and_only_when_asked(hub: Any, tmp_path: Path, monkeypatch: Any) -> None:
    calls = []

    def load_dataset(path: str, config: str | None, cache_dir: str) -> Any:
        calls.append((path, config))
        return hub.DatasetDict({"train": texts(hub, [0, 1, 0])})

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"someone/glue--sst2 does not hold a data set.*source.download=true"):
        open_hf("someone/glue:sst2", PublishedOptions(root=str(tmp_path)))
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        source = open_hf("someone/glue:sst2", PublishedOptions(root=str(tmp_path), download=True))
        assert source.labels.tolist() == [0, 1, 0]
    assert calls == [("someone/glue", "sst2")]
    assert [p.name for p in (tmp_path / "someone").iterdir()] == ["glue--sst2"], "nothing is left beside it"
    (tmp_path / "new").mkdir()
    kept = (tmp_path / "someone" / "glue--sst2").stat().st_mode
    assert kept == (tmp_path / "new").stat().st_mode, "others may read it, if they may read any new folder"
    open_hf("someone/glue", PublishedOptions(root=str(tmp_path), download=True))
    assert calls[1:] == [("someone/glue", None)], "the set of that name alone is another one"


def test_what_the_library_gives_is_kept_with_its_images(hub: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The library itself reads a folder of images in the place of the hub; the folder is gone afterwards."""
    from PIL import Image

    for k in range(8):
        folder = tmp_path / "hub" / ("train", "test")[k // 4] / ("cat", "dog")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    real = hub.load_dataset
    monkeypatch.setattr(hub, "load_dataset", lambda path, name, **more: real(str(tmp_path / "hub"), name, **more))
    options = PublishedOptions(root=str(tmp_path / "kept"), download=True)
    first = open_hf("someone/pets", options)
    assert (first.class_names, first.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1] * 2)
    assert first.is_test.tolist() == [False] * 4 + [True] * 4
    shutil.rmtree(tmp_path / "hub")
    assert open_hf("someone/pets", options).fingerprint() == first.fingerprint()
    assert [p.name for p in (tmp_path / "kept" / "someone").iterdir()] == ["pets"]


def test_a_set_of_several_configurations_asks_for_one(hub: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def load_dataset(*given: Any, **more: Any) -> Any:
        raise ValueError("Config name is missing. Please pick one among the available configs: ['cola', 'sst2']")

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"'cola', 'sst2'.*Write hf:NAME:CONFIG"):
        open_hf("glue", PublishedOptions(root=str(tmp_path), download=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../up", "", "a//b"])
def test_names_that_lead_elsewhere(hub: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not the name of a data set"):
        open_hf(name, PublishedOptions(root=str(tmp_path / "inside"), download=True))
    assert not list(tmp_path.iterdir())


def test_damaged_and_unfit_sets(hub: Any, tmp_path: Path) -> None:
    hub.DatasetDict({"dev": texts(hub, [0, 1])}).save_to_disk(str(tmp_path / "dev"))
    with pytest.raises(UserError, match=r"lacks a split 'train' .it has dev"):
        open_hf(str(tmp_path / "dev"), PublishedOptions())
    hub.DatasetDict({"train": texts(hub, [0, 1])}).save_to_disk(str(tmp_path / "cut"))
    arrow = next((tmp_path / "cut" / "train").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:40])
    with pytest.raises(UserError, match="the data set is damaged"):
        open_hf(str(tmp_path / "cut"), PublishedOptions())

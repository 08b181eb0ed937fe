"""A kind of rows of one's own in 70 lines: signals, float32 [channels, length], read from a folder CLASS/*.npy.

    python examples/own_modality.py

metapl knows images, tables and texts. Three things make another kind known: a `Modality` (here `Signals`, which takes
all but its name and its views from the base class), a source of such rows (`Recordings`), and a network for them
(`network`). Training, exact resume, the guard, prediction and stored models then work as for the others.
"""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import metapl
from metapl.data.batches.views import Scaler

STEPS = 300
WAVES = ("saw", "sine", "square")  # the classes


class SignalViews:
    """Weak: some noise. Strong: noise, another loudness, and a stretch of silence that begins at a random place."""

    def __init__(self, preprocessing, noise: float):
        self.scaler, self.noise = Scaler(preprocessing, (-1, 1)), noise  # mean and spread per channel

    def plain(self, x: Tensor) -> Tensor:
        return self.scaler.forward(x)

    def weak(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.plain(x) + self.noise * torch.randn(x.shape, generator=generator, device=x.device)

    def strong(self, x: Tensor, generator: torch.Generator) -> Tensor:
        loudness, place = torch.rand(2, len(x), 1, 1, generator=generator, device=x.device)
        begin, position = place * x.shape[2], torch.arange(x.shape[2], device=x.device)
        silent = (position >= begin) & (position < begin + x.shape[2] / 4)
        return (self.weak(x, generator) * (0.5 + loudness)).masked_fill(silent, 0.0)


class Signals(metapl.Modality):
    kind, row, rows = "signal", "signal", "signals"
    dimensions = 2  # [channels, length]
    model = "own_modality:network"  # what model=auto means

    def views(self, config, preprocessing):
        return SignalViews(preprocessing, config.noise)


metapl.register_modality(Signals())


def network(shape, num_classes):
    """Return a small convolutional network for signals [channels, length]."""
    return nn.Sequential(
        nn.Conv1d(shape[0], 32, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


class Recordings:
    """A source over CLASS/*.npy, each file one signal; "unlabelled" and "test" mean what they say.

    Test files are called CLASS-*.npy. Signals are read when they are asked for.
    """

    kind, columns, tokens, notes = "signal", (), None, ()

    def __init__(self, folder):
        folder = Path(folder)
        self.name, self.problems = folder.name, []
        self.files = sorted(folder.glob("*/*.npy"))
        self.ids = tuple(file.relative_to(folder).as_posix() for file in self.files)
        parts = [file.parent.name for file in self.files]
        names = [file.name.split("-")[0] if part == "test" else part for file, part in zip(self.files, parts)]
        self.class_names = tuple(sorted(set(names) - {"unlabelled"}))
        number = {name: k for k, name in enumerate(self.class_names)}
        self.labels = np.array([number.get(name, -1) for name in names], dtype=np.int64)
        self.is_test = np.array([part == "test" for part in parts])

    def rows(self, index):
        return torch.from_numpy(np.stack([np.load(self.files[k]) for k in index]).astype(np.float32))

    def readable(self, index):
        return np.asarray(index)

    def fingerprint(self):
        """Return what tells these data from others: a resumed run asks for the same."""
        digest = hashlib.sha256()
        for row_id, file in zip(self.ids, self.files):
            digest.update(row_id.encode() + file.read_bytes())
        return digest.hexdigest()


def simulate(wave: str, count: int, seed: int) -> np.ndarray:
    """Return noisy signals [count, 2, 64] of one form, of random pitch and phase; the second channel is an echo."""
    draw = np.random.default_rng(seed)
    phase = draw.uniform(0, 1, (count, 1)) + draw.uniform(2, 5, (count, 1)) * np.linspace(0, 1, 64)
    sine = np.sin(2 * np.pi * phase)
    clean = {"saw": 2 * (phase % 1) - 1, "sine": sine, "square": np.sign(sine)}[wave]
    both = np.stack([clean, 0.5 * np.roll(clean, 5, axis=1)], axis=1)
    return (both + 0.4 * draw.normal(size=both.shape)).astype(np.float32)


def write_recordings(folder: Path) -> None:
    """Write 5 labelled, 100 unlabelled and 50 test signals of each form."""
    for k, wave in enumerate(WAVES):
        signals = simulate(wave, 155, seed=k)
        for number, signal in enumerate(signals):
            part = wave if number < 5 else "unlabelled" if number < 105 else "test"
            (folder / part).mkdir(exist_ok=True)
            np.save(folder / part / f"{wave if part != 'unlabelled' else k}-{number:03}.npy", signal)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        write_recordings(Path(place))
        result = metapl.fit(Recordings(place), method="fixmatch", steps=STEPS, options={"views.noise": 0.2})
        judged = result.evaluate()
    print(f"{100 * judged['accuracy']:.1f} % of {judged['rows']} test signals")
    print("new signals:", ", ".join(result.predict(np.concatenate([simulate(wave, 1, seed=9) for wave in WAVES]))))


if __name__ == "__main__":
    main()

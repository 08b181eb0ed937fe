"""``threshold: precision=P``: what is accepted, how T is fitted, when, and that a run with it resumes bit for bit."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import kill_at, rows, same_run
from torch import Tensor

from metapl import thresholds
from metapl.config.settings import GuardConfig, LoopConfig, RunConfig, load_config, make_config, save_config
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.batches.stream import BatchConfig
from metapl.data.memory.digits import open_digits
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.thresholds import COLDEST, HOTTEST, SPREAD, Precision, check_threshold, fit_temperature, make_threshold
from metapl.training.in_memory import run_trial
from metapl.training.job import build_job
from metapl.training.loop import Stopped, resume, train
from metapl.training.prepared import prepare
from metapl.types import Calibrated, Context

C, STEPS = 3, 12
CPU = torch.device("cpu")
METHOD_KEYS = {"fixmatch": "threshold", "pseudo_label": "threshold", "uda": "threshold", "mpl": "uda_threshold"}
by_method = pytest.mark.parametrize("method", METHOD_KEYS)


def sure(*confidences: float) -> Tensor:
    """[B, 3] rows with these largest probabilities; what is left goes to one other class."""
    q = torch.tensor(confidences)
    return torch.stack([q, 1 - q, torch.zeros_like(q)], -1)


def ask(threshold: Precision, p: Tensor) -> list[float]:
    return threshold.weights(p, torch.arange(len(p)), 0).tolist()


# ---- what is accepted -------------------------------------------------------------------------------------------


def test_the_surest_rows_are_accepted_as_long_as_their_mean_is_high_enough() -> None:
    threshold = Precision(0.9)
    assert ask(threshold, sure(0.6, 0.99, 0.9, 0.95, 0.5)) == [0, 1, 1, 1, 0]  # .99, .97, .947, then .86
    assert threshold.report()["expected_precision"].item() == pytest.approx(2.84 / 3)
    assert ask(threshold, sure(0.99, 0.99, 0.99, 0.7)) == [1, 1, 1, 1], "a doubtful row may ride on sure ones"


def test_nobody_or_everybody() -> None:
    threshold = Precision(0.9)
    assert ask(threshold, sure(0.85, 0.6, 0.89)) == [0, 0, 0]
    assert threshold.report()["expected_precision"].item() == 0
    assert ask(threshold, sure(0.95, 0.91)) == [1, 1]
    assert ask(threshold, sure(0.95)) == [1]
    assert ask(threshold, sure(0.85)) == [0]


@pytest.mark.parametrize("temperature", [COLDEST, 1.0, HOTTEST])
def test_certain_rows(temperature: float) -> None:
    threshold = Precision(0.99)
    threshold.temperature = torch.tensor(temperature)
    for p in (sure(1.0, 1.0), sure(1.0, 1 / 3 + 0.2)):
        assert ask(threshold, p)[0] == 1
        assert math.isfinite(threshold.report()["expected_precision"].item())
    assert ask(threshold, torch.full((4, C), 1 / C)) == [0] * 4


def test_a_higher_temperature_accepts_less() -> None:
    counts = []
    for temperature in (0.5, 1.0, 2.0, 4.0):
        threshold = Precision(0.9)
        threshold.temperature = torch.tensor(temperature)
        counts.append(sum(ask(threshold, sure(0.99, 0.97, 0.9, 0.8, 0.7, 0.6))))
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 2


def test_the_calibrated_confidence_is_that_of_the_divided_logits() -> None:
    z = 4 * torch.randn(50, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    threshold = Precision(0.8)
    threshold.temperature = torch.tensor(1.7)
    w = threshold.weights(torch.softmax(z, -1), torch.arange(50), 0)
    q = torch.softmax(z / 1.7, -1).amax(-1).tolist()
    chosen: list[float] = []
    for value in sorted(q, reverse=True):
        if sum([*chosen, value]) / (len(chosen) + 1) < 0.8:
            break
        chosen.append(value)
    assert 0 < len(chosen) < 50
    assert sorted((v for v, one in zip(q, w.tolist()) if one), reverse=True) == chosen


# ---- the temperature --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_of_made_up_logits_is_found(true: float) -> None:
    """Labels drawn from softmax(z): a network that says z * true is too sure by that factor."""
    g = torch.Generator().manual_seed(1)
    z = 2 * torch.randn(20_000, C, generator=g)
    y = torch.multinomial(torch.softmax(z, -1), 1, generator=g).squeeze(-1)
    assert fit_temperature((true * z)[None], y) == pytest.approx(true, rel=0.03)


def test_the_temperature_minimises_what_its_text_says() -> None:
    g = torch.Generator().manual_seed(2)
    z, y = 3 * torch.randn(4, 7, C, generator=g), torch.randint(C, (7,), generator=g)

    def loss(T: float) -> float:
        total = 0.0
        for view in z.tolist():
            for row, label in zip(view, y.tolist()):
                total += math.log(sum(math.exp(v / T) for v in row)) - row[label] / T
        return total / 4 + math.log(T) ** 2 / (2 * SPREAD**2)

    best = fit_temperature(z, y)
    assert COLDEST < best < HOTTEST
    assert all(loss(best) < loss(best * (1 + step)) for step in (-0.3, -0.01, -1e-4, 1e-4, 0.01, 0.3))


def test_rows_that_are_all_right_make_sure_in_proportion_to_their_number() -> None:
    z = torch.zeros(50, C)
    z[:, 1] = 1.5
    y = torch.ones(50, dtype=torch.int64)
    found = [fit_temperature(z[None, :n], y[:n]) for n in (1, 3, 10, 50)]
    assert found == sorted(found, reverse=True)
    assert 0.8 < found[0] < 1
    assert found[-1] < 0.5
    again = fit_temperature(z[:10].expand(6, 10, C), y[:10])
    assert again == pytest.approx(found[2], abs=1e-9), "more views of the same rows are no more rows"


def test_each_fit_goes_half_the_way() -> None:
    z, y = torch.randn(1, 9, C, generator=torch.Generator().manual_seed(3)), torch.arange(9) % C
    threshold, goal = Precision(0.9), fit_temperature(z, y)
    for k in range(1, 5):
        threshold.fit(z, y)
        assert math.log(threshold.temperature.item()) == pytest.approx(math.log(goal) * (1 - 0.5**k), rel=1e-5)


def test_the_temperature_has_bounds() -> None:
    z = torch.zeros(1, 500, C)
    z[..., 1] = 1.0
    assert fit_temperature(z, torch.ones(500, dtype=torch.int64)) == pytest.approx(COLDEST)
    assert fit_temperature(z, torch.zeros(500, dtype=torch.int64)) == pytest.approx(HOTTEST)


def test_no_readable_row_leaves_it() -> None:
    threshold = Precision(0.9)
    threshold.fit(torch.zeros(1, 0, C), torch.zeros(0, dtype=torch.int64))
    assert threshold.temperature.item() == 1


# ---- settings ---------------------------------------------------------------------------------------------------


@by_method
def test_the_setting_is_read_from_the_command_line_and_from_yaml(method: str, tmp_path: Path) -> None:
    key = METHOD_KEYS[method]
    config = make_config("digits", options={"method": method}, overrides=[f"{method}.{key}=precision=0.95"])
    assert getattr(config.settings, key) == "precision=0.95"
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    number = make_config("digits", options={"method": method}, overrides=[f"{method}.{key}=1e-1"])  # text to YAML
    context = Context(lambda: torch.nn.Linear(2, C), C, number.optim, STEPS, 5)
    assert METHODS[method](number.settings, context).selection.threshold == 0.1
    made = METHODS[method](config.settings, context)
    assert made.selection.target == 0.95
    assert made.needs_validation


@by_method
@pytest.mark.parametrize(
    ("text", "word"),
    [
        *((f"precision={number}", "share") for number in ("95", "0", "1", "-0.5", "nan")),
        *((other, "such as") for other in ("precision=", "precision", "recall=0.9", "high")),
    ],
)
def test_what_is_no_precision_is_told(method: str, text: str, word: str) -> None:
    with pytest.raises(UserError, match=f"{method}.*{word}"):
        make_config("digits", options={"method": method}, overrides=[f"{method}.{METHOD_KEYS[method]}={text}"])


def test_a_target_precision_goes_with_no_other_kind() -> None:
    for kind in ("curriculum", "adaptive", "soft"):
        with pytest.raises(UserError, match=kind):
            check_threshold(kind, "precision=0.9", 0.9, "here")  # type: ignore[arg-type]
    assert isinstance(
        make_threshold("fixed", " precision = 0.9 ", 0.9, Context(lambda: torch.nn.Identity(), C, None, 1)), Precision
    )


def test_a_target_precision_is_no_matter_of_epochs() -> None:
    with pytest.raises(UserError, match="schedule=step"):
        METHODS["pseudo_label"].Config(threshold="precision=0.9", schedule="epoch")
    METHODS["pseudo_label"].Config(threshold="1e-1", schedule="epoch")  # a number, as YAML gives it


# ---- in a run ---------------------------------------------------------------------------------------------------


def config_of(method: str = "fixmatch", **changes: Any) -> RunConfig:
    more = {"finetune_steps": 3} if method == "mpl" else {}
    made = RunConfig(
        "digits",
        method=method,
        model="test_loop:small",
        steps=STEPS,
        split=SplitConfig(labels=3),
        batch=BatchConfig(labeled=8, unlabeled=12),
        loop=LoopConfig(log_every=1, eval_every=4, save_every=5),
        guard=GuardConfig("off"),  # its trainings fit temperatures of their own
        settings=METHODS[method].Config(**{METHOD_KEYS[method]: "precision=0.2"}, **more),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of the logits at each fit."""
    seen: list[tuple[int, ...]] = []
    original = thresholds.fit_temperature

    def wrapped(logits: Tensor, y: Tensor) -> float:
        seen.append((*logits.shape, len(y)))
        return original(logits, y)

    monkeypatch.setattr(thresholds, "fit_temperature", wrapped)
    return seen


@by_method
def test_the_temperature_is_fitted_where_validation_rows_are_judged(
    method: str, tmp_path: Path, fits: list[tuple[int, ...]]
) -> None:
    made = train(config_of(method), tmp_path / "run")
    logged = rows(tmp_path / "run")[:STEPS]
    temperatures = [row["temperature"] for row in logged]
    assert temperatures[:4] == [1.0] * 4
    assert len(set(temperatures[4:8])) == len(set(temperatures[8:])) == 1
    assert len({1.0, temperatures[4], temperatures[8]}) == 3
    assert all(COLDEST <= t <= HOTTEST for t in temperatures)
    assert fits == [(25, 10, 10, 10)] * 2  # about 256 views of ten rows, ten classes
    assert len(made.split.validation) == 10
    assert sum(row["mask_rate"] for row in logged) > 0


@by_method
@pytest.mark.parametrize("step", [3, 5, 8])
def test_stopped_and_resumed_equals_unbroken(
    method: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped where a fit is due next, and between two fits, when the temperature is in the state alone."""
    train(config_of(method), tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Stopped):
            train(config_of(method), tmp_path / "run")
    resume(tmp_path / "run")
    same_run(tmp_path / "unbroken", tmp_path / "run")


@by_method
def test_a_trial_fits_at_the_same_steps(method: str, tmp_path: Path, fits: list[tuple[int, ...]]) -> None:
    config = config_of(method)
    made = train(config, tmp_path / "run")
    assert len(fits) == 2
    tried = run_trial(config, prepare(made.source, made.split, CPU))
    assert len(fits) == 4
    one, other = made.predictor.model.state_dict(), tried[made.summary["chosen"]].model.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


@by_method
def test_without_validation_rows_the_run_is_refused_before_anything_is_written(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are none.*--validation N"):
        train(config_of(method, split=SplitConfig(labels=3, validation=0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plain_threshold_asks_for_no_validation_rows(tmp_path: Path, fits: list[tuple[int, ...]]) -> None:
    plain = config_of(split=SplitConfig(labels=3, validation=0), settings=METHODS["fixmatch"].Config())
    assert "temperature" not in rows(train(plain, tmp_path / "run").folder)[-1]
    train(dataclasses.replace(plain, split=SplitConfig(labels=3)), tmp_path / "judged")
    assert fits == []


def test_judging_changes_nothing() -> None:
    """No weight, statistic, mode or global random number; and the same views at every call."""
    config, source = config_of(), open_digits()
    split = make_split(source, config.split, config.seed)
    job = build_job(config, prepare(source, split, CPU))
    assert isinstance(job.method, Calibrated)
    net = vars(job.method)["net"].model
    net.train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    logits, y = job.judge(net)
    again, _ = job.judge(net)
    assert torch.equal(logits, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert y.tolist() == source.labels[split.validation].tolist()
    assert not torch.equal(logits[0], logits[1]), "several views of each row"
    assert not logits.requires_grad

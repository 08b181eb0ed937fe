"""The plan of a comparison: its rows, splits and budget. It is stored before the first run starts.

A folder holds one comparison. The same question continues it, and may add seeds; another question is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metapl._version import __version__
from metapl.comparison.peers import Peer
from metapl.comparison.specs import Spec
from metapl.comparison.versions import check_version
from metapl.comparison.worker import count_judges
from metapl.config.settings import RunConfig, from_dict, to_dict
from metapl.data.batches.split import make_split
from metapl.errors import UserError
from metapl.methods import fits_once
from metapl.models.own import code_in, is_code
from metapl.types import Source, Split
from metapl.utils.files import write_json

PLAN = "comparison.json"
PEER = "peer"  # the key of a row that holds ``Peer`` as plain values
FORMAT = 1
HOLD_OUT, FEWEST = 0.3, 20  # without test rows: the share of labelled rows held out to judge, and their least number
DEFAULT_STEPS = 1000  # of the trial runs that turn minutes into steps
PER_RUN = ("seed", "steps", "minutes")  # set for each run by the plan


@dataclass(frozen=True)
class Plan:
    """The plan of a comparison.

    Attributes:
        asked: the question, as plain values: ``data``, ``rows`` (label -> settings), ``reference``, ``budget``
            (``by``, ``steps``, ``minutes``).
        seeds: the seeds of the runs.
        splits: seed -> hash of its split.
        fingerprint: the fingerprint of the data.
        facts: facts for the reader: counts of rows, notes, command, versions.
        budget: label -> ``steps`` and ``cost``.
    """

    asked: dict[str, Any]
    seeds: tuple[int, ...]
    splits: dict[int, str]
    fingerprint: str
    facts: dict[str, Any]
    budget: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        return list(self.asked["rows"])

    def config(self, label: str, seed: int) -> RunConfig:
        """Return the config of one run; its steps are those asked for until the budget is shared out."""
        steps = self.budget[label]["steps"] if self.budget else self.asked["budget"]["steps"] or DEFAULT_STEPS
        return from_dict({**_without(self.asked["rows"][label], (PEER,)), "seed": seed, "steps": steps})

    def peer(self, label: str) -> Peer | None:
        """Return the classifier of a row that is not a method of this package."""
        stored = self.asked["rows"][label].get(PEER)
        return None if stored is None else Peer.from_dict(stored)

    def trained(self, label: str) -> bool:
        """Return whether the row is trained in steps, within a budget; linear models and peers are fitted at once."""
        return not fits_once(str(self.asked["rows"][label]["method"]))

    def method(self, label: str) -> str:
        """Return the name in METHODS, or that of a peer."""
        peer = self.peer(label)
        return peer.name if peer else str(self.asked["rows"][label]["method"])

    def save(self, out: Path) -> None:
        write_json(out / PLAN, {"format": FORMAT, **self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        splits = {str(seed): sha for seed, sha in self.splits.items()}
        return {**vars(self), "seeds": list(self.seeds), "splits": splits}


def load_plan(out: Path) -> Plan | None:
    """Read the plan in ``out``; None if it has no plan.

    Raises:
        UserError: it cannot be read, another version made it, or it lacks settings of this version.
    """
    if not (out / PLAN).exists():
        return None
    try:
        stored = json.loads((out / PLAN).read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT:
            raise UserError("the comparison has another format", "Use the version that made it.", str(out / PLAN))
        splits = {int(seed): sha for seed, sha in stored["splits"].items()}
        plan = Plan(**{**stored, "seeds": tuple(stored["seeds"]), "splits": splits})
        _check_made(plan, out)
        return plan
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        remedy = "Name another folder with --out."
        raise UserError(f"the stored comparison cannot be read ({error})", remedy, str(out / PLAN)) from error


def plan_code(out: Path) -> list[str]:
    """Return the names of the user's own Python code in the stored plan; nothing is imported.

    Raises:
        UserError: the plan cannot be read.
    """
    try:
        rows = json.loads((out / PLAN).read_text(encoding="utf-8"))["asked"]["rows"].values()
        return [name for row in rows for name in [*code_in(row), *_peer_code(row)]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"the stored comparison cannot be read ({error})", "Compare again.", str(out / PLAN)) from error


def _peer_code(row: Mapping[str, Any]) -> list[str]:
    name = str(row.get(PEER, {}).get("name", ""))
    return [name] if is_code(name) and not name.startswith("sklearn:") else []


def _check_made(plan: Plan, out: Path) -> None:
    """Refuse a plan whose runs could not continue unchanged.

    Raises:
        UserError: another version made it, or it lacks settings, which would take today's defaults.
    """
    check_version(str(plan.facts["metapl"]), "the comparison", out)
    for label, row in plan.asked["rows"].items():
        known = _flat(_without(to_dict(from_dict(_without(row, (PEER,)), str(out / PLAN))), PER_RUN))
        missing = [key.replace(" ", ".") for key in known if key not in _flat(row)]
        if missing:
            what = f"the stored comparison does not set {missing[0]} of {label}, so another version of metapl made it"
            raise UserError(what, "Continue with that version, or name another folder with --out.", str(out))


def make_plan(
    rows: Mapping[Spec, RunConfig],
    source: Source,
    seeds: Sequence[int],
    budget: Mapping[str, Any],
    reference: str,
    command: str,
) -> Plan:
    """Return a plan, its budget not yet shared out. All rows of one seed get the same split, stored as its hash.

    Raises:
        UserError: no test rows and too few labels to hold some out, or rows that cannot be split.
    """
    configs, notes = dict(rows), list[str]()
    first = next(iter(configs.values()))
    splits = _splits(source, first, seeds)
    if not all(count_judges(s) for s in splits.values()):
        configs = {spec: _holding_out(config, source) for spec, config in configs.items()}
        splits = _splits(source, next(iter(configs.values())), seeds)
        share = f"{100 * HOLD_OUT:.0f} % of the labelled rows of each class ({count_judges(splits[seeds[0]])} rows)"
        notes.append(f"the data bring no test rows: {share} judge instead and teach nothing, others in each seed")
    configs = _without_twins(configs, any(len(s.validation) for s in splits.values()), reference, notes)
    asked = {
        "data": first.data,
        "rows": {spec.label: _row(spec, c) for spec, c in configs.items()},
        "reference": reference,
        "budget": dict(budget),
    }
    facts = {
        "labels": describe_split(source, splits[seeds[0]]),
        "notes": [*notes, *source.notes],
        "command": command,
        "metapl": __version__,
    }
    shas = {seed: split.sha for seed, split in splits.items()}
    plan = Plan(asked, tuple(seeds), shas, source.fingerprint(), facts)
    return Plan(**{**json.loads(json.dumps(plan.to_dict())), "seeds": plan.seeds, "splits": shas})  # as it is read back


def _row(spec: Spec, config: RunConfig) -> dict[str, Any]:
    """Return one row as the plan stores it."""
    peer = {} if spec.peer is None else {PEER: spec.peer.to_dict()}
    return {**_without(to_dict(config), PER_RUN), **peer}


_CHOSEN = re.compile(r" finetune_")  # settings of a candidate that is chosen by validation rows alone


def _without_twins(
    configs: Mapping[Spec, RunConfig], validated: bool, reference: str, notes: list[str]
) -> dict[Spec, RunConfig]:
    """Leave out rows that would train like an earlier row; ``notes`` gets their names.

    Without validation rows nothing is fine-tuned, so rows that differ only in fine-tuning are the same.
    """
    kept: dict[Spec, RunConfig] = {}
    seen: dict[str, str] = {}
    for spec, config in configs.items():
        tree = _flat(_row(spec, config))
        key = json.dumps({k: v for k, v in tree.items() if validated or not _CHOSEN.search(k)})
        if spec.label != reference and key in seen:
            why = "" if validated else ", since without validation rows nothing is fine-tuned"
            notes.append(f"{spec.label} is left out: here it is the same as {seen[key]}{why}")
            continue
        seen.setdefault(key, spec.label)
        kept[spec] = config
    return kept


def describe_split(source: Source, split: Split) -> str:
    """Return ``20 labels per class, 200 in all (40 of them validate), 1238 unlabelled rows, 359 test rows``."""
    per_class = [0] * len(source.class_names)
    for part in (split.labeled, split.validation):
        for k in source.labels[part].tolist():
            per_class[k] += 1
    low, high, total = min(per_class), max(per_class), sum(per_class)
    spread = f"{low}" if low == high else f"{low} to {high}"
    judges = f" ({len(split.validation)} of them validate)" if len(split.validation) else " (without validation rows)"
    hidden = len(set(split.unlabeled.tolist()) - set(split.labeled.tolist()))
    counted = f"{hidden} rows without label, {count_judges(split)} test rows"
    return f"{spread} labels per class, {total} in all{judges}, {counted}"


def going_on(stored: Plan, wanted: Plan, out: Path) -> Plan:
    """Return the stored plan, with the wanted seeds added.

    Raises:
        UserError: another question, or changed data; the message names the first difference.
    """
    if stored.fingerprint != wanted.fingerprint:
        raise UserError("the data changed since the comparison began", "Restore them, or name another --out.", str(out))
    if stored.asked != wanted.asked:
        remedy = "Ask the same to go on, or name another folder with --out."
        raise UserError(f"the folder holds another comparison: {_difference(stored, wanted)}", remedy, str(out))
    both = [s for s in wanted.splits if s in stored.splits]
    if any(stored.splits[s] != wanted.splits[s] for s in both):
        raise UserError("the splits differ from those of the stored comparison", "Name another --out.", str(out))
    added = [s for s in wanted.seeds if s not in stored.seeds]
    return replace(stored, seeds=(*stored.seeds, *added), splits={**stored.splits, **wanted.splits})


def _difference(stored: Plan, wanted: Plan) -> str:
    old, new = _flat(stored.asked), _flat(wanted.asked)
    if list(stored.asked["rows"]) != list(wanted.asked["rows"]):
        return f"methods {', '.join(stored.labels)} there, {', '.join(wanted.labels)} asked"
    key = next(k for k in [*old, *new] if old.get(k) != new.get(k))
    return f"{key} is {old.get(key)} there, {new.get(key)} asked"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _without(tree: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in tree.items() if k not in keys}


def _splits(source: Source, config: RunConfig, seeds: Sequence[int]) -> dict[int, Split]:
    return {seed: make_split(source, config.split, seed, require_unlabeled=False) for seed in seeds}


def _holding_out(config: RunConfig, source: Source) -> RunConfig:
    """Return the config that holds out labelled rows to judge by, for data without test rows.

    Raises:
        UserError: the data have test rows without labels, or too few labelled rows.
    """
    place = "source.test=FILE, or values test in a column split" if config.ref.is_table else "a folder test/CLASS/*"
    remedy = f"Add labelled test rows ({place}), or label more."
    if source.is_test.any() or (source.labels >= 0).all():  # without labels, or split.test=0
        if not source.is_test.any():
            remedy = f"Set split.test to the share to judge by, such as 0.2, or add labelled test rows ({place})."
        raise UserError("there are no labelled test rows to judge by", remedy, source.name)
    counts = [int((source.labels == k).sum()) for k in range(len(source.class_names))]
    taken = sum(round(HOLD_OUT * n) for n in counts)
    if taken < FEWEST or min(counts) < 2:
        few = f"{100 * HOLD_OUT:.0f} % of {sum(counts)} labelled rows are {taken} to judge by, fewer than {FEWEST}"
        what = f"there are no test rows, and {few if min(counts) > 1 else 'a class has a single labelled row'}"
        if min(counts) > 1:
            remedy = remedy.removesuffix(".") + ", or set split.hold_out to a larger share, such as 0.5."
        raise UserError(what, remedy, source.name)
    return replace(config, split=replace(config.split, hold_out=HOLD_OUT))

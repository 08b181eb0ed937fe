"""The rows of a comparison: methods by name, with settings of their own, and the run config of each.

    all                                   every name in METHODS
    fixmatch,mpl                          some of them
    mpl:feedback=none                     with a setting of the method
    mpl:feedback=none+uda_weight=0        with several
    fixmatch:views.ops=1+optim.lr=0.02    with settings of the whole run
    mpl:ablate                            mpl, and one row for each part taken away
    package.module:Class                  a method of one's own; its settings likewise behind a colon
    sklearn:RandomForest                  a classifier with scikit-learn's interface: see ``comparison.peers``

Nothing here needs quotes in a shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metapl.comparison.peers import CARRIER, Peer, find_peer, make_peer
from metapl.config.settings import RunConfig, flatten, known_keys, make_config, to_dict
from metapl.errors import UserError, nearest
from metapl.methods import METHODS, OWN, method_class, settings_group

ALL, ABLATE = "all", "ablate"
# The settings that `ablate` changes, one at a time.
ABLATIONS: dict[str, tuple[str, ...]] = {"mpl": ("feedback=none", "uda_weight=0", "finetune_steps=0")}
# Settings that are equal for all rows: data, split, budget and machine.
COMMON = frozenset({"data", "seed", "steps", "minutes", "device", "method"})
COMMON_GROUPS = frozenset({"source", "split", "guard"})


@dataclass(frozen=True)
class Spec:
    """One row of the comparison.

    Attributes:
        label: as the user wrote it, such as ``mpl:feedback=none``.
        method: as in ``RunConfig``.
        pairs: its settings as full ``key=value``, such as ``mpl.feedback=none``.
        peer: the scikit-learn classifier; ``method`` then only carries data, split and seed.
    """

    label: str
    method: str
    pairs: tuple[str, ...] = ()
    peer: Peer | None = None


@dataclass(frozen=True)
class Base:
    """The common settings of all rows, as ``make_config`` takes them: data, YAML file, options by key, pairs."""

    data: str | None = None
    file: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()


def parse(methods: str | Iterable[str]) -> list[Spec]:
    """Return the rows that ``methods`` names (one text with commas, or several), each once.

    Raises:
        UserError: an unknown method or setting, with the nearest known one, or no method.
    """
    words = [w.strip() for w in (methods.split(",") if isinstance(methods, str) else methods)]
    specs: dict[str, Spec] = {}
    for word in words:
        for spec in _rows(word):
            specs.setdefault(spec.label, spec)
    if not specs:
        raise UserError("no methods are named", f"Give all, or some of {', '.join(METHODS)}.", "--methods")
    return list(specs.values())


def _rows(word: str) -> list[Spec]:
    if word == ALL:
        return [Spec(name, name) for name in METHODS]
    name, *parts = word.split(":", 2)
    if name not in METHODS and parts and parts[0] and "=" not in parts[0]:
        name = f"{name}:{parts.pop(0)}"  # package.module:Class, perhaps with settings behind one more colon
        if find_peer(name) is not None:
            return [Spec(word, CARRIER, peer=make_peer(name, _settings(":".join(parts)) if parts else []))]
        method_class(name)
    elif name not in METHODS:
        raise UserError(f"unknown method '{name}'", nearest(name, [*METHODS, ALL]), "--methods")
    settings = _settings(":".join(parts)) if parts else []
    if ABLATE not in settings:
        return [_spec(name, settings)]
    if name not in ABLATIONS:
        remedy = f"There is {', '.join(f'{m}:{ABLATE}' for m in ABLATIONS)}; for others name the settings."
        raise UserError(f"there is no '{word}'", remedy, "--methods")
    rest = [s for s in settings if s != ABLATE]
    return [_spec(name, rest), *(_spec(name, [*rest, less]) for less in ABLATIONS[name])]


def _settings(text: str) -> list[str]:
    """Split ``a=1+b=2`` at its plus signs, but not within a number such as 1e+3."""
    return [s.strip() for s in re.split(r"\+(?=[A-Za-z_])", text)]


def _spec(method: str, settings: Sequence[str]) -> Spec:
    label = f"{method}:{'+'.join(settings)}" if settings else method
    return Spec(label, method, tuple(_pair(method, s, label) for s in settings))


def _pair(method: str, setting: str, label: str) -> str:
    """Return ``feedback=none`` as ``mpl.feedback=none``; keys of the whole run stay as they are.

    Raises:
        UserError: not ``key=value``, an unknown key, or a key that must be equal for all rows.
    """
    key, equals, value = setting.partition("=")
    if not equals or not key or not value:
        remedy = f"Write {method}:key=value, and + between several."
        raise UserError(f"'{setting}' is not a setting", remedy, label)
    group = settings_group(method)
    known, own = known_keys(method), f"{group}.{key}"
    if own in known:
        return f"{own}={value}"
    if key in COMMON or key.partition(".")[0] in COMMON_GROUPS:
        raise UserError(f"'{key}' is the same for all methods", "Set it for the whole comparison.", label)
    if key not in known:
        short = [k.removeprefix(f"{group}.") for k in known if k not in COMMON]
        raise UserError(f"unknown setting '{key}'", nearest(key, short), label)
    return setting


def based_on(config: RunConfig) -> Base:
    """Return the settings of ``config`` for all rows; its method's settings apply to the rows of that method."""
    return Base(options=flatten(to_dict(config)))


def configure(base: Base, spec: Spec, options: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the config of one row: the base, ``options`` on top, then the row's own settings.

    Raises:
        UserError: as ``make_config``; for a row's own settings it names the row.
    """

    def concerns(key: str) -> bool:
        group, dot, _ = key.partition(".")
        return not dot or group not in {*METHODS, OWN} or group == settings_group(spec.method)

    merged = {**base.options, **(options or {}), "method": spec.method}
    merged = {k: v for k, v in merged.items() if concerns(k)}
    pairs = [p for p in base.overrides if concerns(p.partition("=")[0])]
    config = make_config(base.data, file=base.file, options=merged, overrides=pairs)
    if not spec.pairs:
        return config
    try:
        return make_config(base.data, file=base.file, options=merged, overrides=[*pairs, *spec.pairs])
    except UserError as error:
        raise UserError(error.what, error.remedy, spec.label) from error


def check_base(base: Base, specs: Sequence[Spec]) -> None:
    """Refuse a setting of a method that is not compared.

    Raises:
        UserError: it names the setting.
    """
    compared = {settings_group(s.method) for s in specs}
    for key in [p.partition("=")[0] for p in base.overrides]:
        group, dot, _ = key.partition(".")
        if key == "method":
            raise UserError("'method' is set", "Name methods with --methods.")
        if group == "guard":
            raise UserError(f"'{key}' is set", "A comparison shows each method as it is: its guard is off.")
        if dot and group in {*METHODS, OWN} and group not in compared:
            raise UserError(f"'{key}' is set, but {group} is not compared", f"Add {group} to --methods.")

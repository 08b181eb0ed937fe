"""The METHODS table: one line per method, one file per method."""

from __future__ import annotations

from typing import Any

from metapl.errors import UserError, nearest
from metapl.methods.co_training import CoTraining as CoTraining
from metapl.methods.fixmatch import FixMatch as FixMatch
from metapl.methods.flexmatch import FlexMatch as FlexMatch
from metapl.methods.freematch import FreeMatch as FreeMatch
from metapl.methods.mean_teacher import MeanTeacher as MeanTeacher
from metapl.methods.mpl import MPL as MPL
from metapl.methods.mpl_reduced import ReducedMPL as ReducedMPL
from metapl.methods.pseudo_label import PseudoLabel as PseudoLabel
from metapl.methods.self_mpl import SelfMPL as SelfMPL
from metapl.methods.self_training import SelfTraining as SelfTraining
from metapl.methods.softmatch import SoftMatch as SoftMatch
from metapl.methods.supervised import Supervised as Supervised
from metapl.methods.uda import UDA as UDA

METHODS: dict[str, Any] = {
    "supervised": Supervised,
    "pseudo_label": PseudoLabel,
    "mean_teacher": MeanTeacher,
    "self_training": SelfTraining,
    "co_training": CoTraining,
    "uda": UDA,
    "fixmatch": FixMatch,
    "flexmatch": FlexMatch,
    "freematch": FreeMatch,
    "softmatch": SoftMatch,
    "mpl": MPL,
    "self_mpl": SelfMPL,
    "mpl_reduced": ReducedMPL,
}


def method_class(name: str) -> Any:
    """The method called ``name``.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'", nearest(name, METHODS), "method")
    return METHODS[name]

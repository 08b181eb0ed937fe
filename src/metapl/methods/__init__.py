"""The METHODS table: one line and one file per method; a method is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import Any, get_args

from metapl.errors import UserError, nearest
from metapl.types import View
from metapl.utils.lazy_table import LazyTable
from metapl.utils.names import last_part, split_name

METHODS = LazyTable(
    {
        "linear": "metapl.methods.linear:Linear",
        "supervised": "metapl.methods.supervised:Supervised",
        "pseudo_label": "metapl.methods.pseudo_label:PseudoLabel",
        "mean_teacher": "metapl.methods.mean_teacher:MeanTeacher",
        "self_training": "metapl.methods.self_training:SelfTraining",
        "co_training": "metapl.methods.co_training:CoTraining",
        "uda": "metapl.methods.uda:UDA",
        "fixmatch": "metapl.methods.fixmatch:FixMatch",
        "flexmatch": "metapl.methods.flexmatch:FlexMatch",
        "freematch": "metapl.methods.freematch:FreeMatch",
        "softmatch": "metapl.methods.softmatch:SoftMatch",
        "mpl": "metapl.methods.mpl:MPL",
        "self_mpl": "metapl.methods.self_mpl:SelfMPL",
        "mpl_reduced": "metapl.methods.mpl_reduced:ReducedMPL",
    }
)


OWN = "own"  # the group that holds the settings of a method that is not in the table


def method_class(name: str) -> Any:
    """Return the class of the method ``name``: a name in METHODS, or the user's own ``package.module:Class``.

    Raises:
        UserError: an unknown name, with the nearest known one; a class that cannot be imported or is not a method.
    """
    if name.startswith("sklearn:"):
        remedy = "Such classifiers stand in `metapl compare --methods ...`; the method linear can be stored."
        raise UserError(f"'{name}' cannot be trained and stored as a model", remedy, "method")
    if ":" in name:
        return _own(name)
    if name not in METHODS:
        remedy = f"{nearest(name, METHODS)} Or give package.module:Class."
        raise UserError(f"unknown method '{name}'", remedy, "method")
    return METHODS[name]


def fits_once(name: str) -> bool:
    """Return whether the method called ``name`` fits its network in one step, instead of training it in many."""
    return bool(getattr(method_class(name), "fits_once", False))


def settings_group(name: str) -> str:
    """Return the key of the settings of the method ``name``."""
    return OWN if ":" in name else name


def imported_class(name: str) -> Any:
    """Import what ``package.module:Class`` names.

    Raises:
        UserError: it cannot be imported.
    """
    module, qualname = split_name(name)
    try:
        value: Any = importlib.import_module(module or "")
        for part in qualname.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: "" and ".relative"
        remedy = "Give package.module:Class, importable from here (is PYTHONPATH set?)."
        raise UserError(f"cannot import '{name}' ({error})", remedy, "method") from error
    return value


def _own(name: str) -> Any:
    cls = imported_class(name)
    parts = ("Config", "needs", "extra_steps", "step", "eval_model", "candidates", "state_dict", "load_state_dict")
    missing = [part for part in parts if not hasattr(cls, part)]
    if missing or not isinstance(cls, type):
        problem = f"'{name}' lacks {', '.join(missing)}" if missing else f"'{name}' is not a class"
        raise UserError(problem, "See metapl.types.Method, and metapl.methods.base.OneNetwork for a start.", "method")
    needs: Any = getattr(cls, "needs", ())
    if unknown := set(needs) - set(get_args(View)):
        problem = f"'{name}' needs the views {', '.join(sorted(map(repr, unknown)))}, which do not exist"
        raise UserError(problem, f"Views are {' and '.join(map(repr, get_args(View)))}.", "method")
    return cls


def __getattr__(name: str) -> Any:
    """Give a method's class by its own name: ``from metapl.methods import MPL``."""
    for key, entry in METHODS.data.items():
        if name == (last_part(entry) if isinstance(entry, str) else entry.__name__):
            return METHODS[key]
    raise AttributeError(f"module 'metapl.methods' has no attribute '{name}'")

"""The table of modalities: one record per kind of rows, and the way to add one."""

from __future__ import annotations

from metapl.data.batches.views import ViewConfig, Views
from metapl.data.features import FeatureModality
from metapl.data.images.modality import ImageModality
from metapl.data.modality import Modality
from metapl.data.tables.modality import TableModality
from metapl.data.texts.modality import TextModality
from metapl.errors import UserError
from metapl.types import Kind, Preprocessing

MODALITIES: dict[Kind, Modality] = {
    record.kind: record for record in (ImageModality(), TableModality(), TextModality(), FeatureModality())
}


def register_modality(modality: Modality) -> None:
    """Make a kind of rows known, so that sources of it can be trained on and its models can be loaded.

    Call it where the class is defined, at the top level of a module: a new process then knows the kind as soon as it
    imports that module. A kind that was registered before is replaced.

    Args:
        modality: an instance of a subclass of ``Modality``.

    Raises:
        UserError: it is not one, it has no name, or the name is one of metapl's own.
    """
    given: object = modality
    if not isinstance(given, Modality):
        what = f"a modality is needed, not {given!r}"
        raise UserError(what, "Subclass metapl.Modality and give an instance.", "register_modality")
    known = MODALITIES.get(modality.kind)
    if not modality.kind or (known is not None and type(known).__module__.startswith("metapl.")):
        what = f"'{modality.kind}' cannot be the name of a kind of rows"
        raise UserError(what, "Set kind to a name of your own.", "register_modality")
    MODALITIES[modality.kind] = modality


def modality_of(kind: Kind) -> Modality:
    """Return the record of a kind of rows.

    Raises:
        UserError: nobody has registered it.
    """
    if kind not in MODALITIES:
        remedy = f"Import the module that registers it (metapl.register_modality). Known: {', '.join(MODALITIES)}."
        raise UserError(f"rows of the kind '{kind}' are not known", remedy)
    return MODALITIES[kind]


def own_modalities() -> tuple[Modality, ...]:
    """Return the registered kinds that another process can import too: a script's own class has no name there."""
    modules = {record: type(record).__module__ for record in MODALITIES.values()}
    return tuple(record for record, name in modules.items() if name != "__main__" and not name.startswith("metapl."))


def make_views(config: ViewConfig, preprocessing: Preprocessing) -> Views:
    """Return the views that fit the kind of rows."""
    return modality_of(preprocessing.kind).views(config, preprocessing)

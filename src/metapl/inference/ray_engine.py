"""Ray Data as the engine of ``label``: it moves the parts to its workers, and runs them again where one is lost."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

from metapl.errors import UserError
from metapl.inference.label_pool import Engine, PartJob
from metapl.inference.pool_parts import Part

PARTS = 4  # sent out at a time, per core of the cluster


def ray_engine(address: str | None = None) -> Engine:
    """Return the engine; ``address``: of a Ray cluster, by default one that is started on this machine.

    Raises:
        UserError: Ray is not installed, or no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("--engine ray needs Ray", 'Install it: pip install "metapl[ray]".', "--engine") from error

    def run(job: PartJob, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"no Ray cluster answers ({error})", "Check the address.", "--address") from error
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            waiting, resources = iter(parts), cast(Any, ray.cluster_resources)
            while window := list(islice(waiting, PARTS * max(1, int(resources().get("CPU", 1))))):
                rows = [{"part": part} for part in window]
                found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_OneRow(job))
                yield from (json.loads(row["count"]) for row in found.iter_rows())
        finally:
            ray.shutdown()

    return run


class _OneRow:
    """``job`` on a row of a Ray data set; the counts go back as text."""

    def __init__(self, job: PartJob) -> None:
        self.job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"count": json.dumps(self.job(row["part"]))}

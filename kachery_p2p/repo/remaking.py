"""Opening a catalog that can only be read, and making one anew."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from kachery_p2p.errors import NoPermission, RepoBusy, RepoError
from kachery_p2p.repo.catalog import Catalog
from kachery_p2p.repo.checking import Problem
from kachery_p2p.repo.damaged import fresh_beside, put_in_place
from kachery_p2p.repo.hosts import network_file_system
from kachery_p2p.repo.layout import Layout
from kachery_p2p.repo.locks import NodeLock
from kachery_p2p.repo.second_place import refuse_newer

log = logging.getLogger("kachery_p2p.repo")


def catalog_to_read(layout: Layout) -> Catalog:
    """The catalog of a directory that can only be read; an empty one in its place where that cannot be opened."""
    if os.access(layout.catalog, os.R_OK) and layout.catalog.stat().st_size:
        try:
            apart = network_file_system(layout.directory) is not None
            return Catalog(layout.catalog, read_only=True, apart=apart)
        except NoPermission as error:
            log.info("%s", error)
    return Catalog(layout.catalog, in_memory=True)


def remake_catalog(directory: Path, fill: Callable[[Layout, Catalog, Path], list[Problem]]) -> list[Problem]:
    """Put a catalog that is made anew in the place of one that is lost or damaged; see Repo.rebuild.

    Args:
        directory: the data directory.
        fill: fills a new catalog, given the layout, the catalog, and where the old one is or was.

    Raises:
        RepoBusy: a node uses the directory.
        RepoError: the catalog is of a newer version.
    """
    layout = Layout(directory)
    layout.make()
    node = NodeLock(layout.directory)
    if not node.try_acquire():
        raise RepoBusy(
            f"A node is running in {layout.directory}. Stop it, and all other programs that use the directory, and "
            "repair it then."
        )
    try:
        if refuse_newer(layout.catalog):
            raise RepoError(f"{layout.catalog} was made by a newer version of the program. Repair it with that one.")
        old = layout.catalog
        # Complete before it gets its name: a repair that is interrupted leaves the loss as visible as it was.
        fresh = Layout(directory)
        fresh.catalog = fresh_beside(old)
        problems = fill(fresh, Catalog(fresh.catalog), old)
        put_in_place(fresh.catalog, old, layout.damaged, "the catalog")
        return problems
    finally:
        node.release()

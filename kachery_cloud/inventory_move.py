"""Moving the data directory to another disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.arguments import path_text
from kachery_cloud.progress import progress_bar
from kachery_cloud.settings.config import load_config

if TYPE_CHECKING:
    from kachery_cloud.answers import ProblemTable


def move(target: str | os.PathLike[str]) -> ProblemTable:
    """Move the data directory to another disk. Its old name becomes a link to the new place, and goes on working.

    To another disk everything is copied, read back and compared with its hashes; only then the old one goes. When it is
    interrupted, the same call goes on. Stop the node, and the programs that use the directory, first.

    Args:
        target: the folder that it is to be, missing or empty.

    Returns:
        A list of `Problem(cid, path, what, detail)`: what is damaged, and was so before. Empty where all is well. It
        shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        RepoBusy: a node runs here, or something is being stored.
        FileExists: something is at `target`.
        DiskFull: there is no room for it.
        DamagedRepo: it was copied wrongly: one of the two disks is broken. Nothing was removed.
    """
    from kachery_cloud.answers import ProblemTable
    from kachery_cloud.local import close_outboxes, close_repositories
    from kachery_p2p.repo.moving import move as run

    where = Path(os.path.abspath(os.path.expanduser(path_text(target, "The target"))))
    config = load_config()
    close_repositories()
    close_outboxes()
    with progress_bar("Moving") as update:
        return ProblemTable(run(config.directory, where, progress=update))

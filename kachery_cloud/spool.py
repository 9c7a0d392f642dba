"""What is stored piece by piece, of a size that nobody knows before its end."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from kachery_cloud.errors import StoreTooLarge
from kachery_cloud.progress import progress_bar
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.newfile import NewFile

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.profiles import Profile
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.repo.small import Stored

#: An array up to this size is written through memory; a larger one through a file, so that it is not held twice.
_IN_MEMORY = 8 << 20


class Spool:
    """A writable file that stays in memory while it is small and moves to the data directory when it grows."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._memory = io.BytesIO()
        self._new: NewFile | None = None
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._size += len(view)
        check_size(self._config, self._size, "The value")
        if self._file is None and self._size > _IN_MEMORY:
            self._file = self._to_disk()
        if self._file is None:
            return self._memory.write(view)
        with explained("storing in", self._config.directory):
            return self._file.write(view)

    def _to_disk(self) -> BinaryIO:
        with explained("storing in", self._config.directory):
            # Locked while this process lives, so that a later process knows a left-over when it sees one.
            self._new = NewFile(self._config.directory / "tmp")
            file = os.fdopen(os.dup(self._new.fd), "wb")
            file.write(self._memory.getbuffer())
        self._memory = io.BytesIO()
        return file

    def store(
        self, repo: Repo, profile: str | Profile | None, label: str | None = None, audience: Audience | None = None
    ) -> Stored:
        if self._new is None or self._file is None:
            return repo.store_value(self._memory.getbuffer(), profile=profile, label=label, audience=audience)
        with explained("storing in", self._config.directory):
            self._file.close()
        with progress_bar("Storing") as update:
            return repo.store_new(self._new, profile=profile, progress=update, label=label, audience=audience)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what it still held is of no use now
                self._file.close()
        if self._new is not None:
            self._new.__exit__(*exc)


def check_size(config: Config, size: int, what: str) -> None:
    """Hold a size against the limit that the user set.

    Raises:
        StoreTooLarge: it is more.
    """
    limit = config.max_store_bytes
    if limit is not None and size > limit:
        raise StoreTooLarge(
            f"{what} is larger than the limit of {limit:,} bytes that is set for one store "
            f"(KACHERY_CLOUD_MAX_STORE_BYTES, or max_store_bytes in config.json). Raise the limit to store it."
        )

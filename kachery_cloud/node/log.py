"""The log of ``kachery-cloud-node``. Only the program sets up a log; the packages merely write to their loggers.

Every line has a time. What it says may come from strangers (addresses, names, error texts), so no control character
gets through, and a message is one line.

In JSON a line is an object: `time` (ISO 8601, UTC), `level`, `logger`, `message`, with `exception` where there was one,
and the fields that the message has: `log.info("...", extra={"fields": {"event": "fetched", "bytes": 7}})`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias

from kachery_p2p.oserrors import explained
from kachery_p2p.text import printable

Level: TypeAlias = Literal["error", "warning", "info", "debug"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info", "debug")
Format: TypeAlias = Literal["text", "json"]
#: Bytes of a log file; then it is moved to FILE.1, and so on. Months of a quiet node fit into one.
MAX_FILE = 10_000_000
#: Older files that are kept.
OLD_FILES = 3
#: Our own loggers. Other packages are heard from warnings on: at lower levels some of them log what is secret.
_OURS = ("kachery_cloud", "kachery_p2p")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def start_log(level: Level, file: Path | None = None, form: Format = "text") -> None:
    """Send what the node and its libraries say from a level on to standard error.

    With `file` it goes to that file, and only warnings to both. `form` says how a line is written.

    Raises:
        NoPermission, DiskFull, RepoError: the file cannot be opened.
    """
    terminal = _Terminal(sys.stderr)
    handlers: list[logging.Handler] = [terminal]
    if file is not None:
        with explained("opening the log", file):
            handlers.append(_File(file))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(_Formatter(_FORMAT) if form == "text" else _Json())
        root.addHandler(handler)
    set_level(level)


def set_level(level: Level) -> None:
    """Log from another level on."""
    number = getattr(logging, level.upper())
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler, _Quiet)]
    to_file = any(isinstance(handler, _File) for handler in ours)
    for handler in ours:
        # Not the loggers alone: some have a level of their own.
        handler.setLevel(max(number, logging.WARNING) if to_file and isinstance(handler, _Terminal) else number)
    root.setLevel(max(number, logging.WARNING))
    for name in _OURS:
        logging.getLogger(name).setLevel(number)


def reopen() -> None:
    """Go on in the file of the log's name, where another program has moved the old one away."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _File):
            handler.reopen()


class _Formatter(logging.Formatter):
    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another handler's text of the exception may be there, as it came
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(printable(line) for line in super().formatException(ei).split("\n"))


class _Json(_Formatter):
    """A JSON object a line. Control characters are shown as in the other form, so that any program may print them."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        fields: dict[str, Any] = getattr(record, "fields", {})
        said.update((name, value) for name, value in fields.items() if name not in said)
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


class _Quiet:
    """Ignores that a line cannot be written.

    A full disk or a terminal that was closed is no reason to stop, nor to print a stack trace for each line.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)  # type: ignore[misc]


if TYPE_CHECKING:
    _ToStream = logging.StreamHandler[TextIO]
else:
    _ToStream = logging.StreamHandler


class _Terminal(_Quiet, _ToStream):
    pass


class _File(_Quiet, RotatingFileHandler):
    """A file for its owner alone, whatever the umask: it says whom this machine has met."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=MAX_FILE, backupCount=OLD_FILES, encoding="utf-8", errors="backslashreplace", delay=False
        )

    def reopen(self) -> None:
        """Close the file, and open what has its name."""
        self.acquire()
        try:
            if self.stream:
                self.stream.close()
            self.stream = self._open()
        except OSError:
            self.stream = None  # type: ignore[assignment]  # the next line tries again
        finally:
            self.release()

    def _open(self) -> Any:
        # Without O_NONBLOCK, a named pipe that nobody reads would hold up the node.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(self.baseFilename, flags, 0o600)
        return os.fdopen(fd, "a", encoding=self.encoding, errors=self.errors)

"""The exit codes of all commands, in one table: `--help`, the manual pages and the documentation have it from here."""

from __future__ import annotations

INTERRUPTED = 130
BROKEN_PIPE = 141

#: What each means. The errors of `kachery_cloud.errors` have theirs as `exit_code`.
EXIT_CODES = {
    0: "done",
    1: "another error; of `kachery-cloud diff`: they differ; of `kachery-cloud doctor`: something is wrong",
    2: "wrong input",
    3: "not found",
    4: "local data is damaged or was changed",
    5: "no room on the disk, no permission, no key, or in use",
    6: "the network, a peer or a service failed",
    INTERRUPTED: "interrupted (Ctrl-C)",
    BROKEN_PIPE: "the reader of the output left",
}


def table() -> list[str]:
    """The table as lines of plain text."""
    return [f"{code:3}  {meaning.replace('`', '')}" for code, meaning in EXIT_CODES.items()]

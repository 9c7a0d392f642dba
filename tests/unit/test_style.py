"""One hand in all modules of the product: how errors are documented, and how loggers, errors and constants look."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: A module names its logger `log`.
OTHER_LOGGERS = {"logger", "LOGGER", "LOG", "_log", "_logger"}
#: These say no more than `error` does. A name that says what has happened, such as `refusal`, may stand.
OTHER_ERRORS = {"e", "ex", "exc", "err", "exception", "why"}

_PROSE = re.compile(r"\bRaises\s+(?:[A-Z`]|for\b|when\b|where\b|if\b|unless\b)")
_SECTION = re.compile(r"^( *)Raises:\n(?:\1 +\S.*\n|\n(?=\1 +\S))*", re.MULTILINE)
_CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]*")
#: What a comment says to a tool, or the headline of a section.
_OTHER_COMMENT = re.compile(r"# *(?:---|pyright:|type:|noqa\b|ruff:|fmt:)")


def raises_in_prose(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Docstrings that name an error in running text, where no reader looks for it, and no tool finds it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            prose = _SECTION.sub("", f"{ast.get_docstring(node) or ''}\n")
            if _PROSE.search(prose):
                yield node.body[0].lineno, "an error is named in prose; give it a section `Raises:`"


def loggers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Loggers of modules that have another name than `log`."""
    for node in tree.body:
        for target in _targets(node):
            if target in OTHER_LOGGERS:
                yield node.lineno, f"the logger of a module is `log`, not `{target}`"


def caught(node: ast.AST, inside: bool = False) -> Iterator[tuple[int, str]]:
    """Errors that are caught under another name than `error`. Inside another handler that name may be taken."""
    for child in ast.iter_child_nodes(node):
        handler = isinstance(child, ast.ExceptHandler) and child.name is not None
        if isinstance(child, ast.ExceptHandler) and child.name in OTHER_ERRORS and not inside:
            yield child.lineno, f"an error that is caught is `error`, not `{child.name}`"
        yield from caught(child, inside or handler)


def constants(tree: ast.Module, text: str) -> Iterator[tuple[int, str]]:
    """Constants of modules and classes with a comment above them that does not begin with `#:`."""
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body):
        if not any(_CONSTANT.fullmatch(target) for target in _targets(node)):
            continue
        line = node.lineno - 1
        while line in comments and not _OTHER_COMMENT.match(comments[line]):
            if not comments[line].startswith("#:"):
                yield line, "a comment that explains a constant begins with `#:`"
            line -= 1


def swapped_events(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Events that are put in the place of others: whoever waits for the one before is not woken by the new one."""
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        made = [
            (node.lineno, ast.unparse(target))
            for node in ast.walk(owner)
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Attribute) and ast.unparse(node.value) in ("trio.Event()", "threading.Event()")
        ]
        names = [name for _, name in made]
        yield from (
            (line, "an event is replaced: a `Flag` or `Signal` of kachery_p2p.waking does that")
            for line, name in made
            if names.count(name) > 1
        )


def _targets(node: ast.stmt) -> list[str]:
    """The names that a statement assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def offences(text: str) -> list[tuple[int, str]]:
    """What a module does in another way, with its lines."""
    tree = ast.parse(text)
    return sorted(
        {*raises_in_prose(tree), *loggers(tree), *caught(tree), *constants(tree, text), *swapped_events(tree)}
    )


def test_all_modules_are_written_alike() -> None:
    """Errors have a section in docstrings; a logger is `log`, a caught error `error`; `#:` explains constants."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for top in ("kachery_p2p", "kachery_cloud")
        for path in sorted((ROOT / top).rglob("*.py"))
        for line, what in offences(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join([f"{len(wrong)} places are written in another way:", *wrong])


def test_offences_are_seen() -> None:
    """Each rule sees what is against it, and lets pass what only looks like it."""
    bad = '''
logger = make()

# How many.
COUNT = 1


def read():
    """Read it. Raises `OSError` when it is gone."""
    try:
        pass
    except OSError as why:
        pass


class Reader:
    """Reads. Raises
    ValueError for bad bytes.

    Raises:
        OSError: it is gone.
    """

    # Bytes.
    MOST = 2

    def __init__(self):
        self.changed = trio.Event()
        self.done = trio.Event()

    def change(self):
        self.changed.set()
        self.changed = trio.Event()
'''
    assert [line for line, _ in offences(bad)] == [2, 4, 9, 12, 17, 24, 28, 33]
    good = '''
log = make()

# --- limits ---
#: How many,
#: of all.
COUNT = 1
# What follows is no constant.
name = "# not a comment"


def read():
    """Read it.

    Raises:
        OSError: it is gone. Raises `ValueError` when
            it is bad.

        KeyError: Raises for a name that is missing.
    """
    try:
        pass
    except OSError as error:
        try:
            pass
        except ValueError as why:
            pass
    except KeyError as missing:
        pass
'''
    assert offences(good) == []

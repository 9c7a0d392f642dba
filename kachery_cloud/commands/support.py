"""What all commands share: results, errors and exit codes."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kachery_cloud.commands.completing import ASKED, answer, offer
from kachery_cloud.commands.exit_codes import BROKEN_PIPE, INTERRUPTED
from kachery_cloud.errors import KacheryError
from kachery_cloud.terminal import BinaryOutput, OutputError, ReaderGone, program_streams, silence
from kachery_p2p import __version__
from kachery_p2p.text import printable, redacted, shortened

if TYPE_CHECKING:
    from kachery_p2p.access.audience import Audience

#: Characters of a usage error: it repeats what was typed, or pasted by mistake.
_MAX_USAGE = 1_000

Function = Callable[..., Any]


CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Say on stderr what is done.")
to_option = click.option(
    "--to",
    "to",
    multiple=True,
    metavar="NAME",
    help="Only members of this group may load it; or private: only your own machines; or public: everybody. May be "
    "given several times.",
)
project_option = click.option(
    "--project",
    metavar="NAME",
    help="The project of your lab that it goes into; '' for none. [default: that of the settings]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a line.")


class Stopped(KeyboardInterrupt):
    """Ctrl-C, and what became of the work by then.

    Args:
        message: a sentence for people.
        values: the same for `--json`: what is in the object beside "error".
    """

    def __init__(self, message: str, **values: Any) -> None:
        super().__init__(message)
        self.message = message
        self.values = values


def guarded(function: Function, interrupted: str = "Interrupted.") -> Function:
    """Turn the errors that are meant for people into a sentence and an exit code.

    Args:
        function: the body of a command.
        interrupted: what to say after Ctrl-C: what became of the work; unless the body raises `Stopped`.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except (ReaderGone, BrokenPipeError):
            _leave_quietly()
        except KacheryError as error:
            _fail(type(error).__name__, str(error), error.exit_code, as_json)
        except Stopped as stopped:
            _fail("Interrupted", stopped.message, INTERRUPTED, as_json, stopped.values)
        except KeyboardInterrupt:
            _fail("Interrupted", interrupted, INTERRUPTED, as_json)
        except OSError as error:
            from kachery_p2p.oserrors import explain

            named = explain(error, "using", error.filename or "a file")
            _fail(type(named).__name__, str(named), named.exit_code, as_json)

    return run


def _fail(name: str, message: str, code: int, as_json: bool, values: dict[str, Any] | None = None) -> NoReturn:
    message = redacted(message)
    if name == OutputError.__name__:
        as_json = False  # nothing more can be said there
        silence(sys.stdout)
    try:
        if as_json:
            click.echo(json.dumps({"error": {"type": name, "message": message}, **(values or {})}))
        else:
            click.echo(f"Error: {message}", err=True)
    except ReaderGone:
        _leave_quietly()
    except OutputError:
        silence(sys.stdout, sys.stderr)
    raise click.exceptions.Exit(code)


def _leave_quietly() -> NoReturn:
    """The reader of the output has left (`... | head`): end without a word."""
    silence(sys.stdout, sys.stderr)
    raise click.exceptions.Exit(BROKEN_PIPE)


def print_result(as_json: bool, text: str, **values: Any) -> None:
    """Print a result: `values` as JSON when that is asked for, else `text`."""
    click.echo(json.dumps(values) if as_json else text)


@contextmanager
def privacy_said_once(as_json: bool, audience: Audience | None = None) -> Iterator[None]:
    """Around what brings something into a data directory: say to whom it is announced, when it is the first thing.

    What is for a group, or private, is not: `audience` says so.
    """
    from kachery_cloud.privacy import configured_audience, is_first, sentence
    from kachery_cloud.settings.config import load_config

    config = load_config()
    first = not as_json and (audience is None or audience.everyone) and is_first(config)
    yield
    if first:
        click.echo(sentence(configured_audience(config)), err=True)


def print_path(path: str) -> None:
    """A path as a result: the bytes of its name for the next command of a pipeline, what can be shown for a person."""
    if sys.stdout.isatty():
        click.echo(printable(path))
        return
    out = BinaryOutput()
    out.write(os.fsencode(path) + b"\n")
    out.flush()


def _tell_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"{context.find_root().info_name} {__version__}")
        context.exit()


class _Common(click.Command):
    """What commands and groups of them share: `--version`, offers to shells, and usage errors in JSON where asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offer(self)
        text = "Show the version and exit."
        self.params.append(
            click.Option(
                ["--version"], is_flag=True, expose_value=False, is_eager=True, help=text, callback=_tell_version
            )
        )

    def main(self, *args: Any, **kwargs: Any) -> Any:
        arguments = kwargs.get("args")
        given = list(sys.argv[1:] if arguments is None else arguments)
        if shell := os.environ.get(ASKED):
            answer(self, shell, given)
            sys.exit(0)
        return _main(super().main, given, args, kwargs)


class Command(_Common):
    """A command."""


#: What newcomers type, from other programs, and what does that here; those that the group in question has are offered.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "add": ("store", "link"),
    "clean": ("gc",),
    "clone": ("get",),
    "config": ("settings",),
    "copy": ("get", "load"),
    "daemon": ("node",),
    "delete": ("rm", "remove"),
    "df": ("du",),
    "dir": ("ls", "list"),
    "download": ("get", "load"),
    "erase": ("rm", "remove"),
    "fetch": ("get", "load"),
    "find": ("list", "whereis"),
    "forget": ("rm", "remove"),
    "fsck": ("verify", "doctor"),
    "ls": ("list",),
    "locate": ("whereis",),
    "mv": ("move",),
    "new": ("create", "init"),
    "open": ("cat", "get"),
    "permissions": ("visibility", "access"),
    "pin": ("pins",),
    "prune": ("gc",),
    "pull": ("get", "load"),
    "purge": ("gc", "rm"),
    "push": ("store", "share"),
    "put": ("store",),
    "read": ("cat", "load"),
    "remove": ("rm", "remove"),
    "rm": ("remove",),
    "run": ("node",),
    "save": ("store",),
    "search": ("list", "whereis"),
    "serve": ("node",),
    "setup": ("init",),
    "show": ("info", "cat"),
    "size": ("du", "info"),
    "space": ("du",),
    "start": ("node",),
    "stat": ("info",),
    "state": ("status",),
    "unpin": ("pins",),
    "upload": ("store", "share"),
    "who": ("whereis",),
}


class Group(_Common, click.Group):
    """A group of commands."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; where there is none of that name, the error says which is near."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            names = self.list_commands(ctx)
            meant = [name for name in SYNONYMS.get(args[0].lower(), ()) if name in names]
            near = meant or difflib.get_close_matches(args[0], names)
            if not near or (not meant and near[0] in error.message):
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(near)}?", ctx) from None


def command(
    name: str, interrupted: str = "Interrupted.", *, hidden: bool = False
) -> Callable[[Function], click.Command]:
    """A command that can be run by itself, or be part of the group. `interrupted`: see `guarded`."""

    def make(function: Function) -> click.Command:
        return click.command(name, cls=Command, context_settings=CONTEXT, hidden=hidden)(guarded(function, interrupted))

    return make


def _main(main: Function, given: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    kwargs["standalone_mode"] = False
    with program_streams():
        try:
            code = _run(main, "--json" in given, args, kwargs)
            sys.stdout.flush()
        except ReaderGone as error:  # of --help and usage
            silence(sys.stdout, sys.stderr)
            code = error.exit_code
        except OutputError as error:
            silence(sys.stdout)
            with suppress(OutputError, ReaderGone):
                click.echo(f"Error: {error}", err=True)
            code = error.exit_code
        sys.exit(code)


def _run(main: Function, as_json: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    try:
        code = main(*args, **kwargs)
        return code if isinstance(code, int) else 0
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.__dict__["message"] = redacted(shortened(error.message, _MAX_USAGE))
        if as_json:
            click.echo(json.dumps({"error": {"type": "Usage", "message": error.format_message()}}))
        else:
            error.show()
        return error.exit_code

"""The commands: `kachery-cloud` with its subcommands, and the short names `kachery-cloud-store`, `-load` and so on.

Results go to stdout, one line, or one JSON object with `--json`; everything else to stderr. Errors are one sentence and
an exit code; `exit_codes` has the table.
"""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword

import click

from kachery_cloud.commands.exit_codes import INTERRUPTED, table
from kachery_cloud.commands.support import CONTEXT, Group

#: Characters of the first sentence of a help: none is longer.
_SENTENCE = 1_000

#: Each command, and the module of this package that has it. It is imported when the command is used.
COMMANDS = {
    "access": "access",
    "announce": "network",
    "audit": "access",
    "cat": "loading",
    "completion": "completion",
    "diff": "comparing",
    "doctor": "doctor",
    "du": "inventory",
    "export": "cars",
    "figure": "figures",
    "gc": "inventory_removal",
    "gateway-token": "network",
    "get": "sharing",
    "group": "groups",
    "import": "cars",
    "info": "loading",
    "init": "init",
    "key": "encryption",
    "keygen-swarm": "network",
    "link": "storing",
    "list": "inventory",
    "load": "loading",
    "load-info": "older",
    "ls": "loading",
    "move": "inventory_removal",
    "node": "node",
    "owner": "owner",
    "pins": "pins",
    "projects": "projects",
    "publish": "publishing",
    "repair": "upkeep",
    "resolve": "publishing",
    "rm": "inventory_removal",
    "settings": "settings",
    "share": "sharing",
    "status": "network",
    "store": "storing",
    "store-local": "older",
    "usage": "usage",
    "verify": "upkeep",
    "visibility": "access",
    "whereis": "network",
}

#: The names that are installed as programs: all commands, and some by themselves.
PROGRAMS = (
    "kachery-cloud",
    *(
        f"kachery-cloud-{name}"
        for name in (
            "init",
            "store",
            "link",
            "load",
            "get",
            "share",
            "cat",
            "node",
            "pins",
            "group",
            "projects",
            "usage",
            "status",
            "whereis",
            "keygen-swarm",
            "store-local",
            "load-info",
        )
    ),
)

#: The commands in the order in which --help shows them, with what they are for.
SECTIONS = {
    "Give something away": ("store", "link", "node", "share", "figure", "publish", "export"),
    "Get something": ("get", "load", "cat", "ls", "import", "resolve", "whereis", "diff"),
    "See what is here": ("list", "info", "du", "status", "settings"),
    "Say who may have it": ("visibility", "access", "audit", "owner"),
    "Free the disk, and look after it": ("rm", "gc", "verify", "repair", "move", "init", "doctor", "completion"),
    "For a lab": ("projects", "usage", "group", "key", "pins", "announce", "keygen-swarm", "gateway-token"),
}


def find_command(name: str) -> click.Command:
    """The command of a name. Imports its module."""
    module = import_module(f"kachery_cloud.commands.{COMMANDS[name]}")
    name = name.replace("-", "_")
    return getattr(module, f"{name}_" if iskeyword(name) else name)


class _Commands(Group):
    """The group of all commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with its first sentence, whole, under what it is for."""
        named = [name for names in SECTIONS.values() for name in names]
        rest = tuple(name for name in self.list_commands(ctx) if name not in named)
        for title, names in {**SECTIONS, "More": rest}.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, each.get_short_help_str(_SENTENCE)) for name, each in found if each and not each.hidden]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            return find_command(cmd_name) if cmd_name in COMMANDS else None
        except KeyboardInterrupt:
            # In the middle of an import, where no command speaks for itself yet; see `entry`.
            click.echo("Error: Interrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None


_HELP = """Share scientific data straight from one workstation to another.

    Data lies in ~/.kachery-cloud, or where KACHERY_CLOUD_DIR says. Each command has --help, with examples. All
    settings: kachery-cloud settings

    \b
    Exit codes:
        {codes}

    \b
    On one machine:
        kachery-cloud store session.nwb          prints ipfs://...
        kachery-cloud node                       serves it
        kachery-cloud share ipfs://...           prints one string to give away
    On the other:
        kachery-cloud get STRING                 brings it into this folder
        kachery-cloud load ipfs://...            finds it and prints the path of a copy
    """


@click.group(cls=_Commands, context_settings=CONTEXT, help=_HELP.format(codes="\n        ".join(table())))
def cli() -> None:
    """All of the commands."""


def main() -> None:
    """Run `kachery-cloud`."""
    cli(prog_name="kachery-cloud")


def run(name: str) -> None:
    """A command by its short name: `kachery-cloud-NAME`."""
    find_command(name)(prog_name=f"kachery-cloud-{name}")


if __name__ == "__main__":
    main()

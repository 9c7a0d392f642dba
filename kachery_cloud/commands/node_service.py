"""`kachery-cloud-node reload`, and what `--init` and `--systemd` write."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kachery_cloud.commands.support import command, json_option

#: The unit of systemd. What it may touch is the data directory; the rest of the system is out of its sight or reach.
#: Type=notify: see `kachery_cloud.node.systemd`.
_UNIT = """\
# {path}: kachery-cloud-node as a service of systemd.
# Written by: kachery-cloud-node --systemd. Put it there, and: systemctl enable --now kachery-cloud-node
[Unit]
Description=kachery-cloud-node: serves and keeps the data of a lab
Documentation=man:kachery-cloud-node(1)
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Environment=KACHERY_CLOUD_DIR={directory}
User={user}
Restart=on-failure
RestartSec=5
# A node in whose event loop nothing runs any more is started anew.
WatchdogSec=120
TimeoutStartSec=300
TimeoutStopSec=30
LimitNOFILE=65536

ReadWritePaths={directory}
ProtectSystem=strict
ProtectHome={protect_home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""
UNIT_PATH = "/etc/systemd/system/kachery-cloud-node.service"


@command("reload")
@json_option
def reload(as_json: bool) -> None:
    """Have the node that runs read its settings again: node.toml, config.json, certificates, tokens of services.

    Says what holds now, and what does after a restart. Where something in the files makes no sense the node goes on as
    it was, this command says so, and ends with exit code 2. A SIGHUP to the node does the same.

    \b
    Example:
        kachery-cloud-node reload
    """  # noqa: D301
    from kachery_cloud.errors import ConfigError
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.reloading import RELOAD, lines_of
    from kachery_cloud.settings.config import load_config
    from kachery_p2p.json_shapes import to_json

    found = ask_running_node(load_config(), RELOAD)
    if found.error:
        raise ConfigError(f"The node goes on as it was: {found.error}")
    if as_json:
        click.echo(json.dumps({"ok": True, **to_json(found)}))
    for line in () if as_json else lines_of(found):
        click.echo(line)


def write_node_file(path: Path | None) -> None:
    """`--init`: the commented defaults, where there is no such file; says where it is."""
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.settings.node_file import NODE_FILE_NAME, write_template
    from kachery_p2p.private import make_directory

    directory = load_config().directory
    make_directory(directory)
    target = directory / NODE_FILE_NAME if path is None else path
    made = write_template(target)
    click.echo(str(target))
    said = "Every setting is in it, as a comment." if made else "It was there already, and is as it was."
    click.echo(f"{said} Edit it, and start the node: kachery-cloud-node", err=True)


def given_options(context: click.Context, without: Collection[str]) -> list[str]:
    """The options of a command line, as they are written again; paths from the root.

    Args:
        context: of the command.
        without: names of parameters that are left out.
    """
    words: list[str] = []
    for option in context.command.params:
        name = option.name
        value: Any = context.params.get(name or "")
        source = context.get_parameter_source(name or "")
        if not isinstance(option, click.Option) or name in without or source is not ParameterSource.COMMANDLINE:
            continue
        spelled = max(option.opts, key=len)
        if option.count:
            words += [spelled] * value
        elif option.is_flag:
            words.append(spelled if value else max(option.secondary_opts, key=len))
        else:
            for each in value if option.multiple else (value,):
                text = str(each.absolute()) if isinstance(each, Path) else str(each)
                words += [spelled, text] if text else [spelled]
    return words


def systemd_unit(config_file: Path | None, options: Sequence[str] = ()) -> str:
    """The unit for this data directory, this user and this installation.

    Args:
        config_file: in place of node.toml in the data directory.
        options: with which the node is started.
    """
    import getpass
    import os

    from kachery_cloud.settings.config import load_config

    directory = load_config().directory
    program = Path(sys.argv[0]).resolve() if Path(sys.argv[0]).name == "kachery-cloud-node" else None
    found = program or Path(sys.executable).parent / "kachery-cloud-node"
    words = [str(found), *([] if config_file is None else ["--config", str(config_file.resolve())]), *options]
    home = Path(os.path.expanduser("~"))
    inside = any(part in (Path("/home"), Path("/root"), home) for place in (directory, found) for part in place.parents)
    return _UNIT.format(
        path=UNIT_PATH,
        command=" ".join(_quoted(word) for word in words),
        directory=_quoted(str(directory)),
        user=getpass.getuser(),
        protect_home="read-only" if inside else "yes",
    )


def _quoted(word: str) -> str:
    """A word of a unit: `%` and `$` mean something there (systemd.unit(5), systemd.service(5))."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if shlex.quote(word) != word else escaped

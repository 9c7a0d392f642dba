"""`kachery-cloud node`: serving what this machine has."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.doctor import doctor
from kachery_cloud.commands.node_members import clients, members
from kachery_cloud.commands.node_service import given_options, reload, systemd_unit, write_node_file
from kachery_cloud.commands.node_tokens import tokens
from kachery_cloud.commands.support import CONTEXT, Group, guarded, json_option

if TYPE_CHECKING:
    from kachery_cloud.node.log import Format, Level
    from kachery_cloud.node.status_messages import RunningNode
    from kachery_cloud.settings.config import Config


@click.group("node", cls=Group, invoke_without_command=True, context_settings=CONTEXT)
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Listen there, e.g. /ip4/0.0.0.0/tcp/4001.")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR", help="Stay connected to this peer.")
@click.option("--announce", multiple=True, metavar="MULTIADDR", help="Tell others this address, not those found out.")
@click.option("--relay", "relays", multiple=True, metavar="MULTIADDR", help="Be reached through this relay.")
@click.option(
    "--bootstrap",
    multiple=True,
    metavar="MULTIADDR",
    help="Enter the DHT by this peer instead of the public ones; `none`: by no peer.",
)
@click.option("--public/--no-public", default=None, help="Use public services (DHT, routers), or none at all.")
@click.option("--mdns/--no-mdns", default=None, help="Find machines of the local network by mDNS, or do not.")
@click.option(
    "--gateway",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Serve an HTTP gateway for browsers and other programs. [default: 127.0.0.1:8090; port 0 is a free one]",
)
@click.option("--gateway-fetch", is_flag=True, help="Let the gateway fetch from the network what is not here.")
@click.option(
    "--pinning-service",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Let others pin here, by tokens of `kachery-cloud-node tokens add`. [default: 127.0.0.1:8095]",
)
@click.option(
    "--lab",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Be the lab's own node: a page, members, and a pinning service for them. [default: 127.0.0.1:8095]",
)
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The certificate (PEM) with which the pinning service, or the lab, speaks HTTPS.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Its key (PEM). [default: in the file of the certificate]",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Read the settings of the node from this file. [default: node.toml in the data directory, if there is one]",
)
@click.option("--init", is_flag=True, help="Write that file, with every setting as a comment, and end.")
@click.option(
    "--systemd", is_flag=True, help="Print a unit for systemd that runs this node with the options given, and end."
)
@click.option("-v", "--verbose", count=True, help="Say on standard error what the node does; -vv: say all.")
@click.option(
    "--log-level",
    type=click.Choice(("error", "warning", "info", "debug")),
    help="How much to log. [default: warning; info with -v or --log-file; debug with -vv]",
)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Log to this file, and warnings to standard error, too. Beyond 10 MB it begins anew; three old ones are kept.",
)
@click.option(
    "--log-format", type=click.Choice(("text", "json")), help="Log lines for people, or a JSON object a line."
)
@json_option
@click.pass_context
@guarded
def node(
    context: click.Context,
    listen: tuple[str, ...],
    peers: tuple[str, ...],
    announce: tuple[str, ...],
    relays: tuple[str, ...],
    bootstrap: tuple[str, ...],
    public: bool | None,
    mdns: bool | None,
    gateway: str | None,
    gateway_fetch: bool,
    pinning_service: str | None,
    lab: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    config_file: Path | None,
    init: bool,
    systemd: bool,
    verbose: int,
    log_level: Level | None,
    log_file: Path | None,
    log_format: Format | None,
    as_json: bool,
) -> None:
    """Serve what this machine has until stopped (Ctrl-C). Prints the peer ID and the addresses to give to others.

    Options go before the settings (KACHERY_CLOUD_..., node.toml, config.json); --peer and --relay add to them. Those
    that take a MULTIADDR may be repeated. On SIGHUP, or with `kachery-cloud-node reload`, settings are read again.

    \b
    Examples:
        kachery-cloud-node
        kachery-cloud-node --listen /ip4/0.0.0.0/tcp/4001
        kachery-cloud-node --no-public --relay /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...
        kachery-cloud-node --gateway
        kachery-cloud-node --pinning-service 127.0.0.1:8095
        kachery-cloud-node --lab
        kachery-cloud-node --log-file /var/log/kachery.log
        kachery-cloud-node --init
    """  # noqa: D301
    if context.invoked_subcommand is not None:
        return
    given = given_options(context, ("init", "systemd", "config_file", "as_json"))
    if init and given:
        raise click.UsageError(
            f"{given[0]} holds for the start that it is given to, and --init writes a file. Write the file first, and "
            "then the setting into it (node.toml in the data directory)."
        )
    if init:
        write_node_file(config_file)
        return
    from dataclasses import replace

    from kachery_cloud.auditing import visible_now
    from kachery_cloud.commands.status_text import apart_lines
    from kachery_cloud.errors import ConfigError
    from kachery_cloud.inventory_removal import room_hooks
    from kachery_cloud.node.log import reopen, set_level, start_log
    from kachery_cloud.node.reloading import ServiceHooks
    from kachery_cloud.node.serve import GatewayChoice, serve_forever
    from kachery_cloud.node.service import level_of
    from kachery_cloud.privacy import running_audience, sentence
    from kachery_cloud.settings.node_file import load_node_config
    from kachery_cloud.settings.values import DEFAULT_LAB, LISTENER, parse_bootstrap
    from kachery_cloud.uri import check_peer_address
    from kachery_p2p.http_address import DEFAULT_ADDRESS as DEFAULT_GATEWAY
    from kachery_p2p.pinning.server.limits import DEFAULT_ADDRESS

    def checked(addresses: tuple[str, ...], option: str) -> tuple[str, ...]:
        return tuple(check_peer_address(address, option) for address in addresses)

    def settled() -> Config:
        """The settings, and what the options say."""
        config, _ = load_node_config(config_file)
        changes: dict[str, Any] = {
            "relays": (*config.relays, *checked(relays, "--relay")),
            "peers": (*config.peers, *checked(peers, "--peer")),
        }
        if listen:
            changes["listen"] = checked(listen, "--listen")
        if announce:
            changes["announce"] = checked(announce, "--announce")
        if bootstrap:
            changes["bootstrap"] = parse_bootstrap(",".join(bootstrap), "--bootstrap")
        if public is not None:
            changes["public"] = public
        if mdns is not None:
            changes["mdns"] = mdns
        if gateway is not None:
            changes["gateway"] = LISTENER.read(gateway or DEFAULT_GATEWAY, "--gateway")
        if gateway_fetch:
            changes["gateway_fetch"] = True
        if pinning_service is not None:
            changes["pinning_service"] = LISTENER.read(pinning_service or DEFAULT_ADDRESS, "--pinning-service")
        if lab is not None:
            changes["lab"] = LISTENER.read(lab or DEFAULT_LAB, "--lab")
        if tls_cert is not None:
            changes.update(tls_cert=tls_cert, tls_key=tls_key)
        elif tls_key is not None:
            raise click.UsageError("--tls-key goes with --tls-cert, which is missing.")
        said = log_level or ("debug" if verbose > 1 else "info" if verbose else None)
        for name, value in (("log_level", said), ("log_file", log_file), ("log_format", log_format)):
            if value is not None:
                changes[name] = value
        config = replace(config, **changes)
        if config.lab is not None and config.pinning_service is not None:
            raise ConfigError(
                "The lab is a pinning service as well, at /pins of its address; leave pinning_service "
                "(--pinning-service) out."
            )
        return config

    if systemd and not given:
        click.echo(systemd_unit(config_file), nl=False)
        return
    config = settled()
    if gateway_fetch and config.gateway is None:
        raise click.UsageError("--gateway-fetch says what the gateway does: it needs --gateway.")
    if systemd:
        click.echo(systemd_unit(config_file, given), nl=False)
        return
    start_log(level_of(config), config.log_file, config.log_format)

    def log_as_said(config: Config) -> None:
        set_level(level_of(config))
        reopen()

    def ready(found: RunningNode) -> None:
        if as_json:
            from kachery_p2p.json_shapes import to_json

            click.echo(json.dumps(to_json(found)))
        else:
            click.echo(f"Serving {config.directory}")
            click.echo(f"Peer ID: {found.node.peer_id}")
            for address in found.node.addresses:
                click.echo(f"Address: {address}")
            if found.gateway is not None:
                click.echo(f"Gateway: {found.gateway.url}")
            if found.lab is not None:
                click.echo(f"Lab: {found.lab}")
                click.echo("To let somebody in: kachery-cloud-node members invite NAME")
            elif found.pinning_service is not None:
                click.echo(f"Pinning service: {found.pinning_service}")
                click.echo("To let somebody pin here: kachery-cloud-node tokens add NAME")
            for line in (sentence(running_audience(found.node.discovery)), *apart_lines(visible_now(config)[0])):
                click.echo(line)
            click.echo("Others load from here with: kachery-cloud-load URI     (stop with Ctrl-C)")
            click.echo("To give something to somebody: kachery-cloud share URI")
        sys.stdout.flush()

    serve_forever(
        config,
        listen=config.listen,
        gateway=None if config.gateway is None else GatewayChoice(config.gateway, config.gateway_fetch),
        on_ready=ready,
        hooks=ServiceHooks(settled, log_as_said, room_hooks(config)),
    )


for each in (reload, tokens, members, clients, doctor):
    node.add_command(each)

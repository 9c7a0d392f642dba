"""`kachery-cloud doctor` and `kachery-cloud-node doctor`: what is wrong with a set-up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import command, json_option

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts

#: What is wrong is said with this code: nothing else has failed.
WRONG = 1


@command("doctor")
@json_option
def doctor(as_json: bool) -> None:
    """Look at the whole set-up, and say in sentences what is wrong, why it matters, and what to do about it.

    Works while a node runs, and where none can start. Nothing is changed; services and peers that the settings name are
    asked, public ones only where the setting `public` is on. Ends with exit code 1 when something is wrong. Options of
    the node may stand before it: kachery-cloud-node --pinning-service 0.0.0.0:8095 doctor

    \b
    Examples:
        kachery-cloud doctor
        kachery-cloud-node doctor --json
    """  # noqa: D301
    import trio

    from kachery_cloud.doctor.examine import examine
    from kachery_cloud.doctor.text import is_well, lines, to_json
    from kachery_p2p.descriptors import raise_soft_limit

    raise_soft_limit()  # as the node does
    parent = click.get_current_context().parent
    facts = _facts(parent.params if parent is not None else {})
    outcomes = trio.run(examine, facts, strict_exception_groups=True)
    if as_json:
        click.echo(json.dumps(to_json(outcomes)))
    else:
        for line in lines(outcomes):
            click.echo(line)
    if not is_well(outcomes):
        raise click.exceptions.Exit(WRONG)


def _facts(given: dict[str, Any]) -> Facts:
    """Settings, and the options of `kachery-cloud-node` where they stand before the command."""
    from dataclasses import replace

    from kachery_cloud.doctor.facts import Options, gather
    from kachery_cloud.settings.values import LISTENER
    from kachery_p2p.pinning.server.limits import DEFAULT_ADDRESS

    options = Options(given.get("listen") or (), given.get("peers") or (), given.get("gateway"))
    facts = gather(options=options)
    config = facts.config
    changes: dict[str, Any] = {}
    for name in ("public", "mdns", "tls_cert", "tls_key"):
        if given.get(name) is not None:
            changes[name] = given[name]
    for name in ("relays", "announce"):
        if given.get(name):
            changes[name] = (*getattr(config, name), *given[name])
    for name, option in (("pinning_service", "--pinning-service"), ("lab", "--lab")):
        if given.get(name) is not None:
            changes[name] = LISTENER.read(given[name] or DEFAULT_ADDRESS, option)
    return replace(facts, settings=replace(facts.settings, config=replace(config, **changes)))

"""The commands that give a URI for a file or directory: `store` and `link`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.encryption import encrypt_choice, encrypting_options
from kachery_cloud.commands.support import (
    Function,
    Stopped,
    command,
    json_option,
    privacy_said_once,
    project_option,
    to_option,
    verbose_option,
)
from kachery_cloud.errors import FileMissing, IsADirectory

if TYPE_CHECKING:
    from kachery_cloud.privacy import AnnouncedTo
    from kachery_cloud.settings.config import Config
    from kachery_cloud.uri import ContentURI
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.repo.small import Stored

#: What became of the work after Ctrl-C.
STORE_INTERRUPTED = "Interrupted. Run the command again to store it: what is stored already is not stored twice."

_label_option = click.option("--label", metavar="TEXT", help="A note for people, and a name for copies, in the URI.")
_share_option = click.option(
    "--share", "shared", is_flag=True, help="Print what the share command prints of it: one string to give away."
)
_profile_option = click.option(
    "--profile",
    metavar="NAME",
    help="Rules that decide the CID: unixfs-v1-2025 (the default), unixfs-v0-2015 (CIDs that begin with Qm), or "
    "random-16k, for data of which small parts are read here and there over the network.",
)


_ANNOUNCED: dict[AnnouncedTo, str] = {
    "world": "It is announced to the whole world.",
    "lab": "It is announced to the holders of the swarm key.",
    "lan": "It is announced to the local network, and to nobody else.",
    "nobody": "It is announced to nobody: give the URI away with kachery-cloud share.",
}


def _what_is_stored(function: Function) -> Function:
    for option in (
        click.option("--rehash", is_flag=True, help="Read files, too, that have not changed since they were stored."),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            help="Leave that out of a directory, as in .gitignore: '*.tmp', '/build/'. May be given several times.",
        ),
        click.option("--preserve", is_flag=True, help="Store permissions and times of what is in a directory, too."),
        click.option("--follow", is_flag=True, help="Store what symbolic links in a directory point to."),
    ):
        function = option(function)
    return function


def _pinning(function: Function) -> Function:
    for option in (
        click.option(
            "--wait/--no-wait",
            default=True,
            help="Wait until it is pinned (the default; Ctrl-C loses nothing), or only write down that it is to be.",
        ),
        click.option(
            "--service", "services", multiple=True, metavar="NAME", help="Pin it there. May be given several times."
        ),
        click.option("--pin/--no-pin", default=None, help="Pin it at the default pinning services, or at none."),
    ):
        function = option(function)
    return function


@command("store", STORE_INTERRUPTED)
@click.argument("paths", type=click.Path(), nargs=-1, required=True, metavar="PATH...")
@click.option("-r", "--recursive", is_flag=True, help="Store a directory with all that is in it.")
@_what_is_stored
@to_option
@project_option
@_label_option
@_profile_option
@_share_option
@encrypting_options
@_pinning
@verbose_option
@json_option
def store(paths: tuple[str, ...], **options: Any) -> None:
    """Store copies of files (or directories, with -r) and print their URIs, one a line.

    The same bytes have the same URI everywhere. To share a large file without a copy, see the link command. A file that
    has not changed since it was stored is not read again. PATH may be - for standard input.

    Of a directory, hidden files and empty folders are stored, too. What is named in a file .kacheryignore in it, in the
    way of .gitignore, is left out. Symbolic links that may lead out of it are an error; see --follow.

    \b
    Examples:
        kachery-cloud-store session.nwb
        kachery-cloud-store -r experiment/ --label "mouse 12"
        kachery-cloud-store -r experiment/ --exclude '*.tmp' --exclude /scratch/
        kachery-cloud-store session.nwb --share
        kachery-cloud-store session.nwb --to private
        kachery-cloud-store session.nwb --project atlas
        kachery-cloud-store session.nwb --encrypt
        kachery-cloud-store session.nwb --service filebase
        gzip -c session.nwb | kachery-cloud-store -
    """  # noqa: D301
    said = ("encrypted", "encrypt_to", "with_passphrase", "deterministic")
    _store(paths, linked=False, encryption={name: options.pop(name) for name in said}, **options)


@command("link", STORE_INTERRUPTED)
@click.argument("paths", type=click.Path(), nargs=-1, required=True, metavar="PATH...")
@click.option("-r", "--recursive", is_flag=True, help="Link a directory with all that is in it.")
@_what_is_stored
@to_option
@project_option
@_label_option
@_profile_option
@_share_option
@_pinning
@verbose_option
@json_option
def link(paths: tuple[str, ...], **options: Any) -> None:
    """Share files from where they lie, without a copy, and print their URIs, one a line.

    A file must stay as it is: when it changes it is no longer served. One that has not changed since it was linked is
    not read again. Directories are taken as by the store command.

    \b
    Example:
        kachery-cloud-link /data/raw_200GB.bin
    """  # noqa: D301
    _store(paths, linked=True, **options)


def _store(
    paths: tuple[str, ...],
    *,
    recursive: bool,
    follow: bool,
    exclude: tuple[str, ...],
    preserve: bool,
    rehash: bool,
    to: tuple[str, ...],
    project: str | None,
    label: str | None,
    profile: str | None,
    shared: bool,
    pin: bool | None,
    services: tuple[str, ...],
    wait: bool,
    verbose: bool,
    as_json: bool,
    linked: bool,
    encryption: dict[str, Any] | None = None,
) -> None:
    from kachery_cloud.audiences import (
        audience_here,
        audience_in,
        audience_now,
        encrypted_news,
        news,
        uri_groups,
        words_here,
    )
    from kachery_cloud.local import repository
    from kachery_cloud.node.connection import tell_running_node
    from kachery_cloud.pinning import make_plan, place_of, record_stored, wake_node
    from kachery_cloud.putting import folder_options, put_directory, put_file, put_stream, recipients_of
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import AGE, ContentURI, check_label
    from kachery_p2p.access.audience import PUBLIC

    check_label(label)
    if services and pin is False:
        raise click.UsageError("--service says where to pin it, and --no-pin not to.")
    _check_paths(paths, recursive, label, linked, folders_alone=bool(follow or exclude or preserve))
    config = load_config()
    place = place_of(config, project)
    audience = audience_in(config, to or None, place)
    plan = make_plan(config, services or pin, place=place)
    recipients = recipients_of(config, encrypt_choice(**encryption) if encryption else None, audience)
    options = folder_options(link=linked, follow=follow, exclude=exclude, preserve=preserve, rehash=rehash)
    results: list[dict[str, Any]] = []
    given = now = PUBLIC
    waiting: list[tuple[Stored, str, dict[str, Any], list[str]]] = []
    try:
        for path in paths:
            with privacy_said_once(as_json, audience):
                more: dict[str, Any] = {"profile": profile, "plan": plan, "label": label, "audience": audience}
                more["recipients"] = recipients
                if path == "-":
                    stored = put_stream(config, sys.stdin.buffer, **more)
                elif os.path.isdir(path):
                    stored = put_directory(config, path, options, verbose=verbose, **more)
                else:
                    stored = put_file(config, path, linked=linked, verbose=verbose, rehash=rehash, **more)
            name = label or ("" if path == "-" else os.path.basename(os.path.abspath(path)))
            pinned_at = record_stored(config, plan, stored, name)
            # This process ends at once, so it does not become the node; one that runs is told.
            served = tell_running_node(config, stored.cid)
            given = audience_here(repository(config), stored.cid)
            now = audience_now(repository(config), stored.cid, given)
            how = None if recipients is None else AGE
            uri = ContentURI(str(stored.cid), label=label, groups=uri_groups(given), encryption=how)
            found: dict[str, Any] = {
                "uri": str(uri),
                "cid": str(stored.cid),
                "size": stored.size,
                "path": str(stored.path),
                "served": served,
                "visibility": words_here(config, given),
            }
            results.append(found)
            text, said = _share(config, uri, name, found, as_json) if shared else (uri.pasteable, "")
            if pinned_at:
                waiting.append((stored, text, found, pinned_at))
            elif not as_json:
                click.echo(text)
                sys.stdout.flush()  # the next one may take long
            if not as_json and (told := news(config, stored.cid, audience)) and told != said:
                click.echo(told, err=True)
            if not as_json and (told := encrypted_news(config, stored.cid, recipients)):
                click.echo(told, err=True)
    except KeyboardInterrupt:
        if not as_json:
            for _, text, _, _ in waiting:
                click.echo(text)
        raise Stopped(STORE_INTERRUPTED, stored=results) from None
    code = 0
    if waiting:
        from kachery_cloud.commands.pins import finish_store

        wake_node(config)
        for stored, text, found, pinned_at in waiting:
            code = finish_store(config, stored.cid, text, found, pinned_at, wait, as_json) or code
    if as_json:
        click.echo(json.dumps(results if len(paths) > 1 else results[0]))
    elif not waiting and not shared and sys.stderr.isatty():
        _say_who_can_load(config, results[-1]["served"], given, now)
    if code:
        raise click.exceptions.Exit(code)


def _share(config: Config, uri: ContentURI, name: str, found: dict[str, Any], as_json: bool) -> tuple[str, str]:
    """The string to give away, which `found` gets, too, and what was said of who can load it; all that on stderr."""
    from kachery_cloud.commands.sharing import say_how_to_get, share_values
    from kachery_cloud.sharing import make_share, running_node

    given = make_share(config, str(uri), label=name, running=lambda: running_node(config))
    found["share"] = share_values(given)
    if not as_json:
        say_how_to_get(given)
    return given.string, given.said


def _check_paths(
    paths: tuple[str, ...], recursive: bool, label: str | None, linked: bool, *, folders_alone: bool
) -> None:
    """See that what was given goes together, before anything is stored.

    Raises:
        click.UsageError: it does not.
        IsADirectory: a directory is to be stored, but not with all that is in it.
        FileMissing: there is no such file.
    """
    if label is not None and len(paths) > 1:
        raise click.UsageError("--label is the name of one thing, and there are several. Store them one by one.")
    if linked and "-" in paths:
        raise click.UsageError("Standard input is no file that could be linked. Store it: kachery-cloud-store -")
    if paths.count("-") > 1:
        raise click.UsageError("Standard input can be read once.")
    if folders_alone and not recursive:
        raise click.UsageError("--follow, --exclude and --preserve are about directories. Add --recursive (-r).")
    for path in paths:
        if path == "-":
            continue
        if os.path.isdir(path) and not recursive:
            raise IsADirectory(f"{path} is a directory. Add --recursive (-r) to take it with all that is in it.")
        if len(paths) > 1:
            from kachery_cloud.putting import checked_path

            if not os.path.lexists(checked_path(path)):
                raise FileMissing(f"There is no {path}. Nothing was stored.")


def _say_who_can_load(config: Config, served: bool, given: Audience, now: Audience) -> None:
    """Whether those who may can load what was stored now, and to whom it is announced.

    Args:
        config: the settings.
        served: whether a node has it.
        given: for whom it is by itself.
        now: who can load it, because something else has it as well.
    """
    from kachery_cloud.privacy import running_audience
    from kachery_cloud.sharing import reachable_now, running_node

    node = running_node(config) if served else None
    click.echo(reachable_now(node, now).sentence, err=True)
    if node is not None and given.everyone:
        click.echo(_ANNOUNCED[running_audience(node.node.discovery)], err=True)

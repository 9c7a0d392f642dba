"""The commands that take a URI and give what it names: `load`, `cat`, `ls` and `info`."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import replace
from functools import wraps
from typing import Any

import click

from kachery_cloud.commands.support import Function, command, json_option, print_path, print_result, verbose_option
from kachery_cloud.errors import FileExists, FileMissing, InvalidName, IsADirectory
from kachery_p2p.text import printable

#: What became of the work after Ctrl-C.
LOAD_INTERRUPTED = "Interrupted. What has arrived is kept, and is not fetched again."


def loading_options(function: Function) -> Function:
    """The options of every command that loads. `--group` comes to the function as a part of its URI."""

    @wraps(function)
    def loading(*, groups: tuple[str, ...] = (), **given: Any) -> object:
        if groups:
            name = "string" if "string" in given else "uri"
            given[name] = _for_groups(given[name], groups)
        return function(**given)

    decorated: Function = loading
    for option in (
        click.option(
            "--group",
            "groups",
            multiple=True,
            metavar="NAME",
            help="Load it from members of this group alone: nobody else hears of it. May be given several times; "
            "private: from your own machines alone.",
        ),
        click.option(
            "--timeout", type=float, metavar="SECONDS", help="Give up when nothing arrives for so long. [default: 60]"
        ),
        click.option("--local-only", is_flag=True, help="Use what is on this machine; do not use the network."),
        click.option(
            "--peer",
            "peers",
            multiple=True,
            metavar="MULTIADDR",
            help="Ask this peer, e.g. /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW... May be given several times.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def _for_groups(uri: str, names: tuple[str, ...]) -> str:
    from kachery_cloud.audiences import chosen, uri_groups
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import with_groups

    if "public" in names:
        raise click.UsageError("--group takes the name or ID of a group, or private; everybody is asked without it.")
    return with_groups(uri, uri_groups(chosen(load_config(), names)))


@command("load", LOAD_INTERRUPTED)
@click.argument("uri")
@click.option(
    "--dest",
    type=click.Path(),
    metavar="PATH",
    help="Put a copy there: the name of it, or a folder (a directory: make it there).",
)
@click.option("--force", is_flag=True, help="Let --dest replace a file that it names whole, or files in a directory.")
@click.option("--delete", is_flag=True, help="Delete what is in --dest and not in the directory that is loaded.")
@loading_options
@verbose_option
@json_option
def load(
    uri: str,
    dest: str | None,
    force: bool,
    delete: bool,
    peers: tuple[str, ...],
    local_only: bool,
    timeout: float | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Load a file and print the path of the local copy, which ends in its name. A directory needs --dest.

    To have it in the current folder, see the get command. A file that is there is not replaced, unless it is the same,
    or --force is given. Where --dest is a folder, the name comes from whoever made the URI: then nothing is replaced,
    and hidden files and the like are refused.

    A directory goes into --dest itself. Where that is a folder with something in it, only what differs is written; with
    --force also over files that are there. What is not in the directory stays, or goes with --delete.

    \b
    Examples:
        kachery-cloud-load ipfs://bafy...
        kachery-cloud-load ipfs://bafy... --peer /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW...
        kachery-cloud-load ipfs://bafy.../notes/readme.txt --dest readme.txt
    """  # noqa: D301
    from kachery_cloud.load import load_dir, load_file, load_file_info, takes_directory
    from kachery_cloud.uri import parse_name_uri, parse_uri, without_key

    if delete and dest is None:
        raise click.UsageError("--delete is about what is in --dest, which is not given.")
    begun = time.monotonic()
    more: dict[str, Any] = {"local_only": local_only, "providers": peers, "timeout": timeout}
    done: dict[str, Any] = {}
    try:
        path: str = load_file(uri, dest=dest, overwrite=force, verbose=verbose, **more)
    except (IsADirectory, FileExists, FileMissing, InvalidName) as error:
        # The destination may not suit a file because a directory is meant, which has other rules.
        file_meant = not isinstance(error, IsADirectory)
        if file_meant and not (takes_directory(dest) and load_file_info(uri, **more)["kind"] == "directory"):
            raise
        if dest is None:
            if parse_name_uri(uri):
                one = uri.partition("#")[0].partition("?")[0].rstrip("/") + "/NAME"
            else:
                parsed = parse_uri(uri)
                one = replace(parsed, path=(*parsed.path, "NAME")).source
            raise IsADirectory(
                f"{without_key(uri)} is a directory. Say with --dest where to make it, or load one file: {one}."
            ) from error
        path = loaded = load_dir(uri, dest, overwrite=force, delete=delete, verbose=verbose, **more)
        done = {"written": loaded.written, "removed": loaded.removed, "skipped": loaded.skipped}
    size = os.path.getsize(path) if os.path.isfile(path) else None
    if as_json:
        print_result(
            True, "", path=path, uri=without_key(uri), size=size, seconds=round(time.monotonic() - begun, 3), **done
        )
    else:
        print_path(path)
        if dest is not None:
            say_nameless(path, dest)


def say_nameless(path: str, dest: str) -> None:
    """Say why a copy in a folder has no better name than its CID, where that is so."""
    from kachery_cloud.errors import InvalidCID, UnsupportedCID
    from kachery_p2p.dag.cid import CID

    name = os.path.basename(path)
    with contextlib.suppress(InvalidCID, UnsupportedCID):
        CID.parse(name)
        if name != os.path.basename(dest):
            where = os.path.join(dest, "NAME")
            click.echo(f"The URI gives it no name, so that is its CID. To choose one: --dest {where}", err=True)


@command("cat", LOAD_INTERRUPTED)
@click.argument("uri")
@click.option("--start", type=int, metavar="N", help="The first byte, from 0; from the end where negative.")
@click.option("--end", type=int, metavar="N", help="One past the last byte.")
@loading_options
def cat(
    uri: str, start: int | None, end: int | None, peers: tuple[str, ...], local_only: bool, timeout: float | None
) -> None:
    """Write a file, of any size, to standard output.

    \b
    Examples:
        kachery-cloud-cat ipfs://bafy... | head
        kachery-cloud-cat ipfs://bafy... --start 0 --end 128 | xxd
    """  # noqa: D301
    from kachery_cloud.load import cat_file

    cat_file(uri, start=start, end=end, local_only=local_only, providers=peers, timeout=timeout)


@command("ls", LOAD_INTERRUPTED)
@click.argument("uri", required=False)
@click.option("--tree", is_flag=True, help="Also what is in the folders in it.")
@loading_options
@json_option
def ls(
    uri: str | None, tree: bool, peers: tuple[str, ...], local_only: bool, timeout: float | None, as_json: bool
) -> None:
    """List a folder: size and name of each entry. Folders end with / and have the size of all files in them.

    Nothing is fetched to find out sizes: where what is here does not tell one, it is about what the folder states, a
    little more than the contents. Links end with @ and where they point. Of a file, one line is shown.

    Without a URI it lists what is on this machine, as the list command does.

    \b
    Examples:
        kachery-cloud ls ipfs://bafy.../notes
        kachery-cloud ls --tree ipfs://bafy.../notes
    """  # noqa: D301
    if uri is None:
        from kachery_cloud.commands.inventory import list as what_is_here

        if tree or local_only or peers or timeout is not None:
            raise click.UsageError("These options are about a folder: give its URI. Without one, ls takes --json.")
        click.get_current_context().invoke(what_is_here, as_json=as_json)
        return
    from kachery_cloud.inventory_tree import entries
    from kachery_cloud.uri import without_key
    from kachery_p2p.json_shapes import to_json

    found = list(entries(uri, tree=tree, local_only=local_only, providers=peers, timeout=timeout))
    if as_json:
        click.echo(json.dumps({"uri": without_key(uri), "entries": [to_json(entry) for entry in found]}))
        return
    width = max((len(_size_text(entry.size, entry.dag_size)) for entry in found), default=0)
    for entry in found:
        end = {"directory": "/", "link": "@"}.get(entry.kind or "", "")
        if entry.destination:
            end += f" -> {printable(entry.destination)}"
        size = _size_text(entry.size, entry.dag_size)
        click.echo(f"{size:>{width}}  {'  ' * entry.depth}{printable(entry.name)}{end}")


@command("info", LOAD_INTERRUPTED)
@click.argument("uri")
@loading_options
@json_option
def info(uri: str, peers: tuple[str, ...], local_only: bool, timeout: float | None, as_json: bool) -> None:
    """Say what a URI is: file or directory, how large, whether it is here, and since when, why and where else.

    \b
    Example:
        kachery-cloud info ipfs://bafy...
    """  # noqa: D301
    from kachery_cloud.load import load_file_info

    found = load_file_info(uri, local_only=local_only, providers=peers, timeout=timeout)
    if as_json:
        click.echo(json.dumps(found))
        return
    from kachery_cloud.inventory_tables import time_text
    from kachery_cloud.uri import parse_uri

    shown = {
        # It may be copied into a shell.
        "uri": parse_uri(found["uri"]).pasteable if found["cid"] else found["uri"],
        "link to": found["destination"],
        **{key: found.get(key) for key in ("cid", "kind", "encryption")},
        "size": None
        if found["size"] is None and found["dag_size"] is None
        else f"{_size_text(found['size'], found['dag_size'])} bytes",
        **{key: found[key] for key in ("label", "local", "path", "shared")},
        "kept": found.get("kept"),
        "labels": ", ".join(label for label in found.get("labels", ()) if label != found["label"]) or None,
        "problem": found.get("problem") or None,
        **{key: time_text(found[key]) for key in ("added", "used") if key in found},
        "for": None
        if found.get("visibility", ["public"]) == ["public"]
        else ", ".join(found["visibility"]) or "nobody else",
        "pinned": ", ".join(f"{each['service']} ({each['state']})" for each in found.get("pinned", ())) or None,
    }
    for key, value in shown.items():
        if value is not None:
            text = "yes" if value is True else "no" if value is False else printable(str(value))
            click.echo(f"{key + ':':<8} {text}")


def _size_text(size: int | None, dag_size: int | None) -> str:
    """The size of contents; where that is not known, about what all their blocks take."""
    if size is not None:
        return f"{size:,}"
    return "?" if dag_size is None else f"about {dag_size:,}"

"""Links under which a figure can be seen: at a node's gateway, or with a viewer that the figure brings with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_cloud.arguments import check_flags
from kachery_cloud.errors import (
    FormatError,
    InvalidArgument,
    InvalidURI,
    IsADirectory,
    NodeError,
    NotADirectory,
    PathNotFound,
)
from kachery_cloud.figures.document import DOCUMENT, Document, TableFile, read_document
from kachery_cloud.figures.making import DATA, Content, Figure
from kachery_cloud.figures.storing import UNTITLED, folder_of
from kachery_cloud.figures.values import ARRAYS
from kachery_cloud.figures.viewer import PATH, viewer_files
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import format_uri, join, parse_uri
from kachery_p2p.text import shown
from kachery_p2p.urls import BadURL, base_url

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config


def figure_link(uri: str, *, gateway: str | None = None, self_contained: bool = False) -> str:
    """A link to see a figure in a browser.

    Args:
        uri: of the figure: what `store_figure` gave, or of a JSON file in the format of `docs/figures.md`.
        gateway: where the link leads, such as `http://192.168.1.7:8090`: a gateway of a node of kachery-cloud;
            with `self_contained` any IPFS gateway. Without it, the gateway of the node that runs here, or else that of
            the lab's node that this machine is registered with, which shows what is for everybody and is there.
        self_contained: store the viewer and all data of the figure in one folder, and give the URI of that, which
            every gateway shows as a web page; with `gateway` the link to it there.

    Raises:
        NodeError: no node with a gateway runs here, the lab's names none, and none is given.
        FormatError: it is no figure; found out where it is looked into, with `self_contained`.
        InvalidURI: `uri` or `gateway` is none.
        KacheryError: with `self_contained`, as `load_file` and `store_dir`.

    Example:
        >>> link = kcl.figure_link("ipfs://bafy...", gateway="http://127.0.0.1:8090")
    """
    check_flags(self_contained=self_contained)
    config = load_config()
    found = parse_uri(uri)
    if self_contained:
        made = parse_uri(_bring_viewer(config, uri))
        if gateway is None:
            return str(made)
        return f"{_base(gateway)}/ipfs/{made.cid}/"
    base = running_gateway(config) if gateway is None else _base(gateway)
    # Behind the mark, so that it is in no log of a server.
    return f"{base}{PATH}#{format_uri(found.cid, found.path)}"


def _base(url: Any) -> str:
    if not isinstance(url, str):
        raise InvalidArgument(f"gateway is {shown(url)}; it must be a URL, such as http://127.0.0.1:8090.")
    try:
        return base_url(url).rstrip("/")
    except BadURL:
        raise InvalidURI(f"{shown(url)} is not the URL of a gateway, such as http://127.0.0.1:8090.") from None


def running_gateway(config: Config) -> str:
    """The URL of the gateway of the node that runs here, or else of the lab's node.

    Raises:
        NodeError: there is none.
    """
    from kachery_cloud.lab_client import registered_labs
    from kachery_cloud.sharing import running_node

    node = running_node(config)
    if node is None or node.gateway is None:
        for lab in registered_labs(config).values():
            if lab.gateway:
                return lab.gateway
        what = "No node runs here" if node is None else "The node that runs here serves no gateway"
        raise NodeError(
            f"{what}, so there is no viewer to link to. Start one: kachery-cloud-node --gateway. Or name another "
            "node's gateway, or have the figure bring its viewer: figure_link(uri, self_contained=True)."
        )
    return node.gateway.url


def load_document(uri: str, **options: Any) -> tuple[Document, str]:
    """The document of a figure, and the URI of the folder to which its paths are relative; empty where there is none.

    Args:
        uri: of the folder, or of the document itself.
        options: as for `load_bytes`.

    Raises:
        FormatError: it is no figure.
        KacheryError: as `load_bytes`.
    """
    from kachery_cloud.load import load_bytes

    try:
        return read_document(load_bytes(join(uri, DOCUMENT), **options), uri), uri
    except (PathNotFound, NotADirectory):
        pass  # it is the document itself, or no figure
    parsed = parse_uri(uri)
    try:
        folder = str(replace(parsed, path=parsed.path[:-1])) if parsed.path else ""
        return read_document(load_bytes(uri, **options), uri), folder
    except IsADirectory:
        raise FormatError(f"{uri} is no figure: there is no {DOCUMENT} in it.") from None


def _bring_viewer(config: Config, uri: str) -> str:
    """Store a figure with its viewer and all its data in one folder; the URI."""
    from kachery_cloud.audiences import audience_here
    from kachery_cloud.local import BlockNotLocal, repository, resolve_local
    from kachery_cloud.store import store_dir
    from kachery_p2p.access.audience import OWN

    document, folder = load_document(uri)
    figure = _with_all_data(document, folder)
    files: dict[str, Content] = {**viewer_files(), DOCUMENT: figure.document.encode(), **figure.files}
    with folder_of(config, document.title or UNTITLED, files) as made:
        repo = repository(config)
        try:
            audience = audience_here(repo, resolve_local(repo, parse_uri(uri)))
        except BlockNotLocal:
            audience = None
        to: list[str] | None = None
        if audience is not None and not audience.everyone:
            to = ["private" if group == OWN else group for group in sorted(audience.groups)]
        return store_dir(made, follow=True, to=to)


def _with_all_data(document: Document, folder: str) -> Figure:
    """The same figure, with what it names by URIs as files of its own."""
    from kachery_cloud.load import load_file

    files: dict[str, Content] = {}
    moved: dict[str, str] = {}

    def bring(address: str, path: str) -> str:
        if address not in moved:
            moved[address] = path
            if not folder and not address.startswith("ipfs://"):
                raise FormatError(f"The figure draws {address!r}, and is in no folder where that could be.")
            files[path] = Path(load_file(address if address.startswith("ipfs://") else join(folder, address)))
        return moved[address]

    arrays = {
        name: replace(entry, uri=bring(entry.uri, f"{ARRAYS}/{name}.npy")) for name, entry in document.arrays.items()
    }
    data = {
        name: replace(table, uri=bring(table.uri, f"{DATA}/{name}.{table.type}"))
        if isinstance(table, TableFile)
        else table
        for name, table in document.data.items()
    }

    def inside(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: bring(each, f"{DATA}/file-{len(moved)}{_ending(each)}")
                if key in ("url", "source") and isinstance(each, str) and not each.startswith("data:")
                else inside(each)
                for key, each in value.items()
            }
        return [inside(each) for each in value] if isinstance(value, list) else value

    spec = inside(document.spec) if isinstance(document.spec, dict) else document.spec
    return Figure(replace(document, spec=spec, arrays=arrays, data=data), files)


def _ending(uri: str) -> str:
    name = uri.rpartition("/")[2]
    return "." + name.rpartition(".")[2] if "." in name and len(name.rpartition(".")[2]) <= 8 else ""

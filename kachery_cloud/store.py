"""Storing: bytes go into the data directory and get a URI.

Everything here writes locally first. Unless `local=True`, the node of the data directory is then started or joined in
the background, without waiting for it, and serves what was stored for as long as this process lives (or for good,
where `kachery-cloud-node` runs). What pinning services are to keep is written down at once; see `pins`. `pin`, `wait`
and `timeout` mean the same everywhere: as for `store_file`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, cast

from kachery_cloud.arguments import check_flags, checked_bytes
from kachery_cloud.audiences import audience_in, encrypted_news, news, stored_uri
from kachery_cloud.formats.values import check_array, check_json_style, json_bytes, text_bytes, write_npy
from kachery_cloud.local import repository
from kachery_cloud.pinning import make_plan, place_of, record_stored
from kachery_cloud.privacy import configured_audience, is_first, sentence
from kachery_cloud.progress import is_watched
from kachery_cloud.putting import (
    checked_path,
    folder_options,
    put_bytes,
    put_directory,
    put_file,
    put_stream,
    put_written,
    recipients_of,
)
from kachery_cloud.settings.config import load_config
from kachery_cloud.terminal import tell
from kachery_cloud.uri import AGE, check_label

if TYPE_CHECKING:
    import numpy as np

    from kachery_cloud.audiences import To
    from kachery_cloud.encryption.recipients import Encrypt, Recipients
    from kachery_cloud.pinning import Pin, Plan, Wait
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.profiles import Profile
    from kachery_p2p.repo.small import Stored
    from kachery_p2p.wire import Buffer


class _What(TypedDict):
    label: str | None
    audience: Audience | None
    recipients: Recipients | None


class _How(_What):
    plan: Plan


def store_file(
    filename: str | os.PathLike[str] | BinaryIO,
    *,
    label: str | None = None,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    cache_locally: bool = False,
    profile: str | Profile | None = None,
    rehash: bool = False,
    verbose: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a copy of a file and return its URI, `ipfs://<cid>`.

    The same bytes get the same URI on every machine. The copy lies in the data directory (`$KACHERY_CLOUD_DIR`); to
    share a large file without a copy use `link_file`. A file that was stored before and has not changed since is not
    read again: its size, times and inode tell.

    Args:
        filename: path of a regular file of any size; or a file that is open for reading bytes, such as
            `open(path, "rb")` or `io.BytesIO`, which is read from where it stands to its end.
        label: a note for people, appended to the URI as `?label=...`. In `list` it stands in place of the file's name.
        to: who may load it: the name or ID of a group whose members may, or a list of them; "private" for your own
            machines alone; "public" for everybody. Without it, what the setting `to` says; without that, everybody,
            or, for what is here already, those for whom it is. What is for groups has their IDs in its URI.
        project: the project of your lab that it goes into, by its name or ID: it is pinned at the lab's node, and for
            the project's members alone where the project is. Without it, what the setting `project` says; with "",
            none.
        encrypt: store an age v1 file of it (https://age-encryption.org): True for this machine's own key and the groups
            of `to`; or whom else it is for: "age1...", "ssh-ed25519 AAAA...", the path of a file of such lines, a list
            of these; or a `Passphrase`. The URI says so, and loading decrypts where a key is. The same bytes have
            another URI each time, but with "deterministic", which is for exactly one group.
        local: only store; do not start the node that serves it.
        cache_locally: accepted for older scripts; a stored file is always kept locally.
        profile: the rules by which the file becomes blocks: "unixfs-v1-2025" (the default), "unixfs-v0-2015",
            "random-16k" for data of which small parts are read here and there over the network, or a
            `kachery_p2p.dag.profiles.Profile`. Another profile gives another URI.
        rehash: read and hash it also where it has not changed, as its times say.
        verbose: say on stderr what is being done.
        pin: which pinning services are to keep it: the name of one, or several; True for the default ones; False for
            none. Without it, the default ones, if any are set up. It is written down before this returns, also with
            `local`, and carried out whenever a node runs here; see `pins`.
        wait: "pinned" to wait until these say that they have it, "verified" until a block came back from each.
        timeout: seconds to wait for them at most; without it there is no end to waiting.

    Raises:
        FileMissing, IsADirectory, NotAFile: there is no such file.
        InvalidArgument: it is open for text, or not for reading.
        GroupNotFound: this machine is in no group of that name.
        NoPermission, DiskFull: it cannot be read, or the copy cannot be written; or this machine may only read in the
            group that it is to be for; or it would be given to more people than have it now, and that was not said
            (`to="public"`), or is not this machine's to say.
        FileChanged: it changed while it was read.
        StoreTooLarge: the store would grow beyond the limit that you have set.
        PinTooLarge: it is more than may be sent to a service that was named.
        PinningError: with `wait`, as `wait_pinned`; it is stored then all the same.
        SignInError, ProjectNotFound: this machine is registered with no lab's node, or there is no such project.

    Example:
        >>> uri = kcl.store_file("/data/session.nwb", label="session.nwb")
        >>> uri
        'ipfs://bafybeih...?label=session.nwb'
    """
    asked = _prepare(label, to, project, encrypt, local, pin, wait, timeout, verbose=verbose, rehash=rehash)
    if hasattr(filename, "read") and not isinstance(filename, os.PathLike):
        return asked.finish(put_stream(asked.config, cast(BinaryIO, filename), profile=profile, **asked.how))
    path = checked_path(cast("str | os.PathLike[str]", filename))
    stored = put_file(asked.config, path, profile=profile, verbose=verbose, rehash=rehash, **asked.how)
    return asked.finish(stored, path.name)


def link_file(
    filename: str | os.PathLike[str],
    *,
    label: str | None = None,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    profile: str | Profile | None = None,
    rehash: bool = False,
    verbose: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Like `store_file`, but the file stays where it is and is served from there: no copy, no disk space.

    The file must stay unchanged for as long as it is to be served. If it changes, it is no longer served (its URI
    means the old bytes), and loading it here raises `DamagedFile`; link it again for a new URI.

    Example:
        >>> uri = kcl.link_file("/data/raw_200GB.bin")
    """
    asked = _prepare(label, to, project, encrypt, local, pin, wait, timeout, verbose=verbose, rehash=rehash)
    stored = put_file(asked.config, filename, linked=True, profile=profile, verbose=verbose, rehash=rehash, **asked.how)
    return asked.finish(stored, Path(filename).name)


def store_dir(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    link: bool = False,
    follow: bool = False,
    exclude: Sequence[str] = (),
    preserve: bool = False,
    rehash: bool = False,
    profile: str | Profile | None = None,
    verbose: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a folder with all that is in it. Its files can be loaded one by one; see `join`.

    Hidden files and empty folders are stored, too. Symbolic links that stay in the folder are kept. What a file
    `.kacheryignore` in it names, in the way of `.gitignore`, is left out. Files that were stored before and have not
    changed since are not read again.

    Args:
        path: the folder.
        label: as for `store_file`.
        to: as for `store_file`.
        project: as for `store_file`.
        encrypt: as for `store_file`.
        local: as for `store_file`.
        link: serve the files from where they lie instead of copying them.
        follow: store what symbolic links point to, in their place. Without it, one that may lead out of the folder is
            an error that names it.
        exclude: patterns of what is left out, as in `.gitignore`: `["*.tmp", "/build/"]`.
        preserve: store permissions and times of modification, too, which `load_dir` then restores. The URI is another,
            and files with the same content share no URI.
        rehash: as for `store_file`, of all files.
        profile: as for `store_file`.
        verbose: as for `store_file`.
        pin: as for `store_file`.
        wait: as for `store_file`.
        timeout: as for `store_file`.

    Raises:
        FileMissing, NotADirectory: there is no such folder.
        InvalidName: a file name is not UTF-8, a symbolic link leads elsewhere, or a pattern is none; and what
            `store_file` raises.

    Example:
        >>> uri = kcl.store_dir("/data/experiment")
        >>> kcl.load_text(kcl.join(uri, "notes/readme.txt"))
    """
    options = folder_options(link=link, follow=follow, exclude=exclude, preserve=preserve, rehash=rehash)
    asked = _prepare(label, to, project, encrypt, local, pin, wait, timeout, verbose=verbose)
    stored = put_directory(asked.config, path, options, profile=profile, verbose=verbose, **asked.how)
    return asked.finish(stored, Path(path).name)


def store_bytes(
    data: Buffer,
    *,
    label: str | None = None,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store bytes and return their URI, which is that of a file with these bytes.

    Args:
        data: bytes, bytearray, memoryview, or what else gives its bytes as they lie in memory.
        label: as for `store_file`.
        to: as for `store_file`.
        project: as for `store_file`.
        encrypt: as for `store_file`.
        local: as for `store_file`.
        pin: as for `store_file`.
        wait: as for `store_file`.
        timeout: as for `store_file`.

    Raises:
        InvalidArgument: it is text, or something else that is no bytes; and what `store_file` raises.

    Example:
        >>> kcl.store_bytes(b"example text")
        'ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu'
    """
    return _bytes(checked_bytes(data), label, to, project, encrypt, local, pin, wait, timeout)


def store_text(
    text: str,
    label: str | None = None,
    *,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store text as UTF-8 and return its URI.

    Raises:
        NotSerializable: not a str, or with half surrogates.

    Example:
        >>> kcl.store_text("example text")
        'ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu'
    """
    return _bytes(text_bytes(text), label, to, project, encrypt, local, pin, wait, timeout)


def store_json(
    value: Any,
    *,
    label: str | None = None,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
    separators: tuple[str, str] | None = None,
    indent: int | str | None = None,
) -> str:
    """Store a value as JSON with sorted keys and no blanks, and return its URI.

    Dicts, lists, text, numbers, booleans and None. Tuples become lists; keys that are numbers become text.

    Args:
        value: what is to be stored.
        label: as for `store_file`.
        to: as for `store_file`.
        project: as for `store_file`.
        encrypt: as for `store_file`.
        local: as for `store_file`.
        cache_locally: as for `store_file`.
        pin: as for `store_file`.
        wait: as for `store_file`.
        timeout: as for `store_file`.
        separators: accepted for older scripts, as `(",", ":")`: equal values have one URI, so they are written in one
            way.
        indent: the same, as None.

    Raises:
        NotSerializable: NaN or infinity, numpy values, bytes, sets, dates ...; says where in the value.
        InvalidArgument: it is to be written in another way; and what `store_file` raises.

    Example:
        >>> kcl.store_json({"example": "dict"})
        'ipfs://bafkreig3edwqihmsm2o7kts6v4cpvtfs66olgonclogykndsu4v7ordox4'
    """
    check_json_style(separators, indent)
    return _bytes(json_bytes(value), label, to, project, encrypt, local, pin, wait, timeout)


def store_npy(
    array: np.ndarray[Any, Any],
    label: str | None = None,
    *,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a numpy array as an npy file, as `numpy.save` writes it, and return its URI.

    Raises:
        NotSerializable: arrays of Python objects, masked arrays, and what is no array: paths, text, bytes, tables.

    Example:
        >>> uri = kcl.store_npy(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16))
    """
    asked = _prepare(label, to, project, encrypt, local, pin, wait, timeout)
    checked = check_array(array)
    return asked.finish(put_written(asked.config, lambda file: write_npy(file, checked), **asked.what))


def store_pkl(
    value: Any,
    label: str | None = None,
    *,
    to: To | None = None,
    project: str | None = None,
    encrypt: Encrypt = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a Python value as a pickle and return its URI. Equal values give equal bytes under every version.

    Only plain data is written (see `kachery_cloud.formats.pickling` for the list and the rules), so that those who
    load it run no code of yours: numbers, text, bytes, lists, tuples, dicts, sets, dates, Decimal, Fraction, UUID,
    numpy arrays and scalars.

    Raises:
        NotSerializable: a value of another type; names it and its place.

    Example:
        >>> uri = kcl.store_pkl({"example": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)})
    """
    from kachery_cloud.formats.pickling import dump_pickle

    asked = _prepare(label, to, project, encrypt, local, pin, wait, timeout)
    return asked.finish(put_written(asked.config, lambda file: dump_pickle(value, file), **asked.what))


# --- parts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What a call says beside the data: how it is to be stored, and what is to be done then."""

    config: Config
    plan: Plan
    label: str | None
    audience: Audience | None
    recipients: Recipients | None
    local: bool

    @property
    def what(self) -> _What:
        """For whom it is, and what it is called."""
        return {"label": self.label, "audience": self.audience, "recipients": self.recipients}

    @property
    def how(self) -> _How:
        """The same, and where it is to be pinned."""
        return {"plan": self.plan, **self.what}

    def _news(self, stored: Stored) -> Iterator[str]:
        """What is to be known of who can load it, and who can read it."""
        if told := news(self.config, stored.cid, self.audience):
            yield told
        if told := encrypted_news(self.config, stored.cid, self.recipients):
            yield told

    def finish(self, stored: Stored, name: str = "") -> str:
        """Write down what is to be pinned, have the node serve what was stored, and wait if that was asked for."""
        config, plan = self.config, self.plan
        recorded = record_stored(config, plan, stored, self.label or name)
        if not self.local:
            from kachery_cloud.node.connection import announce_in_background

            announce_in_background(config, stored.cid, pins_changed=bool(recorded))
        if is_watched():
            for told in self._news(stored):
                tell(told)
        if plan.wait:
            plan.wait_for(config, stored.cid)
        return stored_uri(repository(config), stored.cid, self.label, AGE if self.recipients else None)


def _prepare(
    label: str | None,
    to: To | None,
    project: str | None,
    encrypt: Encrypt,
    local: bool,
    pin: Pin,
    wait: Wait,
    timeout: float | None,
    **flags: bool,
) -> _Asked:
    """Look at what a call says before anything is stored."""
    check_flags(local=local, **flags)
    check_label(label)
    config = load_config()
    place = place_of(config, project, local)
    audience = audience_in(config, to, place)
    if (audience is None or audience.everyone) and is_watched() and is_first(config):
        tell(sentence(configured_audience(config)))
    plan = make_plan(config, pin, wait, timeout, local, place)
    return _Asked(config, plan, label, audience, recipients_of(config, encrypt, audience), local)


def _bytes(
    data: Buffer,
    label: str | None,
    to: To | None,
    project: str | None,
    encrypt: Encrypt,
    local: bool,
    pin: Pin,
    wait: Wait,
    timeout: float | None,
) -> str:
    asked = _prepare(label, to, project, encrypt, local, pin, wait, timeout)
    return asked.finish(put_bytes(asked.config, data, **asked.what))

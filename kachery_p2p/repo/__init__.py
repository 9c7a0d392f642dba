"""The repo: what one data directory holds, and how it stays sound. Synchronous, thread-safe, for many processes.

On the disk
-----------

    <directory>/                    0700 when made here
      private.pem  public.pem       the node's Ed25519 key: PKCS#8 and SubjectPublicKeyInfo, PEM, 0600 (keys.py)
      swarm.key                     the key of a private network, where there is one: Kubo's format, 0600 (swarm_key.py)
      scrub.json                    how far that has read through what is here, and what was damaged: JSON, replaced
                                    whole (kachery_p2p.node.scrub_state); where it is lost all is read anew
      node.lock                     locked (flock) by the process that is the node; a JSON object of its number and its
                                    machine (hosts.py)
      host.lock                     on a network file system: its lock is shared by the processes of the one machine
                                    that uses the directory, named in it in the same way
      removal.lock                  its lock is shared by who adds something, and taken by who removes (removal_lock.py)
      catalog.sqlite[-wal, -shm]    SQLite 3, WAL, application_id 0x6b636831, user_version 5 (schema: catalog.py). 4 is
                                    the same without who may see what, 3 without what the user keeps and what was seen,
                                    2 without packs/, 1 without nodes/ and links/, too; what they lack is written when
                                    they are opened
      labels.txt                    the second place of labels, and of what was loaded: lines like those of links/, each
                                    with cid, how, label (null without one), given and added, or with cid and gone
                                    (labels.py); appended to, and not synced
      access.txt  restricted        the second place of who may see what: lines like those of links/, each with cid and
                                    to, or with cid and gone; and the mark that there must be one (access_records.py)
      routing.sqlite[-wal, -shm]    what the node remembers: peers, provider records, what was announced, its ports
                                    (kachery_p2p.routing.database); it can all be learned anew
      access.sqlite[-wal, -shm]     which peer was given how much of what is not for everyone (kachery_p2p.access.log)
      gateway-token                 what the user shows to the gateway (kachery_p2p.gateway.server.token); 0600
      outbox.sqlite[-wal, -shm]     what is to be kept where, and how far that is (kachery_p2p.pinning.outbox)
      pinning-service.sqlite[-wal, -shm]  who may pin here, and what (kachery_p2p.pinning.server.store)
      usage.sqlite[-wal, -shm]      how much each peer was given, by day (kachery_p2p.node.served_log); it may be lost
      groups/                       the groups that this machine is in: <id>.json with lists and secrets, addresses.json
                                    with where members are; 0700, all in it 0600 (kachery_p2p.membership.store)
      public/                       a directory like this one, with what a gateway fetched for strangers; it goes with
                                    the node (kachery_p2p.node.public_loads)
      ownership.json                the proof of who stands behind this machine, 0600 (kachery_p2p.ownership_file)
      ipns/<key>/                   a name that moves: private.pem, public.pem, and record, which was signed last
                                    (kachery_p2p.routing.ipns.shelf); 0700, all in it 0600. Of the node's own key "self"
      ipfs/<ab>/<cd>/<ef>/<cid>     each stored or loaded file, once, as a plain file, 0444; abcdef are the last six
                                    characters of the CID in its text form
      packs/<number>.car            small files, many in one, until their path is asked for: a CARv1 that grows
                                    (packs.py), 0644; flocked by whoever writes to it
      partial/<cid>                 a file being loaded: its final length (less, as long as only parts of it were asked
                                    for), holes where nothing arrived; flocked by the loader
      tmp/<24 hex digits>           a file being stored; flocked by its writer
      nodes/<yz>/<cid>.car          the second place of a root's nodes: a CARv1, 0444. <cid> is the root as CIDv1, yz
                                    its last two characters. The header names the root in the version it was asked by.
                                    The blocks, in any order, each as a CIDv1 with codec dag-pb: of a file its inner
                                    nodes (and leaves in an unusual wrap), of a directory the nodes of its whole tree
                                    with its symbolic links, but none of its files
      nodes/<yz>/<24 hex>.car       the same without a root: nodes of no known root, from a catalog of version 1
      links/<24 hex digits>         the second place of linked files, 0444: lines of ASCII, each the CRC-32 of what
                                    follows the blank (8 hex digits), a blank, a JSON object of cid, path and profile
                                    (JSON text or null), LF. Bytes of a path that are no UTF-8 are lone surrogates
      names/<yz>/<cid>/<name>       more names of a file under ipfs/ (hard links) or of a linked one (symbolic links),
                                    for programs that look at how a path ends (named.py); made when they are asked
                                    for, and removed with the copy
      damaged/<cid>.<n>             copies with wrong bytes that were set aside, n = 1, 2 ...
      damaged/catalog.sqlite.<...>  catalogs that were rebuilt
      repaired.catalog.sqlite       a catalog being rebuilt; it takes the old one's name when it is complete

The program above keeps files of its own beside these: its settings, where the running node listens, keys, plain copies,
what it knows of a lab. They are of no concern to the repo; docs/formats.md ("Keys and small files") lists them all.

A file under `ipfs/` *is* the block store: the catalog says that the block with this multihash is `length` bytes at
`offset` of that file, as they are (wrap 0), or in a dag-pb node (`0a` len `08 02 12` length *bytes* `18` length, the
UnixFS leaf of kind File: wrap 1; with `08 00`, kind Raw: wrap 2). Inner nodes, directory nodes, symbolic links, and
leaves wrapped in any other way are kept in the catalog whole. A small file may lie in a pack instead: then the catalog
says which bytes of it are its own, and it gets its place under `ipfs/` when its path is first asked for. The same bytes
stored under two profiles are two names (hard links) of one file, where the file system has hard links. A *linked* file
is served from where the user has it.

In the catalog a root is keyed by its binary CIDv1, so `Qm...` and its `bafy...` form are one root; a file has the stamp
(size, mtime in ns, inode; for linked ones also ctime in ns) that it had when it was hashed.

What may be relied on
---------------------

1. A file under `ipfs/` is whole. It gets there by one rename, after its data were synced, and its folder is synced
   after that. What is in a pack up to where it is catalogued was synced.
2. Inner nodes are in `nodes/`, and synced, before the file of which they are the only description gets there; so are
   the nodes of a directory, and a link in `links/`, before their rows are committed. What is removed is first noted in
   `going`, and its rows go before its files (removal.py).
3. Rows are committed last, when everything they speak of is there. The catalog can be lost: all of it but times, the
   profiles that roots were stored by, and what without a label was loaded, is in the files beside it, and
   `Repo.rebuild` reads them again.
4. Where anything is restricted, a block has its claim before its row, or in the same commit, and until after it is gone
   (access.py).
5. A block that leaves the repo was hashed when its file had the stamp that it still has after the block was read; or it
   was hashed again just now.
6. Nothing is deleted silently: wrong copies go to `damaged/`, a broken catalog too. Only left-overs in `tmp/` of
   processes that are dead (their lock is free) are removed, when the repo is opened, and half sections at the end of
   packs.

What a crash leaves (process killed, or power lost), by the last step that was done
----------------------------------------------------------------------------------

    data being written to tmp/      a file in tmp/; removed when the repo is next opened
    data being written to partial/  a partial file; `Download.has` hashes what is in it, and only the rest is loaded
    all of a file in partial/       the same; whoever asks for it next makes it whole (completing.py)
    inner nodes in nodes/           a record of a file that is not here: it is of no use and does no harm
    blocks committed while loading  blocks that no root reaches. `Repo.sweep` drops those older than a week (gc)
    files of a folder stored,       roots that are not kept, and in no folder that is: `gc` removes them when they are
    the folder not                  older than a week, if another copy is verified
    claims committed, blocks not    claims of something that is not here. `gc` drops those older than a week
    rows under a claim committed,   blocks that stay restricted, and go as every left-over does; what was put in place
    the root not kept               without rows is adopted for the user's own machines alone
    rows committed, `kept` not      the same; `verify` lists again what had a label
    `going` committed               not listed any more; whoever opens the repo next removes the rest
    link in links/                  a link that the catalog does not know; `verify` hashes the file and takes it in
    directory nodes in nodes/       a directory that the catalog does not know; `verify` says so, `rebuild` takes it in
    renamed into ipfs/              a whole file without rows; `find_file` hashes and adopts it when asked for it, and
                                    `adopt_unknown` does so for all
    half a section in a pack        a pack that is longer than catalogued: the end is cut off by who next locks it
    sections in a pack, synced      a pack that is longer than catalogued: they get their rows when the repo is opened,
                                    or from who next locks the pack
    rows committed                  nothing; with the power lost, the commit may be lost too (synchronous=NORMAL) and it
                                    is as in the line before. Links and directories, which could not be found again that
                                    way, are committed with synchronous=FULL

Several processes
-----------------

Two that store the same CID both succeed: who comes second finds the same bytes there and drops its own. A partial file
has one writer; others get RepoBusy. Writers of the catalog wait for each other; their transactions hold no hashing. A
forked child may go on using a Repo: no connection crosses a fork (kachery_p2p.sqlite), and the locks are its parent's.

Several users
-------------

kachery_p2p.private says which modes folders and files are made with: for the owner alone; in a directory whose top
folder its group may write to, for the group. Only the owner makes and uses `private.pem`. A directory that may not be
written to is read: by its catalog, opened so that nothing is made beside it, or where that may not be read, file by
file.
"""

from __future__ import annotations

TYPE_CHECKING = False  # That of `typing`, which would double what importing this takes.
if TYPE_CHECKING:
    from kachery_p2p.repo.checking import Problem
    from kachery_p2p.repo.download import Download
    from kachery_p2p.repo.keys import NodeKey, load_or_create_identity
    from kachery_p2p.repo.listing import ListedFile, RepoStats
    from kachery_p2p.repo.locks import NodeLock
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.repo.small import Stored

__all__ = [
    "Download",
    "ListedFile",
    "NodeKey",
    "NodeLock",
    "Problem",
    "Repo",
    "RepoStats",
    "Stored",
    "load_or_create_identity",
]

#: Where each is. Who needs a lock or the catalog alone does not wait for all of the repo to be read.
_HOMES = {
    "Download": "download",
    "ListedFile": "listing",
    "NodeKey": "keys",
    "NodeLock": "locks",
    "Problem": "checking",
    "Repo": "repo",
    "RepoStats": "listing",
    "Stored": "small",
    "load_or_create_identity": "keys",
}

if not TYPE_CHECKING:  # It would take any name for one that is here.

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

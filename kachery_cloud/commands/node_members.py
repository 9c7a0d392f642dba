"""`kachery-cloud-node members` and `clients`: who belongs to the lab, and which computers are theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import CONTEXT, Group, command, json_option, print_result
from kachery_cloud.errors import ConfigError, InvalidArgument
from kachery_p2p.text import counted

if TYPE_CHECKING:
    from kachery_cloud.lab.accounts_store import Accounts, Client, Member
    from kachery_cloud.lab.invitations import Invitations
    from kachery_cloud.settings.config import Config


@click.group("members", cls=Group, context_settings=CONTEXT)
def members() -> None:
    """Say who belongs to the lab: invite members, list and remove them, and say how much each may store.

    A node that runs goes by it at once. A member is named by name, e-mail address or ID.

    \b
    Examples:
        kachery-cloud-node members invite "Alice Liddell" --administrator
        kachery-cloud-node members list
    """  # noqa: D301


@command("invite")
@click.argument("name")
@click.option("--email", help="The address with which they sign in at the OpenID provider; then the link is no must.")
@click.option("--administrator", is_flag=True, help="They may invite, remove, and see what everybody stores.")
@click.option("--quota", metavar="SIZE", help="The most that they may store, such as 200GB. [default: no limit]")
@click.option("--days", type=click.IntRange(1, 90), default=7, help="For how long the link is good. [default: 7]")
@json_option
def members_invite(
    name: str, email: str | None, administrator: bool, quota: str | None, days: int, as_json: bool
) -> None:
    """Invite somebody: prints a link to give to them, which works once.

    Where nobody signs in at an OpenID provider, the link is how one signs in. For a member who is there already it is
    another such link, with which they sign in again.

    \b
    Examples:
        kachery-cloud-node members invite "Alice Liddell" --administrator
        kachery-cloud-node members invite Bob --email bob@example.org --quota 200GB
    """  # noqa: D301
    from kachery_cloud.lab.answers import email_of, text_of
    from kachery_cloud.lab.limits import MAX_NAME
    from kachery_cloud.utc import time_text

    lab = _open()
    name = _checked(text_of, name, "The name", MAX_NAME)
    address = None if email is None else _checked(email_of, email)
    most = _quota(quota)
    found = lab.accounts.find(name if address is None else address)
    if len(found) > 1:
        raise _several(name, found)
    if found:
        member = found[0]
        if administrator:
            member = _checked(lab.accounts.change_member, member.id, role="administrator")
        if quota is not None:
            member = _checked(lab.accounts.change_member, member.id, quota=most)
    else:
        member = _checked(
            lab.accounts.add_member,
            name,
            email=address,
            role="administrator" if administrator else "member",
            quota=most,
        )
    secret, made = lab.invitations.make(member.id, days * 86_400.0)
    url = f"{_url(lab.config)}/invitation/{secret}"
    print_result(
        as_json, url, id=member.id, name=member.name, role=member.role, invitation=url, expires=time_text(made.expires)
    )
    if not as_json:
        known = f"{member.name} is a member already. " if found else ""
        click.echo(
            f"{known}Give this link to {member.name} and to nobody else: whoever uses it first is {member.name}. It "
            f"works once, until {time_text(made.expires)}.",
            err=True,
        )


@command("list")
@json_option
def members_list(as_json: bool) -> None:
    """List the members: their roles, how much they store, and their quotas.

    \b
    Example:
        kachery-cloud-node members list
    """  # noqa: D301
    lab = _open()
    found = sorted(lab.accounts.members(), key=lambda member: (member.name.casefold(), member.id))
    used = {member.id: lab.accounts.used(member.id) for member in found}
    count = {member.id: 0 for member in found}
    for client in lab.accounts.clients():
        count[client.member] = count.get(client.member, 0) + 1
    if as_json:
        rows = [_plain(member, used[member.id], count[member.id]) for member in found]
        click.echo(json.dumps({"members": rows}))
    elif not found:
        click.echo(
            "There are no members. Invite the first one with: kachery-cloud-node members invite NAME --administrator",
            err=True,
        )
    for member in () if as_json else found:
        click.echo(_line(member, used[member.id], count[member.id]))


@command("remove")
@click.argument("member")
@json_option
def members_remove(member: str, as_json: bool) -> None:
    """Remove a member: they are signed out, and their computers may store nothing more, at once.

    What they have stored stays. They cannot sign in again before they are invited again.

    \b
    Example:
        kachery-cloud-node members remove "Alice Liddell"
    """  # noqa: D301
    lab = _open()
    found = _one(lab.accounts, member)
    peers = lab.accounts.remove_member(found.id, last=True)
    text = f"Removed {found.name}, with {counted(len(peers), 'computer', 'computers')}."
    print_result(as_json, text, id=found.id, name=found.name, clients=peers)
    if not as_json and not lab.accounts.has_administrator():
        click.echo("There is no administrator any more. Make one with: members make-admin EMAIL", err=True)


@command("set-quota")
@click.argument("member")
@click.argument("quota")
@json_option
def members_set_quota(member: str, quota: str, as_json: bool) -> None:
    """Say how much a member's computers may store together; `none` for no limit.

    \b
    Examples:
        kachery-cloud-node members set-quota Bob 500GB
        kachery-cloud-node members set-quota bob@example.org none
    """  # noqa: D301
    lab = _open()
    found = _one(lab.accounts, member)
    changed = _checked(
        lab.accounts.change_member, found.id, quota=None if quota.strip().lower() == "none" else _quota(quota, "QUOTA")
    )
    print_result(
        as_json, f"{changed.name} may store {_quota_text(changed)}.", id=changed.id, name=changed.name,
        quota=changed.quota,
    )  # fmt: skip


@command("make-admin")
@click.argument("member", metavar="EMAIL")
@json_option
def members_make_admin(member: str, as_json: bool) -> None:
    """Make a member an administrator.

    Where nobody has that e-mail address yet, whoever signs in with it at the OpenID provider is one from the beginning.

    \b
    Example:
        kachery-cloud-node members make-admin bob@example.org
    """  # noqa: D301
    from kachery_cloud.lab.answers import email_of

    lab = _open()
    if "@" in member:
        made = _checked(lab.accounts.make_administrator, _checked(email_of, member))
    else:
        made = _checked(lab.accounts.change_member, _one(lab.accounts, member).id, role="administrator")
    text = f"{made.name} is an administrator."
    if made.seen is None and not lab.config.openid_client_id:
        text += " There is no OpenID provider, so a link is needed: kachery-cloud-node members invite " + (
            f"{made.name!r} --email {made.email}" if made.email else repr(made.name)
        )
    print_result(as_json, text, id=made.id, name=made.name, role=made.role)


for each in (members_invite, members_list, members_remove, members_set_quota, members_make_admin):
    members.add_command(each)


@click.group("clients", cls=Group, context_settings=CONTEXT)
def clients() -> None:
    """List and remove the computers that members have registered.

    \b
    Example:
        kachery-cloud-node clients list
    """  # noqa: D301


@command("list")
@click.option("--member", help="Only those of this member.")
@json_option
def clients_list(member: str | None, as_json: bool) -> None:
    """List computers: peer ID, whose it is, and what it is called.

    \b
    Examples:
        kachery-cloud-node clients list
        kachery-cloud-node clients list --member "Alice Liddell"
    """  # noqa: D301
    lab = _open()
    found = lab.accounts.clients(None if member is None else _one(lab.accounts, member).id)
    names = {each.id: each.name for each in lab.accounts.members()}
    if as_json:
        click.echo(json.dumps({"clients": [_plain_client(client, names) for client in found]}))
    elif not found:
        click.echo("No computer is registered. On one: kachery-cloud-init --node URL", err=True)
    for client in () if as_json else found:
        click.echo(f"{client.peer}  {names.get(client.member, '')}  {client.label}")


@command("remove")
@click.argument("peer")
@json_option
def clients_remove(peer: str, as_json: bool) -> None:
    """Remove a computer: its token is refused from now on. What it has stored stays.

    \b
    Example:
        kachery-cloud-node clients remove 12D3KooW...
    """  # noqa: D301
    from kachery_p2p.peer_ids import any_peer_id

    lab = _open()
    if not lab.accounts.remove_client(any_peer_id(peer) or peer):
        raise InvalidArgument(f"{peer} is not registered. kachery-cloud-node clients list shows those that are.")
    print_result(as_json, f"Removed {peer}.", peer=peer)


for each in (clients_list, clients_remove):
    clients.add_command(each)


# --- what all of them have in common ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lab:
    """The lab of this directory, whether or not a node runs."""

    config: Config
    accounts: Accounts
    invitations: Invitations


def _open() -> _Lab:
    from kachery_cloud.lab.accounts_store import Accounts
    from kachery_cloud.lab.database import LabDatabase
    from kachery_cloud.lab.invitations import Invitations
    from kachery_cloud.settings.node_file import load_node_config
    from kachery_p2p.pinning.server.store import STORE_NAME, PinStore
    from kachery_p2p.private import make_directory

    config, _ = load_node_config()
    make_directory(config.directory)
    database = LabDatabase(config.directory)
    accounts = Accounts(database, PinStore(config.directory / STORE_NAME))
    return _Lab(config, accounts, Invitations(database))


def _checked(work: Any, *args: Any, **named: Any) -> Any:
    """What the lab says, as an error of a command."""
    from kachery_p2p.pinning.server.requests import Refusal

    try:
        return work(*args, **named)
    except Refusal as error:
        raise InvalidArgument(error.details) from None


def _one(accounts: Accounts, text: str) -> Member:
    found = accounts.find(text.strip())
    if not found:
        raise InvalidArgument(
            f"There is no member {text!r}. kachery-cloud-node members list shows those that there are."
        )
    if len(found) > 1:
        raise _several(text, found)
    return found[0]


def _several(text: str, found: list[Member]) -> InvalidArgument:
    ids = ", ".join(f"{member.id} ({member.email or 'no address'})" for member in found)
    return InvalidArgument(
        f"There are {len(found)} members called {text}: {ids}. Name one by the address, or by the ID."
    )


def _quota(text: str | None, what: str = "--quota") -> int | None:
    from kachery_cloud.settings.values import byte_count

    most = None if text is None else byte_count(text, what)
    if most is not None and most >= 1 << 62:
        raise ConfigError(f"{what} is {text}, which is more than there can be. Say none for no limit.")
    return most


def _url(config: Config) -> str:
    """Where the lab is reached: as the settings say; else at the node that runs, or where it would listen."""
    if config.lab_url is not None:
        return config.lab_url
    from kachery_cloud.settings.values import DEFAULT_LAB
    from kachery_cloud.sharing import running_node

    found = running_node(config)
    scheme = "http" if config.tls_cert is None else "https"
    return (None if found is None else found.lab) or f"{scheme}://{config.lab or DEFAULT_LAB}"


def _quota_text(member: Member) -> str:
    from kachery_cloud.inventory_tables import size_text

    return "as much as there is room for" if member.quota is None else size_text(member.quota)


def _plain(member: Member, used: int, count: int) -> dict[str, Any]:
    return {
        "id": member.id,
        "name": member.name,
        "email": member.email,
        "role": member.role,
        "quota": member.quota,
        "used": used,
        "clients": count,
        "added": member.added,
        "seen": member.seen,
    }


def _line(member: Member, used: int, count: int) -> str:
    from kachery_cloud.inventory_tables import size_text

    quota = "no quota" if member.quota is None else f"of {size_text(member.quota)}"
    role = "  administrator" if member.is_administrator else ""
    seen = "" if member.seen is not None else "  (never here)"
    address = f"  {member.email}" if member.email else ""
    computers = counted(count, "computer", "computers")
    return f"{member.id}  {member.name}{address}{role}  {computers}  {size_text(used)} {quota}{seen}"


def _plain_client(client: Client, names: dict[str, str]) -> dict[str, Any]:
    return {
        "peer": client.peer,
        "member": client.member,
        "name": names.get(client.member),
        "label": client.label,
        "registered": client.registered,
        "seen": client.seen,
    }

"""Where the node would listen: ports and who has them, and the certificate for HTTPS."""

from __future__ import annotations

import contextlib
import datetime
import errno
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kachery_cloud.doctor.findings import NOTHING, Finding, Report, found
from kachery_cloud.doctor.owners import Owner, who_listens
from kachery_p2p import http_address
from kachery_p2p.errors import InvalidAddress
from kachery_p2p.transport.addresses import parse_address, parse_listen

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from kachery_cloud.doctor.facts import Facts

#: Seconds before its end at which a certificate should have been renewed: two weeks.
_SOON = 14 * 86400.0


# --- ports -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """Somewhere to listen: for what, where (an IP address and a TCP port), and which option or setting says so."""

    what: str
    host: str
    port: int
    option: str


def wanted(facts: Facts) -> Iterator[Wanted]:
    """Where a node of these settings would listen, free ports left out."""
    for text in facts.listen:
        with contextlib.suppress(InvalidAddress):
            address = parse_listen(text)
            yield Wanted("the node", address.host, address.port, "--listen or the setting `listen`")
    served = [
        ("the pinning service", facts.config.pinning_service, "--pinning-service"),
        ("the lab's page and API", facts.config.lab, "--lab"),
    ]
    gateway = facts.config.gateway if facts.options.gateway is None else facts.options.gateway
    if gateway is not None:
        served.append(("the gateway", gateway or http_address.DEFAULT_ADDRESS, "--gateway"))
    for what, text, option in served:
        if text:
            with contextlib.suppress(InvalidAddress):
                host, port = http_address.parse_address(text)
                yield Wanted(what, host, port, option)


def check_ports(facts: Facts) -> Report:
    """Whether the node can listen where it is to."""
    places = [each for each in wanted(facts) if each.port]
    findings: list[Finding] = []
    running = None if facts.node.running is None else facts.node.running.pid
    seen: dict[tuple[str, int], str] = {}
    for each in places:
        place = each.host, each.port
        if place in seen:
            findings.append(_twice(each, seen[place]))
            continue
        seen[place] = each.what
        error = try_listen(each.host, each.port)
        if error is None:
            continue
        owner = who_listens(each.host, each.port) if error.errno == errno.EADDRINUSE else Owner()
        if running is not None and owner.pid in (running, None) and error.errno == errno.EADDRINUSE:
            continue  # the node itself
        findings.append(judge_port(each, error, owner))
    if not places:
        return Report("free ports are taken")
    return found(findings, f"{len(places)} ports can be had" if len(places) != 1 else "the port can be had")


def try_listen(host: str, port: int) -> OSError | None:
    """What the system says to listening there; None where it allows it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listeners do
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def judge_port(place: Wanted, error: OSError, owner: Owner) -> Finding:
    """What to say of a place where the system does not allow to listen."""
    why = f"There {place.what} is to listen; the node does not start so."
    if error.errno == errno.EADDRINUSE:
        end = f"End it (kill {owner.pid})" if owner.pid is not None else "End what listens there"
        return Finding(
            f"Port {place.port} of {place.host} is taken {owner.in_words}.",
            why,
            f"{end}, or choose another port with {place.option}.",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return Finding(
            f"This machine does not have the address {place.host}.",
            why,
            f"Choose one that it has (`ip addr`), or 0.0.0.0 for all of them, with {place.option}.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Finding(
            f"This user may not listen on port {place.port}.",
            f"{why} Ports below 1024 are for the system.",
            f"Choose one above 1024 with {place.option}, and put a proxy before it; or, with systemd, "
            "AmbientCapabilities=CAP_NET_BIND_SERVICE.",
        )
    return Finding(
        f"The system does not allow listening on {place.host}, port {place.port}: {error.strerror or error}.",
        why,
        f"Choose another address with {place.option}.",
    )


def _twice(place: Wanted, other: str) -> Finding:
    return Finding(
        f"Port {place.port} of {place.host} is to be used by two parts of the node: {other} and {place.what}.",
        "The second of them cannot listen, and the node does not start so.",
        f"Choose another port with {place.option}.",
    )


# --- the certificate -------------------------------------------------------------------------------------------------


def check_certificate(facts: Facts) -> Report:
    """Whether the certificate for HTTPS can be used, is valid now, and is for the names by which others come."""
    config = facts.config
    if config.tls_cert is None:
        if config.tls_key is None:
            return NOTHING
        return found(
            [
                Finding(
                    "There is a key for HTTPS (tls_key), but no certificate (tls_cert).",
                    "So HTTP is spoken, and others on the way can read tokens.",
                    "Set tls_cert, too.",
                )
            ]
        )
    fault = _unusable(config.tls_cert, config.tls_key)
    if fault is not None:
        return found([fault])
    certificate = _read(config.tls_cert)
    names = tuple(dict.fromkeys(_names(facts)))
    findings = judge_certificate(config.tls_cert, certificate, names, facts.wall())
    until = certificate.not_valid_after_utc.date()
    return found(findings, f"the certificate is valid until {until}")


def _unusable(path: Path, key: Path | None) -> Finding | None:
    what = f"The certificate {path}" + (f" and the key {key}" if key is not None else "")
    why = "HTTPS cannot be spoken with it, and the node does not start so."

    def no_password() -> str:
        raise ValueError("the key has a password")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, no_password)
    except FileNotFoundError:
        gone = path if not path.exists() else key
        return Finding(f"There is no file {gone}.", why, "Correct tls_cert and tls_key, or put the file there.")
    except PermissionError:
        closed = key if key is not None else path
        return Finding(
            f"{closed} may not be read by this user.",
            why,
            "Give the user of the node the right to read it, and no other.",
        )
    except (OSError, ValueError, ssl.SSLError) as error:
        mismatch = "KEY_VALUES_MISMATCH" in str(error).replace(" ", "_").upper()
        said = "do not belong together" if mismatch else f"cannot be read: {error}"
        return Finding(
            f"{what} {said}.", why, "Both must be PEM files, the key without a password, and of that certificate."
        )
    return None


def _read(path: Path) -> Certificate:
    from cryptography import x509

    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def _names(facts: Facts) -> Iterator[str]:
    """By what others come: names that are announced, and addresses that are listened on, but for all of them."""
    for text in facts.config.announce:
        address = parse_address(text)
        if address.kind.startswith("dns"):
            yield address.host
    url = urlsplit(facts.config.lab_url or "")
    if url.scheme == "https" and url.hostname:
        yield url.hostname
    for place in wanted(facts):
        if (
            place.what != "the node"
            and place.what != "the gateway"
            and not ipaddress.ip_address(place.host).is_unspecified
        ):
            yield place.host


def judge_certificate(path: Path, certificate: Certificate, names: tuple[str, ...], now: float) -> list[Finding]:
    """What to say of a certificate at a time (seconds since 1970), where others come by these names."""
    why = "Browsers and clients refuse it, and do not get in."
    renew = "Renew it (certbot renew, or ask whoever gave it), and see that this happens by itself."
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    findings: list[Finding] = []
    if moment > ends:
        findings.append(Finding(f"The certificate {path} expired on {ends.date()}.", why, renew))
    elif moment < begins:
        findings.append(
            Finding(
                f"The certificate {path} is not valid before {begins:%Y-%m-%d %H:%M} UTC, and by this machine's "
                f"clock it is {moment:%Y-%m-%d %H:%M}.",
                why,
                "If the clock of this machine is wrong, set it right; else wait until then.",
            )
        )
    elif (ends - moment).total_seconds() < _SOON:
        findings.append(Finding(f"The certificate {path} expires on {ends.date()}.", why, renew, grave=False))
    covered = _covered(certificate)
    lacking = [name for name in names if not any(_matches(name, each) for each in covered)]
    if lacking:
        findings.append(
            Finding(
                f"The certificate {path} is for {', '.join(covered) or 'no name'}, not for {', '.join(lacking)}.",
                f"Whoever comes by that name is told that this is another machine. {why}",
                f"Get one that has {', '.join(lacking)} among its names (subjectAltName), or have others come by "
                "a name that it has.",
            )
        )
    return findings


def _covered(certificate: Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _matches(name: str, pattern: str) -> bool:
    """As RFC 9525 has it: a star stands for one whole label, the first."""
    name, pattern = name.lower().rstrip("."), pattern.lower().rstrip(".")
    first, _, rest = pattern.partition(".")
    return name == pattern or (first == "*" and "." in rest and name.partition(".")[2] == rest)

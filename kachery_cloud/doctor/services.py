"""Pinning services, gateways, nodes that are followed: whether they answer, take the token, and agree on the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from kachery_cloud.doctor.findings import NOTHING, Finding, Report, found
from kachery_cloud.doctor.machine import judge_clock
from kachery_cloud.errors import ConfigError, InvalidPinService
from kachery_p2p.http import HttpBounds, HttpClient, HttpFailure, HttpProblem, http_date
from kachery_p2p.text import printable

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts
    from kachery_cloud.settings.pin_services import PinSetting

#: Seconds for one service to answer.
_SECONDS = 10.0
_BOUNDS = HttpBounds(connect=_SECONDS, redirects=3, connections=16, idle=0)
#: Services asked at once.
_AT_ONCE = 8
#: The block of no bytes, which every gateway has.
_EMPTY = "/ipfs/bafkqaaa?format=raw"


@dataclass(frozen=True)
class Service:
    """Something to be asked over HTTP.

    Attributes:
        what: for people, such as "the pinning service lab".
        url: that is asked.
        token: that is shown; empty for none.
        lost: what does not work without it.
        repair: how its token is put right.
        public: whether it is one of the public ones, of which one is enough.
    """

    what: str
    url: str
    token: str = ""
    lost: str = ""
    repair: str = ""
    public: bool = False


@dataclass(frozen=True)
class Answered:
    """What came of asking one: a status and a `Date`, or why there is none.

    Attributes:
        ahead: seconds by which its clock is ahead of ours; None where it does not tell the time.
        error: by how many seconds that may be wrong.
    """

    status: int = 0
    problem: HttpProblem | None = None
    words: str = ""
    ahead: float | None = None
    error: float = 0.0


async def check_services(facts: Facts) -> Report:
    """Whether the services that the settings name can be used, and the clock is right by theirs."""
    findings: list[Finding] = []
    services = await trio.to_thread.run_sync(_services, facts, findings)
    answers = await ask_all(facts, services)
    named = [(service, answer) for service, answer in zip(services, answers, strict=True) if not service.public]
    for service, answer in named:
        fault = judge_answer(service, answer)
        if fault is not None:
            findings.append(fault)
    public = [(service, answer) for service, answer in zip(services, answers, strict=True) if service.public]
    if public and all(answer.problem is not None for _, answer in public):
        findings.append(
            Finding(
                f"None of the public gateways answers ({', '.join(urlsplit(each.url).netloc for each, _ in public)}).",
                "Where no peer delivers, nothing helps out.",
                "See whether this network lets HTTPS out, perhaps by a proxy only (HTTPS_PROXY). Without: the setting "
                "`gateways` none.",
                grave=False,
            )
        )
    if not services and not findings:
        return NOTHING
    well = sum(judge_answer(service, answer) is None for service, answer in named)
    return found(
        findings, f"{well} service{'s' if well != 1 else ''} can be used" if named else "public gateways answer"
    )


async def check_clock(facts: Facts) -> Report:
    """Whether the clock is right, by those of the services that the settings name."""
    services = await trio.to_thread.run_sync(_services, facts, [])
    answers = await ask_all(facts, services)
    readings: dict[str, tuple[str, float, float]] = {}
    for service, answer in zip(services, answers, strict=True):
        if answer.ahead is not None:
            host = urlsplit(service.url).netloc
            readings[host] = (f"the clock of {host}", answer.ahead, answer.error)
    findings = judge_clock(list(readings.values()))
    dated = [
        answer.words
        for answer in answers
        if "certificate" in answer.words and ("expired" in answer.words or "not yet valid" in answer.words)
    ]
    if not findings and dated and not readings:
        findings = [
            Finding(
                f"By the clock of this machine, certificates of others are not valid now ({dated[0]}).",
                "If its clock is wrong, HTTPS fails everywhere.",
                "Compare it with another clock (`date -u`), and set it right: timedatectl set-ntp true.",
            )
        ]
    if not readings and not findings:
        return NOTHING
    count = len(readings)
    return found(findings, f"the clock agrees with {count} other{'s' if count != 1 else ''}")


def _services(facts: Facts, findings: list[Finding]) -> list[Service]:
    """Those that may be asked. What is wrong with their tokens is added to the findings. Blocks for a keyring."""
    config, private = facts.config, facts.in_private_network
    services: list[Service] = []
    for setting in config.pin_services:
        lost = "What is stored is not kept there."
        repair = f"Set the right one: kachery-cloud-pins service add {setting.name} {setting.url}"
        if setting.why_not(config, private) is not None:
            continue
        try:
            token = _token_of(facts, setting)
        except (ConfigError, InvalidPinService) as error:
            findings.append(Finding(str(error), lost, repair))
            continue
        if not token and setting.needs_token:
            findings.append(Finding(f"There is no token for the pinning service {setting.name}.", lost, repair))
            continue
        if setting.kind == "pinning":
            url = setting.url.removesuffix("/pins")
            services.append(Service(f"the pinning service {setting.name}", f"{url}/pins?limit=1", token, lost, repair))
    for url, token in _followed(facts):
        lost = "What is pinned there is not pinned here."
        repair = "On that machine: kachery-cloud-node tokens add NAME --follow; and put it into the setting `follow`."
        services.append(Service("the followed node", f"{url.removesuffix('/pins')}/pins?limit=1", token, lost, repair))
    named = config.gateways is not None
    for url in config.gateway_urls(private):
        token = config.gateway_tokens.get(url, "")
        repair = "Ask who runs it for the right one, and put it into the setting `gateway_tokens`."
        lost = "Nothing is loaded from it."
        services.append(Service("the gateway", url + _EMPTY, token, lost, repair, public=not named))
    return services


def _token_of(facts: Facts, setting: PinSetting) -> str:
    from kachery_cloud.settings.pin_tokens import find_token

    return find_token(facts.config, setting, change=False)


def _followed(facts: Facts) -> list[tuple[str, str]]:
    return list(facts.config.follow.items())


async def ask_all(facts: Facts, services: Sequence[Service]) -> list[Answered]:
    """Ask each once, side by side."""
    answers = [Answered()] * len(services)
    limit = trio.CapacityLimiter(_AT_ONCE)
    client = HttpClient(_BOUNDS)

    async def ask(at: int, service: Service) -> None:
        headers = {"authorization": _authorization(service.token)} if service.token else {}
        async with limit:
            sent, began = facts.wall(), facts.monotonic()
            try:
                async with client.ask(
                    "GET", service.url, headers=headers, seconds=_SECONDS, follow=lambda _: False
                ) as got:
                    took = facts.monotonic() - began
                    told = http_date(got.headers.get("date", ""))
                    # A Date is cut off to whole seconds, and was written at some time between the two of ours.
                    ahead = None if told is None else told + 0.5 - (sent + took / 2)
                    answers[at] = Answered(got.status, ahead=ahead, error=0.5 + took / 2)
            except HttpFailure as failure:
                answers[at] = Answered(problem=failure.problem, words=failure.words)

    try:
        async with trio.open_nursery() as nursery:
            for at, service in enumerate(services):
                nursery.start_soon(ask, at, service)
    finally:
        await client.close()
    return answers


def judge_answer(service: Service, answer: Answered) -> Finding | None:
    """What to say of a service that answered so; None where all is well."""
    host = urlsplit(service.url).netloc
    what = f"{service.what[:1].upper()}{service.what[1:]} ({host})"
    if answer.problem is not None:
        return _unreachable(what, service, answer)
    if answer.status in (401, 403):
        said = "refuses the token" if service.token else "asks for a token, and there is none"
        if answer.status == 403:
            said = "says that the token may not do this" if service.token else "lets nobody in without a token"
        return Finding(f"{what} {said} (status {answer.status}).", service.lost, service.repair)
    if 200 <= answer.status < 300 or answer.status in (429, 503):
        return None
    if 300 <= answer.status < 400 or answer.status == 404:
        return Finding(
            f"{what} does not have what is asked for at that address (status {answer.status}).",
            service.lost,
            "Most likely the URL is not right: the address of the API is meant, not that of a page for people.",
        )
    return Finding(
        f"{what} fails (status {answer.status}).",
        service.lost,
        "Try again later; if it stays so, tell who runs it.",
    )


def _unreachable(what: str, service: Service, answer: Answered) -> Finding:
    words = printable(answer.words)
    lowered = words.lower()
    if "certificate" in lowered:
        if "hostname mismatch" in lowered or "doesn't match" in lowered or "not valid for" in lowered:
            todo = "Use the name that its certificate has, or have its owner get one for this name."
        elif "expired" in lowered or "not yet valid" in lowered:
            todo = "If the clock of this machine is right (`date -u`), its owner has to renew it."
        else:
            todo = (
                "If it is the lab's own, name the certificate that vouches for it: SSL_CERT_FILE=/path/ca.pem. "
                "Else somebody may be in between."
            )
        return Finding(f"The certificate of {what[:1].lower()}{what[1:]} is refused: {words}.", service.lost, todo)
    if answer.problem is HttpProblem.SLOW:
        said, todo = "does not answer in time", "See whether it runs."
    else:
        said = f"cannot be reached: {words}" if words else f"cannot be reached within {_SECONDS:g} seconds"
        todo = "See whether it runs, whether its URL is right, and whether a firewall or proxy is in the way."
    return Finding(f"{what} {said}.", service.lost, todo)


def _authorization(token: str) -> str:
    import base64

    if token.startswith("basic:"):
        return "Basic " + base64.b64encode(token[6:].encode()).decode()
    return f"Bearer {token}"

"""Which pinning services a call means, and which of them the node may ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kachery_cloud.errors import ConfigError, InvalidPinService
from kachery_cloud.settings.pin_services import PRESETS, PinConfig, PinSetting
from kachery_cloud.settings.pin_tokens import find_token, token_variable

if TYPE_CHECKING:
    from kachery_p2p.pinning import PinService


def services_for(config: PinConfig, pin: object) -> list[PinSetting]:
    """The services that a call means.

    Args:
        config: the settings of the data directory.
        pin: None for the default ones; True for these, or the only one that there is; False for none; a name, or
            several.

    Raises:
        ConfigError: no such service; none is set up; it has no token.
    """
    known = {service.name: service for service in config.pin_services}
    if pin is None:
        return [service for service in known.values() if service.default]
    if pin is False:
        return []
    if pin is True:
        chosen = [service for service in known.values() if service.default] or list(known.values())
        if not chosen:
            raise ConfigError(
                "No pinning service is set up. Set one up with: kachery-cloud-pins service add filebase (or NAME URL)"
            )
        if len(chosen) > 1 and not chosen[0].default:
            raise ConfigError(f"Which pinning service is meant? Name one or more of: {', '.join(sorted(known))}.")
    else:
        names = [pin] if isinstance(pin, str) else pin
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ConfigError("pin must be True, False, the name of a pinning service, or a list of names.")
        chosen = [_by_name(known, name) for name in dict.fromkeys(names)]
    for service in chosen:
        if service.needs_token and not find_token(config, service):
            raise ConfigError(
                f"There is no token for the pinning service {service.name!r}. Set it with: kachery-cloud-pins service "
                f"add {service.name} (it asks for the token), or in {token_variable(service.name)}."
            )
    return chosen


def _by_name(known: Mapping[str, PinSetting], name: str) -> PinSetting:
    service = known.get(name) or PRESETS.get(name)
    if service is None:
        there_are = ", ".join(sorted({*known, *PRESETS}))
        raise ConfigError(
            f"There is no pinning service {name!r}; known are {there_are}. Add it with: kachery-cloud-pins service add"
        )
    return service


def to_service(config: PinConfig, setting: PinSetting, token: str | None = None) -> PinService:
    """A service as the node knows it, with its token.

    Raises:
        ConfigError: see `pin_tokens.find_token`.
        InvalidPinService: it has a name, URL or token that the node does not take.
    """
    from kachery_p2p.pinning import PinService

    return PinService(
        name=setting.name,
        url=setting.url,
        token=find_token(config, setting) if token is None else token,
        kind=setting.kind,
        max_bytes=setting.max_bytes,
        gateway=setting.gateway,
    )


def usable_services(config: PinConfig, private_network: bool) -> list[PinService]:
    """The services that the node may ask: not those that `public` or a swarm key shuts out, nor those without a token.

    What is to be pinned at the others waits. A shared service that was used without being set up is among them.
    """
    return [
        to_service(config, setting)
        for setting in services_by_name(config).values()
        if why_idle(config, setting, private_network) is None
    ]


def why_idle(config: PinConfig, setting: PinSetting, private_network: bool) -> str | None:
    """Why nothing is sent to a service at present; None when something may be."""
    why = setting.why_not(config, private_network)
    if why is not None:
        return f"Nothing is sent to {setting.name}: {why}."
    try:
        if to_service(config, setting).token or not setting.needs_token:
            return None
    except (ConfigError, InvalidPinService) as error:
        return str(error)
    return f"There is no token for {setting.name}. Set it with: kachery-cloud-pins service add {setting.name}"


def services_by_name(config: PinConfig) -> dict[str, PinSetting]:
    """The services by name, with the shared ones that something was given to, or could be."""
    return {**PRESETS, **{service.name: service for service in config.pin_services}}

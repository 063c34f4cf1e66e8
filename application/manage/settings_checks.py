"""``doctor``'s checks of the configuration: its warnings, and keys of the AI providers."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from urllib.parse import urlsplit

from base_server.service.core.errors import StartError
from base_server.service.llm.personas import Personas

from ..base_web_server.config.loading import ServerSettings
from ..base_web_server.config.warnings import find_warnings
from .finding import Finding, Level
from .fixes import split_fix

_CONNECT_S = 3.0


def check_settings(settings: ServerSettings) -> list[Finding]:
    """The warnings of ``config check``."""
    warnings = find_warnings(settings)
    if not warnings:
        return [Finding("configuration", Level.GOOD, "no warnings")]
    return [
        Finding("configuration", Level.DOUBTFUL, warning.text, warning.fix) for warning in warnings
    ]


async def check_ai(settings: ServerSettings) -> list[Finding]:
    """Whether every persona has a provider with a key, and the providers can be reached."""
    try:
        personas = Personas(settings.llmConfig, settings.templateConfig.env, os.environ)
    except StartError as error:
        return [Finding("ai keys", Level.BAD, *split_fix(error))]
    findings = []
    if names := personas.demo_only():
        fix = "set OPENAI_API_KEY, or BASE_SERVER__LLMCONFIG__PROVIDERS__…__API_KEY of a provider"
        findings.append(
            Finding(
                "ai keys", Level.DOUBTFUL, f"the offline demo answers for {', '.join(names)}", fix
            )
        )
    else:
        findings.append(Finding("ai keys", Level.GOOD, "every persona has a provider with a key"))
    # Integrations with a built-in address have no base_url to check.
    addresses = {
        choice.provider_name: choice.base_url
        for persona in personas.all()
        for choice in persona.choices
    }
    findings += await asyncio.gather(
        *(_reach(name, url) for name, url in addresses.items() if url is not None)
    )
    return findings


async def _reach(name: str, base_url: str) -> Finding:
    url = urlsplit(base_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    what = f"provider {name}"
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        reason = (
            f"no connection within {_CONNECT_S:g} s"
            if isinstance(error, TimeoutError)
            else str(error)
        )
        fix = f"set llmConfig.providers.{name}.base_url, or let this machine reach it"
        return Finding(what, Level.BAD, f"{host}:{port} cannot be reached ({reason})", fix)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return Finding(what, Level.GOOD, f"{host}:{port} can be reached")

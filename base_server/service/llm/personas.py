"""Which personas exist, and which provider answers for each: the configured one, or ``demo`` without its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from service.core.errors import StartError
from service.core.logger import Logger
from service.llm.llm_errors import UnknownPersona
from service.llm.llm_settings import DEMO_PROVIDER, LlmSettings, PersonaSettings, ProviderSettings


@dataclass(frozen=True, slots=True)
class PersonaInfo:
    """What clients see of a persona; ``model`` is the one that really answers (``demo`` without a key)."""

    ai_persona: str
    title: str
    description: str
    model: str
    default: bool


@dataclass(frozen=True, slots=True)
class Persona:
    """A persona with its provider resolved; ``provider`` and ``api_key`` are None when ``demo`` answers."""

    name: str
    settings: PersonaSettings
    provider_name: str
    provider: ProviderSettings | None
    api_key: SecretStr | None

    @property
    def model(self) -> str:
        return self.settings.model if self.provider is not None else DEMO_PROVIDER


class Personas:
    """All configured personas, resolved once. Raises :class:`StartError` for a key that must be there and is not."""

    def __init__(self, settings: LlmSettings, env: str, environ: Mapping[str, str]) -> None:
        self._default = settings.default_persona
        self._demo_allowed = settings.demo_without_key or env == "LOCAL"
        self._all = {
            name: self._resolved(name, persona, settings, environ) for name, persona in settings.personas.items()
        }
        self._names = {name.casefold(): name for name in self._all}

    def resolve(self, name: str | None) -> str:
        """The canonical name (exact, or without regard to case); None is the default persona."""
        if name is None:
            return self._default
        if name in self._all:
            return name
        if (canonical := self._names.get(name.casefold())) is None:
            raise UnknownPersona(name, sorted(self._all))
        return canonical

    def get(self, name: str) -> Persona:
        """The persona of a canonical name."""
        return self._all[name]

    def all(self) -> list[Persona]:
        return list(self._all.values())

    def infos(self) -> list[PersonaInfo]:
        return [
            PersonaInfo(
                persona.name,
                persona.settings.title or persona.name,
                persona.settings.description,
                persona.model,
                persona.name == self._default,
            )
            for persona in self._all.values()
        ]

    def without_key(self) -> list[str]:
        """Personas answered by ``demo`` only because their provider has no key."""
        return [
            persona.name
            for persona in self._all.values()
            if persona.provider is None and persona.settings.provider != DEMO_PROVIDER
        ]

    def warn_about_demo(self) -> None:
        """One warning for all of :meth:`without_key`."""
        if names := self.without_key():
            Logger.warn("no api key: these personas are answered by the offline demo model", personas=names)

    def _resolved(
        self, name: str, persona: PersonaSettings, settings: LlmSettings, environ: Mapping[str, str]
    ) -> Persona:
        if persona.provider == DEMO_PROVIDER:
            return Persona(name, persona, DEMO_PROVIDER, None, None)
        provider = settings.providers[persona.provider]
        key = _api_key(persona.provider, provider, environ)
        if key is not None:
            return Persona(name, persona, persona.provider, provider, key)
        if not self._demo_allowed:
            variable = f"BASE_SERVER__LLMCONFIG__PROVIDERS__{persona.provider.upper()}__API_KEY"
            also = " or OPENAI_API_KEY" if persona.provider == "openai" else ""
            raise StartError(
                f"llmConfig.providers.{persona.provider}.api_key is missing (persona {name} needs it): "
                f"set {variable}{also}, or llmConfig.demo_without_key to true."
            )
        return Persona(name, persona, DEMO_PROVIDER, None, None)


def _api_key(name: str, provider: ProviderSettings, environ: Mapping[str, str]) -> SecretStr | None:
    configured = provider.api_key.get_secret_value() if provider.api_key is not None else ""
    key = (configured or (environ.get("OPENAI_API_KEY", "") if name == "openai" else "")).strip()
    return SecretStr(key) if key else None

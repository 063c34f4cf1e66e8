"""Which personas exist, and which models answer for each: those configured that have their key, or
``demo``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import JsonValue, SecretStr

from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger
from base_server.service.llm.llm_errors import UnknownPersona
from base_server.service.llm.llm_settings import (
    DEMO_PROVIDER,
    OPENAI_URL,
    LlmSettings,
    ModelSettings,
    PersonaSettings,
    ProviderSettings,
)


@dataclass(frozen=True, slots=True)
class PersonaInfo:
    """What clients see of a persona; ``model`` is the one that is asked first (``demo`` without a
    key)."""

    ai_persona: str
    title: str
    description: str
    model: str
    default: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A model with its provider resolved. ``provider`` is None for the offline demo."""

    provider_name: str
    provider: ProviderSettings | None
    api_key: SecretStr | None
    model: str
    options: Mapping[str, JsonValue]
    context_tokens: int | None = None

    @property
    def base_url(self) -> str | None:
        """The address that is asked; None when only the integration knows it, or nobody is."""
        if self.provider is None:
            return None
        return self.provider.base_url or (
            OPENAI_URL if self.provider.integration == "openai" else None
        )

    @property
    def address(self) -> str | None:
        """:attr:`base_url` for the log: without user, password and query."""
        if self.base_url is None:
            return None
        url = urlsplit(self.base_url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


@dataclass(frozen=True, slots=True)
class Persona:
    """``choices``: the model and its fallbacks, at least one."""

    name: str
    settings: PersonaSettings
    choices: tuple[Choice, ...]

    @property
    def model(self) -> str:
        return self.choices[0].model


_DEMO = Choice(DEMO_PROVIDER, None, None, DEMO_PROVIDER, {})


class Personas:
    """All configured personas, resolved once. Raises :class:`StartError` for a key that must be
    there and is not.

    Where ``demo`` may stand in, models without a key are left out, and ``demo`` answers when none
    is left."""

    def __init__(self, settings: LlmSettings, env: str, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._demo_allowed = settings.demo_without_key or env == "LOCAL"
        self._without_key: list[str] = []
        self._all = {
            name: self._resolved(name, persona) for name, persona in settings.personas.items()
        }
        self._names = {name.casefold(): name for name in self._all}

    def resolve(self, name: str | None) -> str:
        """The canonical name (exact, or without regard to case); None is the default persona."""
        if name is None:
            return self._settings.default_persona
        if name in self._all:
            return name
        if (canonical := self._names.get(name.casefold())) is None:
            raise UnknownPersona(name, sorted(self._all))
        return canonical

    def all(self) -> list[Persona]:
        return list(self._all.values())

    def infos(self) -> list[PersonaInfo]:
        return [
            PersonaInfo(
                persona.name,
                persona.settings.title or persona.name,
                persona.settings.description,
                persona.model,
                persona.name == self._settings.default_persona,
            )
            for persona in self._all.values()
        ]

    def demo_only(self) -> list[str]:
        """Personas answered by ``demo`` only because no provider of theirs has its key."""
        return [
            persona.name
            for persona in self._all.values()
            if persona.choices == (_DEMO,) and persona.settings.provider != DEMO_PROVIDER
        ]

    def need_a_look(self) -> bool:
        """Whether packages or options are configured that only LangChain can judge, when the models
        are built."""
        choices = [choice for persona in self._all.values() for choice in persona.choices]
        return any(
            choice.provider is not None
            and (choice.provider.integration != "openai" or choice.options)
            for choice in choices
        )

    def warn_about_keys(self) -> None:
        """One warning for all of :meth:`demo_only`, one for the other models that were left out."""
        demo_only = self.demo_only()
        if demo_only:
            Logger.warn(
                "no api key: these personas are answered by the offline demo model",
                personas=demo_only,
            )
        if fewer := [name for name in self._without_key if name not in demo_only]:
            Logger.warn(
                "no api key: a model or fallback of these personas is left out", personas=fewer
            )

    def _resolved(self, name: str, persona: PersonaSettings) -> Persona:
        choices = [self._choice(name, chosen) for chosen in (persona, *persona.fallbacks)]
        with_key = tuple(choice for choice in choices if choice is not None)
        if len(with_key) < len(choices):
            self._without_key.append(name)
        return Persona(name, persona, with_key or (_DEMO,))

    def _choice(self, persona: str, chosen: ModelSettings) -> Choice | None:
        """None without the key, where that is allowed."""
        if chosen.provider == DEMO_PROVIDER:
            return _DEMO
        provider = self._settings.providers[chosen.provider]
        key = _api_key(chosen.provider, provider, self._environ)
        if key is not None or not provider.key_required:
            options = {**provider.options, **chosen.options}
            return Choice(
                chosen.provider,
                provider,
                key,
                chosen.model,
                options,
                self._settings.context_tokens_of(chosen),
            )
        if self._demo_allowed:
            return None
        variable = f"BASE_SERVER__LLMCONFIG__PROVIDERS__{chosen.provider.upper()}__API_KEY"
        also = " or OPENAI_API_KEY" if chosen.provider == "openai" else ""
        raise StartError(
            f"llmConfig.providers.{chosen.provider}.api_key is missing (persona {persona} needs"
            f" it): set {variable}{also}, or llmConfig.demo_without_key to true."
        )


def _api_key(name: str, provider: ProviderSettings, environ: Mapping[str, str]) -> SecretStr | None:
    configured = provider.api_key.get_secret_value() if provider.api_key is not None else ""
    key = (configured or (environ.get("OPENAI_API_KEY", "") if name == "openai" else "")).strip()
    return SecretStr(key) if key else None

"""``netConfig``: where the server listens and what it accepts."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from base_server.service.core.settings import Host
from base_server.template.account.settings import AccountSettings


def _is_network(value: str) -> str:
    ip_network(value, strict=False)
    return value


def check_app_name(value: str) -> str:
    """``value`` if it names a function as ``module:function``; raises ``ValueError``."""
    module, _, function = value.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError("must be module:function, e.g. game_server.chat_host:register")
    if module == "__main__":
        raise ValueError(
            "must name the module as it is imported: __main__ is another module in each process"
        )
    return value


def _is_http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value


class NetSettings(AccountSettings):
    """Default values. Times in seconds. The keys of accounts have always been in this section."""

    host: Host = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for all of IPv4, `::` for IPv6 too."""
    port: int = Field(default=8080, ge=0, le=65535)
    """0 takes a free port; the address is printed when the server is ready."""
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of /livez, /readyz and /metrics, on the same host; null serves them on ``port``."""
    workers: int = Field(default=1, ge=1, le=256)
    """Server processes on the port; with more than one a supervisor keeps them alive. The flag
    --workers takes precedence."""
    app: Annotated[str, AfterValidator(check_app_name)] | None = None
    """``module:function``: a host's function that every server process imports and calls with its
    ``TemplateContext`` before it starts, to register the host's templates. The flag --app takes
    precedence."""
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    """A longer request body is refused with 413."""
    http_status_for_errors: Literal["error", "ok"] = "error"
    """``ok`` returns HTTP 200 for every POST, for clients that read only ``errorCode``."""
    trusted_proxies: tuple[Annotated[str, AfterValidator(_is_network)], ...] = ()
    """Addresses or networks whose ``X-Forwarded-For`` is trusted."""
    cors_origins: tuple[str, ...] = ()
    """Origins of pages that may call this server, e.g. ``https://game.example``; ``*`` allows
    every page."""
    quiet_s: float = Field(default=0.0, ge=0)
    """How long the server goes on serving after ``/readyz`` turned 503, so that load balancers
    notice."""
    drain_timeout_s: float = Field(default=20.0, gt=0)
    """How long requests under way may take when the server stops."""
    traces_endpoint: Annotated[str, AfterValidator(_is_http_url)] | None = None
    """Where OpenTelemetry traces go, OTLP over HTTP, e.g. `http://127.0.0.1:4318/v1/traces`; null
    sends none. Needs the packages of the extra `otel`."""
    log_level: Literal["debug", "info", "warn", "error"] = "info"
    """Events of at least this level go to stderr, one JSON line each."""

    @model_validator(mode="after")
    def _ports_are_distinct(self) -> Self:
        if self.admin_port == self.port != 0:
            raise ValueError(
                f"admin_port: {self.admin_port} is port too; set another, or null for one port"
            )
        return self

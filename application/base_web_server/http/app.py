"""The aiohttp application: routes and middlewares."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import TemplateService

from ..config.net_settings import NetSettings
from ..observability.metrics import Metrics
from .cors import add_cors
from .middlewares import (
    add_common_headers,
    make_error_middleware,
    request_id_middleware,
)
from .peer import PeerFinder
from .routers.docs_router import add_docs_routes
from .routers.health_router import HealthReporter, add_health_routes
from .routers.page_router import add_page_routes
from .routers.protocol_router import add_protocol_routes


def build_app(
    settings: NetSettings,
    context: TemplateContext,
    service: TemplateService,
    health: HealthReporter,
    metrics: Metrics,
    is_open: Callable[[], bool],
) -> web.Application:
    """The server's app with the templates that ``context`` has now.

    Endpoints return "try again" unless ``is_open``.
    """
    app = _bare_app(settings, service)
    add_cors(app, settings.cors_origins)
    add_protocol_routes(app, context, service, PeerFinder(settings.trusted_proxies), is_open)
    add_page_routes(app)
    add_docs_routes(app, context)
    if settings.admin_port is None:
        add_health_routes(app, health, metrics)
    return app


def build_admin_app(
    settings: NetSettings, service: TemplateService, health: HealthReporter, metrics: Metrics
) -> web.Application:
    """Only the operators' routes, for a separate port."""
    app = _bare_app(settings, service)
    add_health_routes(app, health, metrics)
    return app


def _bare_app(settings: NetSettings, service: TemplateService) -> web.Application:
    app = web.Application(
        client_max_size=settings.max_body_bytes,
        middlewares=[request_id_middleware, make_error_middleware(service)],
    )
    app.on_response_prepare.append(add_common_headers)
    return app

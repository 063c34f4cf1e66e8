"""OpenTelemetry: a span per request, under the caller's trace, with the services' spans in it.

Off by default: the packages come with the extra ``otel``, and this module is imported only when
``netConfig.traces_endpoint`` is set. OpenTelemetry's own variables (``OTEL_TRACES_SAMPLER``, …)
choose the sampling and the service name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from base_server.service.core.errors import StartError
from base_server.service.core.tracing import install_tracer

from .. import __version__

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise StartError(
        f"netConfig.traces_endpoint is set and {missing.name} is not installed: install the extra"
        """ 'otel' (.venv/bin/python -m pip install -e ".[otel]"), or set"""
        " netConfig.traces_endpoint to null."
    ) from None

_SERVICE_NAME = "base_server"


class Tracing:
    """A ``base_server.service.core.tracing.Tracer`` that sends spans to ``endpoint`` in batches."""

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": _SERVICE_NAME, "service.version": __version__})
        self._provider = TracerProvider(resource=resource.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer(_SERVICE_NAME, __version__)
        self._propagator = TraceContextTextMapPropagator()

    def span(self, name: str, attributes: Mapping[str, str]) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(name, attributes=dict(attributes))

    @asynccontextmanager
    async def installed(self) -> AsyncIterator[None]:
        """The services record spans inside the block; at its end the pending ones are sent."""
        install_tracer(self)
        try:
            yield
        finally:
            install_tracer(None)
            await asyncio.to_thread(self._provider.shutdown)

    def middleware(self) -> Middleware:
        """A span for every request, under the trace of its ``traceparent``."""

        @web.middleware
        async def tracing_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unknown"
            with self._tracer.start_as_current_span(
                f"{request.method} {route}",
                context=self._propagator.extract(request.headers),
                kind=SpanKind.SERVER,
                attributes={"http.request.method": request.method, "http.route": route},
            ) as span:
                response = await handler(request)
                span.set_attribute("http.response.status_code", response.status)
                return response

        return tracing_middleware

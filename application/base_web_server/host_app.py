"""A host's own templates in the shipped server: a function found by its name, so that every process can import it."""

from __future__ import annotations

import inspect
from importlib import import_module

from base_server.service.core.errors import StartError
from base_server.template.base.template_context import TemplateContext


def register_host_templates(context: TemplateContext, app: str | None) -> None:
    """Call the function that ``app`` (``netConfig.app``) names with ``context``; do nothing where it names none.

    Raises :class:`StartError` when the function cannot be found. Its own errors are its own.
    """
    if app is None:
        return
    module_name, _, function_name = app.partition(":")
    try:
        function = getattr(import_module(module_name), function_name, None)
    except ImportError as error:
        raise StartError(
            f"netConfig.app (or --app) '{app}': {module_name} cannot be imported: {error}; is its folder on PYTHONPATH?"
        ) from error
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise StartError(
            f"netConfig.app (or --app) '{app}': {module_name} has no ordinary function '{function_name}';"
            " it is called with the TemplateContext and adds templates."
        )
    function(context)


def refuse_templates_of_one_process(context: TemplateContext) -> None:
    """Raise :class:`StartError` when code has registered templates in this process: no worker would have them."""
    if templates := context.templates():
        raise StartError(
            f"Registered before the start and in this process only: {', '.join(templates)}. Workers cannot have such"
            " templates: register them in a function that takes the TemplateContext, and name it with --app"
            " module:function or netConfig.app (docs/integration.md); or use --workers 1."
        )

"""A host's templates in the shipped server: a function by its name, which every process imports."""

from __future__ import annotations

import inspect
from importlib import import_module

from base_server.service.core.errors import StartError
from base_server.template.base.template_context import TemplateContext


def register_host_templates(context: TemplateContext, app: str | None) -> None:
    """Call the function that ``app`` (``netConfig.app``) names with ``context``, if there is one.

    Raises :class:`StartError` when the function cannot be found. Its own exceptions pass through.
    """
    if app is None:
        return
    module_name, _, function_name = app.partition(":")
    try:
        function = getattr(import_module(module_name), function_name, None)
    except ImportError as error:
        raise StartError(
            f"netConfig.app (or --app) '{app}': {module_name} cannot be imported: {error};"
            " is its folder on PYTHONPATH?"
        ) from error
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise StartError(
            f"netConfig.app (or --app) '{app}': {module_name} has no ordinary function"
            f" '{function_name}'; it is called with the TemplateContext and adds templates."
        )
    function(context)


def refuse_templates_of_one_process(context: TemplateContext) -> None:
    """Raise :class:`StartError` if templates are registered: workers would not have them."""
    if templates := context.templates():
        raise StartError(
            f"Registered before the start and in this process only: {', '.join(templates)}."
            " Workers do not have these templates: register them in a function that takes the"
            " TemplateContext, and name it with --app module:function or netConfig.app"
            " (docs/integration.md); or use --workers 1."
        )

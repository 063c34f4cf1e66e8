"""The server's templates, and their endpoints by protocol id and path."""

from __future__ import annotations

import re

from base_server.service.core.errors import StartError
from base_server.service.core.facade import Facade, facade
from base_server.service.core.renamed import warn_renamed
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.endpoint import Endpoint

_PATH = re.compile(r"/[^\s{}?#]*")


class TemplateContext(Facade):
    """Holds the templates by type (any text; ``TemplateType`` has the shipped ones).

    The class name refers to one context per process that always exists, so that a host can register
    its templates before the server starts; tests and embedders may create their own.
    """

    def __init__(self) -> None:
        self._templates: dict[str, BaseTemplate] = {}
        self._by_id: dict[int, Endpoint] = {}
        self._by_path: dict[str, Endpoint] = {}
        self._owners: dict[int, str] = {}

    @facade
    def add_template(self, template_type: str, template: BaseTemplate) -> None:
        """Register a template with its endpoints, all or nothing.

        Raises :class:`StartError` when the type, a protocol id or a path is taken, an id is kept by
        another template, or a path is none.
        """
        name = str(template_type)
        if name in self._templates:
            raise StartError(
                f"Template type '{name}' is registered twice: use another name for one of them."
            )
        templates = self._templates | {name: template}
        by_id, by_path, owners = dict(self._by_id), dict(self._by_path), dict(self._owners)
        for endpoint in template.endpoints():
            if not _PATH.fullmatch(endpoint.path):
                raise StartError(
                    f"Template '{name}' gives protocol {endpoint.id} the path '{endpoint.path}':"
                    " a path must begin with '/' and have no white space and none of { } ? #."
                )
            for taken, wanted in (
                (by_id.get(endpoint.id), f"id {endpoint.id} (for {endpoint.path})"),
                (by_path.get(endpoint.path), f"path {endpoint.path} (for protocol {endpoint.id})"),
            ):
                if taken is not None:
                    raise StartError(
                        f"Template '{name}' wants the {wanted}, which template"
                        f" '{owners[taken.id]}' has for protocol {taken.id} at {taken.path}: change"
                        " one of them."
                    )
            by_id[endpoint.id] = by_path[endpoint.path] = endpoint
            owners[endpoint.id] = name
        for keeper, kept in (
            (keeper, kept) for keeper, other in templates.items() for kept in other.kept_ids
        ):
            if owners.get(kept, keeper) != keeper:
                raise StartError(
                    f"Template '{owners[kept]}' wants the id {kept} (for {by_id[kept].path}), which"
                    f" template '{keeper}' keeps for a later protocol: use another."
                )
        self._templates, self._by_id, self._by_path, self._owners = (
            templates,
            by_id,
            by_path,
            owners,
        )

    @facade
    def get_template(self, template_type: str) -> BaseTemplate | None:
        return self._templates.get(str(template_type))

    @facade
    def templates(self) -> dict[str, BaseTemplate]:
        """Type → template, in the order of registration."""
        return dict(self._templates)

    @facade
    def endpoints(self) -> list[Endpoint]:
        """Every registered endpoint, by id."""
        return sorted(self._by_id.values(), key=lambda endpoint: endpoint.id)

    @facade
    def protocols(self) -> list[Endpoint]:
        """The old name of :meth:`endpoints`, for one version."""
        warn_renamed("TemplateContext.protocols()", "endpoints()")
        return self.endpoints()

    @facade
    def find_by_protocol(self, protocol_id: int) -> Endpoint | None:
        return self._by_id.get(protocol_id)

    @facade
    def find_by_path(self, path: str) -> Endpoint | None:
        return self._by_path.get(path)

    @facade
    def clear(self) -> None:
        """Forget every template (they are not stopped)."""
        self._templates, self._by_id, self._by_path, self._owners = {}, {}, {}, {}


# Services are installed by the container; this one is installed at import, since it needs none.
TemplateContext().install()

"""A host's template written for 0.1 works, with warnings: `Protocol`, `protocols()`, `@answers`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest

from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.encoding import encode
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.envelope import Request, Response
from base_server.template.base.errors import RoomNotFound
from base_server.template.base.field_types import Identifier
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import Call, TemplateService


class NoSessions:
    async def find(self, token: str) -> None:
        return None


def old_module(name: str) -> Any:
    with catch_warnings():  # a module warns only when it is imported first
        simplefilter("ignore", DeprecationWarning)
        return import_module(name)


def old_name(module: str, name: str) -> Any:
    with pytest.warns(DeprecationWarning, match=f"{name} is now "):
        return getattr(old_module(module), name)


def make_old_template() -> BaseTemplate:
    """What a host wrote against 0.1, whose modules it imports by their old bare names."""
    protocol = old_name("template.base.protocol", "Protocol")
    answers = old_name("template.base.answers", "answers")
    with pytest.warns(DeprecationWarning, match=r"OldTemplate.protocols\(\) is now endpoints\(\)"):

        class OldTemplate(BaseTemplate):
            def protocols(self) -> Sequence[Endpoint]:
                return [protocol(9001, "/api/old", Request, Response, self.on_old_req)]

            @answers(Response)
            async def on_old_req(self, client_session: Any, request: Request) -> Response:
                raise RoomNotFound

    return OldTemplate()


async def test_template_with_old_names_is_served() -> None:
    context = TemplateContext()
    context.add_template("old", make_old_template())
    (endpoint,) = context.endpoints()
    assert type(endpoint) is Endpoint
    answer = await TemplateService(NoSessions()).run_anonymous(endpoint, Call(b"{}"))
    assert json.loads(answer.body)["errorCode"] == 1004


def test_protocols_of_a_new_template_returns_its_endpoints() -> None:
    class NewTemplate(BaseTemplate):
        def endpoints(self) -> Sequence[Endpoint]:
            return [Endpoint(9001, "/new", Request, Response, None)]  # type: ignore[arg-type]

    template, context = NewTemplate(), TemplateContext()
    context.add_template("new", template)
    with pytest.warns(DeprecationWarning, match=r"NewTemplate.protocols\(\) is now endpoints\(\)"):
        assert template.protocols() == template.endpoints()
    with pytest.warns(DeprecationWarning, match=r"TemplateContext.protocols\(\) is now"):
        assert context.protocols() == context.endpoints()


def test_old_subclass_may_extend_the_endpoints_of_its_base() -> None:
    class Base(BaseTemplate):
        def endpoints(self) -> Sequence[Endpoint]:
            return [Endpoint(9001, "/base", Request, Response, None)]  # type: ignore[arg-type]

    with pytest.warns(DeprecationWarning, match=r"protocols\(\) is now endpoints"):

        class Extended(Base):
            def protocols(self) -> Sequence[Endpoint]:
                own = Endpoint(9002, "/own", Request, Response, None)  # type: ignore[arg-type]
                return [*super().protocols(), own]

    with pytest.warns(DeprecationWarning, match=r"protocols\(\) is now endpoints"):
        assert [endpoint.id for endpoint in Extended().endpoints()] == [9001, 9002]


def test_unknown_name_of_a_module_is_an_attribute_error() -> None:
    module = import_module("base_server.template.base.endpoint")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


def test_names_that_moved_out_of_wire_are_the_same_objects() -> None:
    module = old_module("template.base.wire")
    with pytest.warns(DeprecationWarning, match="Identifier is now "):
        assert module.Identifier is Identifier
    with pytest.warns(DeprecationWarning, match="encode is now "):
        assert module.encode is encode
    assert module.Request is Request

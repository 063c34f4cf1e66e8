"""Both pairs of backends, as for the chat's own tests."""

from __future__ import annotations

from tests.template.chat.conftest import backends, provider, pytest_generate_tests

__all__ = ["backends", "provider", "pytest_generate_tests"]

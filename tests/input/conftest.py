"""Whole servers, as for the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import configuration, deployment

__all__ = ["configuration", "deployment"]

"""Redis and MySQL in every kind of trouble while players play: what was acknowledged is there,
once, in order.

The quicker part of the faults that ``make chaos`` draws from (``tests/faults/chaos.py``).
"""

from __future__ import annotations

import random

import pytest

from tests.faults.losses import run_fault
from tests.faults.shared_harness import SharedHarness
from tests.load_clients import Player

pytestmark = pytest.mark.asyncio(loop_scope="package")

IN_SHORT = [
    "redis killed",
    "redis out of memory",
    "redis connections broken",
    "redis restarted old",
    "mysql answer lost",
    "shard away",
]


@pytest.mark.parametrize("fault", IN_SHORT)
async def test_nothing_acknowledged_is_lost_doubled_or_revived(
    harness: SharedHarness, load_clients: list[Player], fault: str
) -> None:
    await run_fault(fault, harness, load_clients, random.Random(fault))

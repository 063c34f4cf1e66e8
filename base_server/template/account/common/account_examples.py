"""A request and its response for each account endpoint, for the API's description."""

from __future__ import annotations

from base_server.template.base.endpoint import Example

_WHO = {"account_id": "alice", "password": "correct horse"}

SIGNUP_EXAMPLE = Example(
    _WHO | {"nickname": "Alice", "sequence": 1},
    {"errorCode": 0, "sequence": 1, "account_id": "alice"},
)
LOGIN_EXAMPLE = Example(
    _WHO | {"sequence": 2},
    {
        "errorCode": 0,
        "sequence": 2,
        "accessToken": "075d2f1e8ff3c24bb6a1",
        "account": {
            "account_id": "alice",
            "nickname": "Alice",
            "created_at": "2026-11-25T08:59:59.482000+00:00",
        },
    },
)
LOGOUT_EXAMPLE = Example({"sequence": 3}, {"errorCode": 0, "sequence": 3})

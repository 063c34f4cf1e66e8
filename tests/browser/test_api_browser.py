"""The API browser as a client developer uses it: all requests are there, one is tried, nothing
comes from elsewhere."""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect

from docs.generate_postman import LIFE
from tests.browser.browser_harness import PASSWORD, Player
from tests.browser.conftest import Visit


def test_every_request_is_shown_and_one_is_tried(visit: Visit, player: Player) -> None:
    page = visit().context.new_page()
    page.goto("docs")
    expect(page.get_by_role("heading", name="Chat template server")).to_be_visible()
    # Each protocol, and the route that takes them by number.
    expect(page.locator(".opblock")).to_have_count(len(LIFE) + 1)

    login = page.locator("#operations-account-protocol_1002")
    login.locator(".opblock-summary-control").click()
    body = login.locator("textarea.body-param__text")
    expect(body).to_have_value(re.compile("alice"))
    body.fill(json.dumps({"account_id": player.account_id, "password": PASSWORD}))
    login.get_by_role("button", name="Execute").click()
    answer = login.locator(".live-responses-table .response-col_description pre").first
    expect(answer).to_contain_text("accessToken")
    expect(answer).to_contain_text(player.account_id)

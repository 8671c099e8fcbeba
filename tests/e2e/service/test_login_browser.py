"""A person before the real service: logs in at an issuer's page, asks, logs out."""

from pathlib import Path

from playwright.sync_api import expect

from chromium import keep, launched, say
from oidc_server import CLIENT, SECRET, mock_provider
from service import call, running


def test_a_person_logs_in_asks_and_logs_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with mock_provider() as issuer:
        sets = (
            f"oidc.issuer={issuer}",
            f"oidc.client_id={CLIENT}",
            f"oidc.client_secret=file:{secret}",
            "oidc.default_team=default",
            "oidc.scopes=openid,email",
        )
        with running(tmp_path, auth=True, sets=sets) as service, launched() as browser:
            page = browser.new_context(color_scheme="light").new_page()
            page.set_default_timeout(20_000)
            wrong: list[str] = []
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(service.url)
            expect(page.get_by_role("link", name="Log in")).to_be_visible()
            expect(page.get_by_label("API key")).to_be_visible()
            keep(page, "login-out.png")
            page.get_by_role("link", name="Log in").click()
            page.locator("input[name=sub]").fill("ann@acme.example")
            page.get_by_role("button", name="Authorize").click()
            page.wait_for_url(f"{service.url}/")
            expect(page.get_by_text("ann@acme.example")).to_be_visible()
            expect(page.get_by_label("API key")).to_be_hidden()
            page.get_by_label("Most tokens in an answer").fill("4")
            say(page, "Who are you?")
            expect(page.locator("#status")).to_contain_text("Answer complete")
            keep(page, "login-in.png")
            page.get_by_role("button", name="Log out").click()
            page.wait_for_url(f"{issuer}/**")  # to its own page, where that session is ended
            page.goto(service.url)
            expect(page.get_by_role("link", name="Log in")).to_be_visible()
            assert wrong == []
            assert call(service.url + "/v1/models")[0] == 401

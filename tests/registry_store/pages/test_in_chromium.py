"""The pages in Debian's Chromium: by keyboard alone, from a link of another site, in the dark, and on a phone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests import chromium
from tests.chromium import Screen
from tests.registry_store.approving import opened
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import PATIENT, Served, served


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One store: what differs between databases, the other tests try."""
    with served(settings_in(tmp_path_factory.mktemp("store")), PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def running() -> Iterator[Screen]:
    """One browser: starting it takes longer than a test."""
    with chromium.screen() as started:
        yield started


@pytest.fixture
def screen(running: Screen) -> Screen:
    """A browser in which nobody is signed in."""
    running.forget()
    return running


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def site(folder: Path, page: str) -> Iterator[str]:
    """Another site, with one page; its address."""
    (folder / "index.html").write_text(page)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sign_in(screen: Screen, store: Served, path: str) -> None:
    """Open a page, and sign in with the keyboard."""
    screen.open(f"http://{store.running.http_address}{path}")
    screen.press(store.key("approver", "ann"), Keys.ENTER)
    screen.shows("Sign out")


def tab_to(screen: Screen, name: str) -> None:
    """Press the tabulator until a button, link or field of this name has the focus."""
    for _ in range(50):
        screen.press(Keys.TAB)
        if name in (screen.focus.text, screen.focus.get_attribute("name")):
            return
    pytest.fail(f"{name} is not reached by the tabulator")


def test_a_person_signs_in_and_approves_by_keyboard(store: Served, screen: Screen) -> None:
    """No mouse, no script, no request to another host, and nothing that the browser complains of."""
    admin, approval_id = store.rest(), opened(store, amount=15000)
    sign_in(screen, store, f"/approvals/{approval_id}")
    screen.shows("transaction.process on banking_api")
    tab_to(screen, "comment")
    screen.press("invoice 4711 checked")
    tab_to(screen, "Approve")
    screen.press(Keys.ENTER)
    screen.shows("It is approved, decided by ann")
    shown = admin.get(f"/api/approvals/{approval_id}").body
    assert (shown["status"], shown["decided_by"], shown["comment"]) == ("approved", "ann", "invoice 4711 checked")
    (entry,) = admin.get(f"/api/activity?subject_id={approval_id}&type=approval_approved").body["activities"]
    assert entry["performed_via"] == "dashboard"
    assert screen.asked_hosts() == {store.running.http_address}
    assert screen.complaints() == []


def test_a_link_of_another_site_needs_no_second_sign_in(store: Served, screen: Screen, tmp_path: Path) -> None:
    """As in mail that is read in a browser; and a form of that site decides nothing."""
    approval_id = opened(store)
    sign_in(screen, store, "/approvals")
    address = f"http://{store.running.http_address}/approvals/{approval_id}"
    link = f'<a href="{address}">decide</a><form method="post" action="{address}"><button>win</button></form>'
    with site(tmp_path, link) as other:
        screen.open(other)
        screen.driver.find_element(By.TAG_NAME, "a").send_keys(Keys.ENTER)
        screen.shows("Your decision")
        screen.open(other)
        screen.driver.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        screen.shows("Your API key")
    assert store.rest().get(f"/api/approvals/{approval_id}").body["status"] == "pending"


def test_the_pages_fit_a_phone_and_the_dark(store: Served, screen: Screen) -> None:
    """Nothing scrolls sideways, also with texts without a blank; the colours follow the system's."""
    approval_id = opened(store, resource="x" * 2000, attributes={"note": "y" * 2000})
    sign_in(screen, store, "/approvals")
    screen.be_a_phone()
    for path in ("/", "/approvals", f"/approvals/{approval_id}"):
        screen.open(f"http://{store.running.http_address}{path}")
        assert screen.page_width <= screen.width == chromium.PHONE["width"], path
    assert screen.ink == "rgb(0, 0, 0)"
    screen.be("prefers-color-scheme", "dark")
    assert screen.ink == "rgb(255, 255, 255)"

"""Debian's Chromium for tests, without a window, driven by Selenium: what a person sees, types and is sent to.

`python -m tests.chromium` says how to install it where it is missing; with `installed`, exit code 1 says that it is.
"""

import base64
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

PROGRAMS = ("chromium", "chromedriver")
MISSING = "Chromium is not installed; the tests of pages need: apt-get install --yes chromium chromium-driver"
WAIT_SECONDS = 120
NETWORK_SCHEMES = ("http", "https", "ws", "wss")
"""It asks itself by others, such as for its page of a new tab."""
LEAVING = (NoSuchElementException, StaleElementReferenceException)
"""What is raised while one page gives way to the next."""
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


class Screen:
    """One browser with an empty profile. It knows no other host than loopback, and notes what it asks for."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open an address, as from a bookmark."""
        self.driver.get(url)

    def forget(self) -> None:
        """Be as new: no cookie, and nothing noted."""
        self._command("Network.clearBrowserCookies")
        self.asked_hosts()
        self.complaints()

    def press(self, *keys: str) -> None:
        """Press keys, whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focus(self) -> WebElement:
        """What has the focus."""
        return self.driver.switch_to.active_element

    @property
    def text(self) -> str:
        """What a person reads."""
        # Not by an element, which may be gone before it is asked for its text, when one page gives way to the next.
        return str(self.driver.execute_script("return document.body?.innerText ?? ''"))

    def shows(self, text: str) -> None:
        """Return once the page shows this text."""
        wait = WebDriverWait(self.driver, WAIT_SECONDS, ignored_exceptions=LEAVING)
        wait.until(lambda _: text in self.text, f"the page does not show: {text}")

    def be(self, kind: str, value: str) -> None:
        """Prefer what a media feature says, such as `prefers-color-scheme`: `dark`."""
        self._command("Emulation.setEmulatedMedia", features=[{"name": kind, "value": value}])

    def be_a_phone(self) -> None:
        """Have the screen of a phone."""
        self._command("Emulation.setDeviceMetricsOverride", **PHONE)

    def picture(self, path: Path, scale: float = 1) -> None:
        """Write a picture of the whole page."""
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.width, "height": height, "scale": scale}
        shot = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def width(self) -> int:
        """The width of the window, in CSS pixels."""
        return int(self.driver.execute_script("return window.innerWidth"))

    @property
    def page_width(self) -> int:
        """The width that the page takes: if it is larger than the window's, the page scrolls sideways."""
        return int(self.driver.execute_script("return document.documentElement.scrollWidth"))

    @property
    def ink(self) -> str:
        """The colour of the text."""
        return str(self.driver.execute_script("return getComputedStyle(document.body).color"))

    def asked_hosts(self) -> set[str]:
        """The hosts, with their ports, of all that it has asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in sent if urlsplit(url).scheme in NETWORK_SCHEMES}

    def complaints(self) -> list[str]:
        """What it wrote to its console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def _command(self, name: str, **parameters: object) -> dict[str, str]:
        done: dict[str, str] = self.driver.execute_cdp_cmd(name, parameters)
        return done


@contextmanager
def screen() -> Iterator[Screen]:
    """A browser; where it is not installed the test is skipped, and in CI, which skips nothing, it fails."""
    if not is_installed():
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in (
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--window-size=1000,900",
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        driver = Chrome(options, Service(str(shutil.which("chromedriver"))))
        try:
            driver.set_page_load_timeout(WAIT_SECONDS)
            yield Screen(driver)
        finally:
            driver.quit()


def is_installed() -> bool:
    """Whether the browser and its driver are there."""
    return all(shutil.which(program) for program in PROGRAMS)


if __name__ == "__main__" and not is_installed():
    sys.exit(MISSING) if "installed" in sys.argv else sys.stderr.write(f"{MISSING}\n")

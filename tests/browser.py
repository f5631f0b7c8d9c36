"""A headless Chromium without a network, a page that is open in it, and a page's file."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By


def offline_chromium(profile: Path) -> webdriver.Chrome:
    """The browser, to be quit after use; skips the test if there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    flags = """headless no-sandbox disable-gpu disable-dev-shm-usage disable-quic no-first-run disable-sync
        disable-background-networking disable-component-update"""
    for flag in (*flags.split(), "host-resolver-rules=MAP * ~NOTFOUND", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(300)
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    return browser


def content(path: Path) -> dict:
    """The data that a page's file holds; by its Content-Security-Policy, the page may send nothing."""
    text = path.read_text(encoding="utf-8")
    policy = text.split('http-equiv="Content-Security-Policy"')[1].split(">")[0]
    assert "default-src 'none'" in policy and "connect-src" not in policy and "http" not in policy
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])


def same_but_for_numbers(path: Path, fresh: Path) -> tuple[dict, dict]:
    """The data of both pages, which differ only in the numbers that training makes."""
    data = re.compile('(?<=type="application/json">).*?(?=</script>)', re.DOTALL)
    assert data.sub("", path.read_text("utf-8")) == data.sub("", fresh.read_text("utf-8"))
    kept, now = content(path), content(fresh)
    assert kept.keys() == now.keys()
    for part in ("encoder", "decoder"):
        for layer, other in zip(kept[part], now[part], strict=True):
            assert all(layer[key] == other[key] for key in ("kind", "channels", "width"))
            assert len(layer.get("bias", ())) == len(other.get("bias", ()))
    return kept, now


class Page:
    """A page that is open in the browser, with the views and actions of a person there."""

    def __init__(self, browser, path, width=1280, height=1000, dark=False):
        self.browser = browser
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(path.as_uri())
        error = browser.execute_async_script("ready.then(() => arguments[0](), error => arguments[0](`${error}`))")
        assert error is None
        loaded = self.run("return performance.getEntriesByType('resource').map(({name}) => name)")
        assert all(name.startswith("blob:") for name in loaded)  # nothing from elsewhere
        self.settle()

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until pending drawing is done."""
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")

    def find(self, name: str):
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.find(name).text

    def assert_it_fits(self, *names: str) -> None:
        """The window isn't too narrow for these elements, and all that a person uses is named for screen readers."""
        width = self.run("return innerWidth")
        assert self.run("return document.documentElement.scrollWidth") <= width
        for name in names:
            rect = self.find(name).rect
            assert rect["x"] >= 0 and rect["x"] + rect["width"] <= width and rect["height"] >= 16, name
        for element in self.browser.find_elements(By.CSS_SELECTOR, "button, input, canvas[role]"):
            assert element.accessible_name or not element.is_displayed(), element.get_attribute("outerHTML")

    def swipe(self, name: str, *steps: list[tuple[float, float]]) -> None:
        """Fingers are put down, moved and lifted: their places at each step, in pixels of an element."""
        rect = self.run("return document.getElementById(arguments[0]).getBoundingClientRect()", name)
        for number, step in enumerate((*steps, [])):
            points = [{"x": rect["x"] + x, "y": rect["y"] + y, "id": finger} for finger, (x, y) in enumerate(step)]
            kind = "touchMove" if 0 < number < len(steps) else "touchStart" if step else "touchEnd"
            self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            self.settle()

    def shown(self, name: str) -> torch.Tensor:
        """The grey levels (H, W) on a canvas of images."""
        script = """const canvas = document.getElementById(arguments[0]), {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            return [height, width, Array.from({length: width * height}, (_, pixel) => data[4 * pixel + 3])];"""
        height, width, opacity = self.run(script, name)
        return torch.tensor(opacity).view(height, width) / 255

    def on_map(self, place) -> ActionChains:
        """The mouse, moved to a place in the latent plane."""
        x, y = self.run("return toPixels(arguments[0])", torch.as_tensor(place).tolist())
        half = self.find("marks").size["width"] / 2
        return ActionChains(self.browser, 0).move_to_element_with_offset(self.find("marks"), x - half, y - half)

    def place(self) -> torch.Tensor:
        return torch.tensor(self.run("return place"))

    def press(self, *keys: str, where="marks") -> None:
        self.find(where).send_keys(*keys)
        self.settle()

    def draw(self, *places: tuple[float, float]) -> None:
        """A stroke of the mouse through places in the field, as shares of its sides."""
        half, mouse = self.find("ink").size["width"] / 2, ActionChains(self.browser, 0)
        for number, (x, y) in enumerate(places):
            mouse.move_to_element_with_offset(self.find("ink"), (2 * x - 1) * half, (2 * y - 1) * half)
            if not number:
                mouse.click_and_hold()
        mouse.release().perform()
        self.settle()

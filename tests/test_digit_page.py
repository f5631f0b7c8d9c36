"""The explorer's page: its size and contents, and what it does in a real browser, without a network."""

import base64
import gzip
import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import vanilla_ae
import vanilla_vae_mnist
from common.data.digits import Digits
from common.data.tensors import to_float
from common.figures import digit_page
from common.latent import interpolate
from common.training import batched

BOUND = 0.02
TITLE = "Autoencoder </script> & friends"


def clusters(labels: torch.Tensor) -> torch.Tensor:
    """Codes (N, 2) like a trained model's: each class around its own place on a circle."""
    angle = labels * (2 * torch.pi / 10)
    noise = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(0))
    return 3 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.4 * noise


@pytest.fixture(scope="module")
def pages(digits, tmp_path_factory):
    """Both models' pages of the 10,000 test digits: {"ae", "vae"} -> path, codes, decoder.

    The models are not trained, but sharpened: like a trained one's, their images change from black to white.
    """
    torch.manual_seed(0)
    models = {"ae": vanilla_ae.Autoencoder(2), "vae": vanilla_vae_mnist.VariationalAutoencoder(2)}
    with torch.no_grad():
        models["ae"].decoder[0].directions.mul_(0.5)  # training smooths what is random at first
        models["ae"].decoder[-2].weight.mul_(4)
        models["vae"].decoder[-1].weight.mul_(4)
    folder, test = tmp_path_factory.mktemp("pages"), digits[1]
    latent = clusters(test.labels)
    written = {}
    for name, model in models.items():
        grey = model.decode if name == "ae" else lambda batch, model=model: model.decode(batch).sigmoid()
        path = folder / f"{name}.html"
        digit_page.write(path, test, latent, model.encoder, model.decoder, TITLE, prior=name == "vae")
        written[name] = path, latent, batched(grey, torch.device("cpu"))
    return written


def content(path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])


def unpack(text: str, kind: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(gzip.decompress(base64.b64decode(text)), kind).astype(np.float32))


def few(digits) -> tuple[Digits, torch.Tensor]:
    test = digits[1]
    small = Digits(test.images[:200], test.labels[:200], test.classes)
    return small, clusters(small.labels)


# ---- The file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_the_page_holds_the_test_digits_in_two_megabytes(pages, digits, name):
    path, latent, _ = pages[name]
    assert path.stat().st_size <= 2_000_000
    page, test = content(path), digits[1]
    area = page["area"]
    corner = torch.tensor([area["left"], area["bottom"]])
    points = corner + unpack(page["points"], "<u2").view(-1, 2) / 65535 * area["side"]
    torch.testing.assert_close(points, latent, atol=area["side"] / 65535, rtol=0)
    assert (unpack(page["labels"], "u1") == test.labels).all()
    assert [each["name"] for each in page["classes"]] == list(test.classes)
    originals = page["originals"]
    images = unpack(originals["images"], "u1").view(-1, 1, 28, 28) / (originals["levels"] - 1)
    assert originals["levels"] >= 8 and (images - to_float(test.images)).abs().max() < 0.1
    low, high = points.amin(dim=0), points.amax(dim=0)
    assert (corner < low).all() and (corner + area["side"] > high).all()


@pytest.fixture
def small_decoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 784))


def test_originals_that_pack_badly_are_coarser(digits, tmp_path, monkeypatch, small_decoder):
    monkeypatch.setattr(digit_page, "LIMIT", 100_000)
    test, latent = few(digits)
    noise = torch.randint(256, test.images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    digit_page.write(
        tmp_path / "page.html", replace(test, images=noise), latent, None, small_decoder, TITLE, prior=False
    )
    assert (tmp_path / "page.html").stat().st_size <= 100_000
    originals = content(tmp_path / "page.html")["originals"]
    assert (originals["size"], originals["levels"]) != digit_page.ORIGINALS[0]


@pytest.mark.parametrize(("bound", "limit"), [(1e-7, 2_000_000), (0.015, 1000)])
def test_no_page_where_none_would_be_true_or_small(digits, tmp_path, capsys, monkeypatch, small_decoder, bound, limit):
    monkeypatch.setattr(digit_page, "BOUND", bound)  # 8 bits a weight are too few for the first
    monkeypatch.setattr(digit_page, "LIMIT", limit)
    path = tmp_path / "page.html"
    path.write_text("a page of another model")
    digit_page.write(path, *few(digits), None, small_decoder, TITLE, prior=False)
    assert not path.exists() and "warning: no " in capsys.readouterr().err


def test_no_page_of_a_layer_that_the_page_does_not_know(digits, tmp_path, capsys, small_decoder):
    small_decoder[1] = torch.nn.GELU()
    digit_page.write(tmp_path / "page.html", *few(digits), None, small_decoder, TITLE, prior=False)
    assert not (tmp_path / "page.html").exists() and "warning: no " in capsys.readouterr().err


def test_a_collapsed_model_has_a_page(digits, tmp_path, small_decoder):
    test, latent = few(digits)
    digit_page.write(tmp_path / "page.html", test, torch.zeros_like(latent), None, small_decoder, TITLE, prior=False)
    assert content(tmp_path / "page.html")["area"] == {"left": -0.5, "bottom": -0.5, "side": 1.0}


# ---- In a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that is offline."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "host-resolver-rules=MAP * ~NOTFOUND",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield browser
    browser.quit()


class Page:
    """A page that is open in the browser, and what a person sees and does there."""

    def __init__(self, browser, path, width=1280, height=1000, dark=False):
        self.browser = browser
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(path.as_uri())
        error = browser.execute_async_script("ready.then(() => arguments[0](), error => arguments[0](`${error}`))")
        assert error is None
        self.settle()

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until what is due is drawn."""
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")

    def find(self, name: str):
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.find(name).text

    def decode(self, places: torch.Tensor) -> torch.Tensor:
        """What the page decodes at places (N, 2): grey levels (N, 784)."""
        levels = "return arguments[0].map(place => Array.from(decode(place), grey => Math.round(grey * 1e4)))"
        return torch.tensor(self.run(levels, places.tolist())) / 1e4

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

    def press(self, *keys: str) -> None:
        self.find("marks").send_keys(*keys)
        self.settle()


@pytest.fixture
def ae(browser, pages):
    page = Page(browser, pages["ae"][0])
    yield page
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def vae(browser, pages):
    page = Page(browser, pages["vae"][0])
    yield page
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_it_opens_from_disk_and_loads_nothing_else(ae):
    assert ae.run("return location.protocol") == "file:"
    assert ae.run("return performance.getEntriesByType('resource')") == []
    assert ae.browser.title == ae.text("title") == TITLE


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_it_decodes_what_pytorch_decodes(browser, pages, name):
    path, _, decode = pages[name]
    page = Page(browser, path)
    area = content(path)["area"]
    share = torch.rand(1000, 2, generator=torch.Generator().manual_seed(1))
    places = torch.tensor([area["left"], area["bottom"]]) + area["side"] * share
    error = (page.decode(places) - decode(places).flatten(1)).abs().mean(dim=1)
    assert error.max() <= BOUND
    page.on_map(places[0]).perform()
    page.settle()
    shown = decode(page.place()[None])[0, 0]
    assert (page.shown("decoded") - shown).abs().mean() <= BOUND


def test_a_dot_shows_its_original_and_its_class(ae, digits, pages):
    images, labels, latent = to_float(digits[1].images)[:, 0], digits[1].labels, pages["ae"][1]
    alone = torch.cdist(latent, latent).topk(2, largest=False).values[:, 1].argmax()
    ae.on_map(latent[alone]).perform()
    ae.settle()
    assert ae.text("caption") == f"test image {alone + 1}, class {labels[alone]}"
    assert (ae.shown("original") - images[alone]).abs().max() < 0.1
    ae.on_map([0, 0]).perform()
    ae.settle()
    assert ae.text("caption") == "no test image here" and ae.shown("original").max() == 0


def test_the_legend_switches_a_class_off_and_on(ae, digits, pages):
    of_class = pages["ae"][1][digits[1].labels == 3]
    boxes = ae.find("legend").find_elements(By.TAG_NAME, "label")
    assert [box.text for box in boxes] == list(digits[1].classes)

    def dots() -> int:
        """Pixels of the third class's colour around its dots."""
        colour = tuple(int(content(pages["ae"][0])["classes"][3]["colour"][at : at + 2], 16) for at in (1, 3, 5))
        script = """const [x, y] = toPixels(arguments[0]), context = document.getElementById("points").getContext("2d");
            return Array.from(context.getImageData(x - 30, y - 30, 60, 60).data)"""
        pixels = torch.tensor(ae.run(script, of_class.median(dim=0).values.tolist())).view(-1, 4)
        return int(((pixels[:, :3] - torch.tensor(colour)).abs().amax(dim=1) < 8).sum())

    shown = dots()
    ae.on_map(of_class[0]).perform()
    boxes[3].click()
    ae.settle()
    assert shown > 100 and dots() == 0
    assert not ae.text("caption").endswith("class 3")
    boxes[3].click()
    ae.settle()
    assert dots() == shown and ae.text("caption").endswith("class 3")


def test_two_clicks_draw_a_line_and_its_strip(ae, pages):
    for place in ([-3.0, 0.5], [2.0, -1.0]):
        before = ae.shown("marks")
        ae.on_map(place).click().perform()
        ae.settle()
        assert (ae.shown("marks") != before).any()
    ends = torch.tensor(ae.run("return ends"))
    torch.testing.assert_close(ends, torch.tensor([[-3.0, 0.5], [2.0, -1.0]]), atol=0.05, rtol=0)
    expected = pages["ae"][2](interpolate(*ends, 12))[:, 0]
    strip = torch.stack(ae.shown("strip").split(28, dim=1))
    assert (strip - expected).abs().mean(dim=(1, 2)).max() <= BOUND

    ae.run("walk.value = 0.25; walk.dispatchEvent(new Event('input'))")
    torch.testing.assert_close(ae.place(), ends[0] + 0.25 * (ends[1] - ends[0]))
    ae.find("play").click()
    time.sleep(0.5)
    ae.find("play").click()
    share = float(ae.find("walk").get_property("value"))
    assert 0.25 < share < 0.6
    torch.testing.assert_close(ae.place(), ends[0] + share * (ends[1] - ends[0]))


def test_only_the_vae_has_a_prior(ae, pages):
    assert not ae.find("prior").is_displayed()
    vae = Page(ae.browser, pages["vae"][0])
    vae.find("sample").click()
    places = torch.tensor(vae.run("return samples"))
    assert places.shape == (24, 2) and 0.5 < places.std() < 1.5
    first, second = vae.shown("samples").split(28, dim=0)
    images = torch.stack([*first.split(28, dim=1), *second.split(28, dim=1)])
    assert (images - pages["vae"][2](places)[:, 0]).abs().mean(dim=(1, 2)).max() <= BOUND


def test_the_mouse_zooms_and_pans(ae):
    origin = ScrollOrigin.from_element(ae.find("marks"), 50, -80)
    ae.on_map([0, 0]).perform()
    before = ae.run("return [area.side, decode(place)]")
    ActionChains(ae.browser, 0).scroll_from_origin(origin, 0, -600).perform()
    ae.settle()
    zoomed = ae.run("return {...view}")
    assert zoomed["side"] < 0.5 * before[0]
    ActionChains(ae.browser, 0).move_to_element(ae.find("marks")).click_and_hold().move_by_offset(
        60, 40
    ).release().perform()
    ae.settle()
    panned, width = ae.run("return {...view}"), ae.find("marks").size["width"]
    assert panned["left"] == pytest.approx(zoomed["left"] - 60 / width * zoomed["side"])
    assert panned["bottom"] == pytest.approx(zoomed["bottom"] + 40 / width * zoomed["side"])
    assert len(ae.run("return ends")) == 2  # it was no click
    ae.find("all").click()
    assert ae.run("return view") == ae.run("return area")


def test_the_keyboard_does_what_the_mouse_does(ae):
    start = ae.place()
    ae.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    step = ae.run("return area.side") / 50
    torch.testing.assert_close(ae.place(), start + step * torch.tensor([2.0, 1.0]))
    ae.press(Keys.ENTER, *[Keys.ARROW_LEFT] * 5, Keys.ENTER)
    ends = torch.tensor(ae.run("return ends"))
    torch.testing.assert_close(ends[1] - ends[0], step * torch.tensor([-5.0, 0.0]), atol=1e-4, rtol=0)
    ae.press(*"+" * 10, *[Keys.ARROW_UP] * 40)
    view, place = ae.run("return [view, place]")
    assert view["side"] < 10 * step and view["bottom"] <= place[1] <= view["bottom"] + view["side"]
    ae.press("0")
    assert ae.run("return view") == ae.run("return area")


def test_one_finger_explores_two_zoom(browser, pages):
    page = Page(browser, pages["ae"][0], width=390, height=844)
    map_ = page.find("marks").rect

    def touch(kind: str, *fingers: tuple[float, float]) -> None:
        points = [{"x": map_["x"] + x, "y": map_["y"] + y, "id": number} for number, (x, y) in enumerate(fingers)]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        page.settle()

    ends = page.run("return ends")
    touch("Start", (100, 100))
    touch("Move", (160, 200))
    place = page.run("return toPixels(place)")
    assert place == pytest.approx([160, 200], abs=1)
    touch("Start", (160, 200), (200, 200))
    touch("Move", (160, 200), (260, 200))
    touch("End")
    assert page.run("return view.side / area.side") == pytest.approx(0.4, abs=0.02)
    assert page.run("return ends") == ends
    touch("Start", (150, 150))
    touch("End")
    assert len(page.run("return ends")) == 1


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 760])
def test_it_fits_a_narrow_window_in_light_and_dark(browser, pages, width, dark):
    page = Page(browser, pages["vae"][0], width=width, height=844, dark=dark)
    page.find("sample").click()
    page.settle()
    assert page.run("return document.documentElement.scrollWidth") <= width
    for name in ("map", "decoded", "original", "strip", "walk", "samples", "legend"):
        rect = page.find(name).rect
        assert rect["x"] >= 0 and rect["x"] + rect["width"] <= width and rect["height"] >= 16, name
    assert page.find("map").size["width"] >= min(350, width / 2)
    decoded, map_ = page.find("decoded").rect, page.find("map").rect
    assert max(decoded["y"] + decoded["height"], map_["y"] + map_["height"]) <= 844  # seen together
    names = "button, input, canvas:not([aria-hidden])"
    for element in browser.find_elements(By.CSS_SELECTOR, names):
        assert element.accessible_name, element.get_attribute("outerHTML")
    page.find("marks").click()
    page.press(Keys.ENTER)
    assert page.shown("strip").max() > 0.5

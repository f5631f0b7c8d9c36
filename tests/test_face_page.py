"""The page of live faces: its size, its contents, and its behaviour in a real browser without a network."""

import base64
import math

import pytest
import torch
from browser import Page, assert_it_may_send_nothing, content
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from torch.nn import functional as F

import vanilla_vae_celeba as script
from common.data import faces as celeba
from common.data.drawn_faces import draw_faces
from common.data.faces import Faces
from common.data.tensors import to_float
from common.figures import face_page, layers
from common.figures.faces import DIRECTIONS, FaceFigures
from common.training import checkpoint

BOUND = 0.02
TITLE = "VAE </script> & friends"


def page_of(folder, size: int, latent_dim: int, count: int = 300, labelled: bool = True) -> dict:
    """The arguments of a page: drawn faces, and an untrained model whose codes and faces vary all the same."""
    torch.manual_seed(0)
    drawing = draw_faces(count, size)
    images = torch.from_numpy(drawing.images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(drawing.attributes)
    model = script.VariationalAutoencoder(latent_dim, size).eval()
    with torch.no_grad():
        codes, last = model.encode(to_float(images))[0], model.encoder[-1]
        factor = codes.std(dim=0).reciprocal()
        last.weight[:latent_dim] *= factor[:, None]
        last.bias[:latent_dim].sub_(codes.mean(dim=0)).mul_(factor)
        latent = (codes - codes.mean(dim=0)) * factor
    figures = FaceFigures(TITLE, "", folder, "faces", images, latent, latent, model.decode)
    faces = Faces(images, torch.zeros(count), labels, drawing.attribute_names, [], "drawn faces", True)
    page = {"path": folder / "page.html", "figures": figures, "encoder": model.encoder, "decoder": model.decoder}
    return page | {"labels": labels if labelled else None, "faces": faces}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict:
    """A page of the script's own network."""
    page = page_of(tmp_path_factory.mktemp("page"), 64, script.LATENT_DIM)
    face_page.write(**page)
    return page


# ---- The file -------------------------------------------------------------------------------------------------


def test_the_page_takes_six_megabytes_at_most_and_may_send_nothing(written):
    assert 1_000_000 < written["path"].stat().st_size <= 6_000_000
    assert_it_may_send_nothing(written["path"])


@pytest.fixture
def small(tmp_path, monkeypatch) -> dict:
    """The arguments of a page that is quick to write."""
    monkeypatch.setattr(face_page, "CHECKS", 40)
    return page_of(tmp_path, 32, 8, count=60)


def test_attributes_that_the_codes_separate_have_sliders_with_those_of_the_figure_first():
    torch.manual_seed(0)
    latent, names = torch.randn(500, 4), ("Wavy_Hair", "Bald", "Young", "Smiling", "Blurry")
    has = [latent[:, 0] > 0, latent[:, 1] > 2.8, latent[:, 2] > 0, latent[:, 3] > 0, torch.rand(500) < 0.5]
    chosen = face_page._attributes(latent, torch.stack(has, dim=1), names)
    assert 0 < has[1].sum() <= 4  # too few
    assert [(each["name"], each["first"]) for each in chosen] == [
        *(("Smiling", True), ("Young", True), ("Wavy Hair", False)),
    ]
    expected = latent[has[3]].mean(dim=0) - latent[~has[3]].mean(dim=0)
    torch.testing.assert_close(torch.tensor(chosen[0]["direction"]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "reason"), [(32, "a layer of this model"), (128, "million multiplications")])
def test_no_page_is_written_if_it_would_be_too_slow_or_does_not_know_a_layer(tmp_path, capsys, size, reason):
    page = page_of(tmp_path, size, 8, count=10)
    if size == 32:
        page["encoder"][2] = torch.nn.GELU()
    page["path"].write_text("a page of another model")
    face_page.write(**page)
    assert not page["path"].exists() and reason in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value"), [("BOUND", 1e-7), ("CODE_BOUND", 1e-7), ("LIMIT", 1000)])
def test_no_page_is_written_if_it_would_be_inexact_or_too_large(small, capsys, monkeypatch, name, value):
    monkeypatch.setattr(face_page, name, value)
    small["path"].write_text("a page of another model")
    face_page.write(**small)
    assert not small["path"].exists() and "no explorer page " in capsys.readouterr().out


def test_the_encoder_has_12_bits_if_8_miss_the_bound(small, monkeypatch):
    images, latent = to_float(small["figures"].originals), small["figures"].latent
    coarse = layers.write(small["encoder"], images, 8).rounded(images)[:, :8].detach()
    spread = (latent - latent.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    for factor, fine in ((1.1, False), (0.5, True)):
        monkeypatch.setattr(face_page, "CODE_BOUND", factor * ((coarse - latent).norm(dim=1).max() / spread).item())
        face_page.write(**small)
        assert all("fine" in layer for layer in content(small["path"])["encoder"] if "unit" in layer) == fine


# ---- In a browser ---------------------------------------------------------------------------------------------


class FacePage(Page):
    def call(self, script: str, *arguments):
        """The result of an asynchronous function."""
        body = f"(async (...given) => {{{script}}})(...arguments).then(arguments[arguments.length - 1]);"
        return self.browser.execute_async_script(body, *arguments)

    def idle(self) -> None:
        """Wait until the pending face is shown."""
        self.settle()
        self.call("while (working.size || waiting.size) await new Promise(done => setTimeout(done, 5));")

    def click(self, name: str) -> None:
        self.find(name).click()
        self.idle()

    def code(self) -> torch.Tensor:
        return torch.tensor(self.run("return place()"))

    def pixels(self, canvas: str) -> torch.Tensor:
        """The colours (3, H, W) in [0, 1] on a canvas."""
        script = f"""const canvas = {canvas}, {{width, height}} = canvas;
            return [width, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];"""
        width, levels = self.run(script)
        return torch.tensor(levels, dtype=torch.float32).view(-1, width, 4)[..., :3].movedim(2, 0) / 255

    def distance(self, expected: torch.Tensor) -> float:
        """The mean absolute error of the large face against `expected` (3, S, S), enlarged in the same way."""
        script = """const {width} = $("face"), large = $("face").cloneNode();
            show(large, arguments[0]);
            const [shown, wanted] = [$("face"), large].map(
                canvas => canvas.getContext("2d").getImageData(0, 0, width, width).data);
            return shown.reduce((sum, level, n) => sum + Math.abs(level - wanted[n]), 0) / 255 / (3 * width ** 2);"""
        return self.run(script, expected.movedim(0, 2).flatten().tolist())

    def choose(self, path) -> None:
        self.run("window.before = own")
        self.find("file").send_keys(str(path))
        self.call("while (own === window.before) await new Promise(requestAnimationFrame)")
        self.idle()


@pytest.fixture
def page(browser, written) -> FacePage:
    """The page in its initial state; opened once, since its strip takes a while."""
    opened = FacePage.__new__(FacePage)
    opened.browser = browser
    if browser.current_url != written["path"].as_uri() or browser.execute_script("return innerWidth !== 1280 || own"):
        opened = FacePage(browser, written["path"])
    opened.run("put(faces[0], 0); put(faces[1], 1); mark(0); $('reset').click(); scrollTo(0, 0)")
    opened.idle()
    return opened


def decoded(written, codes: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return written["decoder"](codes).clamp(0, 1)


def test_it_opens_from_disk_and_loads_nothing_else(page):
    assert page.run("return location.protocol") == "file:"
    loaded = page.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    assert all(name.startswith("blob:") for name in loaded)
    assert page.browser.title == page.text("title") == TITLE
    assert "leaves this page" in page.text("own")


def test_it_decodes_as_pytorch_does(page, written):
    codes = torch.cat([written["figures"].latent[:100], torch.randn(100, script.LATENT_DIM)])
    shown = """const faces = [];
        for (const code of given[0]) {
            const context = show(blank(), await decode(code)).getContext("2d");
            for (let row = 0; row < size; row++)
                faces.push(String.fromCharCode(...context.getImageData(0, row, size, 1).data));
        }
        return btoa(faces.join(""));"""
    bytes_ = bytearray(base64.b64decode(page.call(shown, codes.tolist())))
    faces = torch.frombuffer(bytes_, dtype=torch.uint8).view(200, 64, 64, 4)[..., :3].movedim(3, 1) / 255
    expected = decoded(written, codes)
    assert expected.std(dim=0).mean() > 0.05  # otherwise any face would do
    assert (faces - expected).abs().mean(dim=(1, 2, 3)).max() <= BOUND


def test_it_encodes_as_pytorch_does(page, written):
    images = to_float(written["figures"].originals[:60])
    encode = "const codes = []; for (const picture of given[0]) codes.push([...await encode(picture)]); return codes;"
    flat = (images * 255).round().int().movedim(1, 3).flatten(1).tolist()
    codes = torch.tensor(page.call(f"given[0] = given[0].map(each => each.map(level => level / 255)); {encode}", flat))
    latent = written["figures"].latent
    spread = (latent - latent.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert (codes - latent[:60]).norm(dim=1).max() <= 0.02 * spread


def test_it_draws_fifteen_faces_per_second_and_never_waits(page):
    walk = """const times = [], answer = worker.onmessage;
        worker.onmessage = event => { times.push(performance.now()); answer(event); };
        while (times.length < 20) {
            $("walk").value = times.length / 20;
            $("walk").oninput();
            await new Promise(requestAnimationFrame);
        }
        worker.onmessage = answer;
        return times;"""
    # The best five in a row of a few tries: another program may have the processor for a while.
    tries = (torch.tensor(page.call(walk)) for _ in range(5))
    assert any((times[5:] - times[:-5]).min() <= 5 * 1000 / 15 for times in tries)
    assert page.run("return typeof compute") == "undefined"  # everything is computed in the worker


def test_the_face_shown_is_the_one_of_its_code(page, written):
    first, other = decoded(written, written["figures"].latent[:2])
    assert page.distance(first) <= BOUND < 2 * BOUND < page.distance(other)
    rebuilt = page.pixels("faces[3].rebuilt")
    assert torch.equal((255 * page.pixels("faces[3].picture")).round().byte(), written["figures"].originals[3])
    assert (rebuilt - decoded(written, written["figures"].latent[3:4])[0]).abs().mean() <= BOUND


def test_sliders_move_the_face_along_their_directions_by_keyboard_and_mouse(page, written):
    names = [each["name"] for each in content(written["path"])["attributes"] if each["first"]]
    shown = [label.text.split("\n")[0] for label in page.find("attributes").find_elements(By.TAG_NAME, "label")]
    assert shown == names and {name.replace(" ", "_") for name in names} <= set(DIRECTIONS) and names
    start = page.code()
    attribute, component = (page.find(name).find_element(By.TAG_NAME, "input") for name in ("attributes", "components"))
    attribute.send_keys(*[Keys.ARROW_RIGHT] * 4)
    page.idle()
    labels = written["labels"][:, written["faces"].attribute_names.index(names[0].replace(" ", "_"))]
    latent = written["figures"].latent
    direction = latent[labels].mean(dim=0) - latent[~labels].mean(dim=0)
    torch.testing.assert_close(page.code(), start + 0.2 * direction, atol=1e-4, rtol=1e-4)
    ActionChains(page.browser, 0).move_to_element_with_offset(component, 40, 0).click().perform()
    page.idle()
    moved = page.code() - start - 0.2 * direction
    first = torch.linalg.svd(latent - latent.mean(dim=0))[2][0]
    assert abs(moved @ first) == pytest.approx(moved.norm().item(), rel=1e-3)
    steps = float(page.run("return $('components').querySelector('input').value"))
    spread = ((latent - latent.mean(dim=0)) @ first).std().item()
    assert steps > 0.5 and moved.norm().item() == pytest.approx(steps * spread, rel=1e-2)
    before, after = decoded(written, torch.stack([start, page.code()]))
    assert page.distance(after) <= BOUND < page.distance(before)
    ActionChains(page.browser).double_click(attribute).perform()
    assert page.run("return sliders[0].input.value") == "0"
    page.click("reset")
    torch.testing.assert_close(page.code(), start)
    assert page.distance(before) <= BOUND


def test_a_slider_walks_between_the_two_faces_that_are_chosen(page, written):
    tiles, latent = page.find("strip").find_elements(By.TAG_NAME, "button"), written["figures"].latent
    assert len(tiles) == face_page.SHOWN
    tiles[4].click()
    page.click("second")
    assert page.find("second").get_attribute("aria-pressed") == "true"
    tiles[7].click()
    page.idle()
    torch.testing.assert_close(page.code(), latent[7], atol=1e-4, rtol=1e-4)
    assert page.text("caption") == "test face 8"
    page.run("$('walk').value = 0.25; $('walk').oninput()")
    page.idle()
    torch.testing.assert_close(page.code(), latent[4] + 0.25 * (latent[7] - latent[4]), atol=1e-4, rtol=1e-4)
    assert page.text("caption") == "25% of the way from test face 5 to test face 8"
    page.click("reset")
    torch.testing.assert_close(page.code(), latent[4], atol=1e-4, rtol=1e-4)
    page.run("$('walk').value = 0.97")
    page.find("play").click()
    assert page.find("caption").get_attribute("aria-live") == "off"
    page.call("while (playing) await new Promise(requestAnimationFrame)")
    page.idle()
    torch.testing.assert_close(page.code(), latent[7], atol=1e-4, rtol=1e-4)
    assert page.find("caption").get_attribute("aria-live") == "polite" and page.text("caption") == "test face 8"


def test_random_faces_come_from_either_sampler(page, written):
    # The same draws in every run of the tests (Park & Miller 1988).
    page.run("let state = 1; Math.random = () => (state = state * 16807 % 2147483647) / 2147483647")
    latent, draws = written["figures"].latent, {"prior": [], "fitted": []}
    for name, codes in draws.items():
        for _ in range(6):
            page.click(name)
            codes.append(page.code())
    assert torch.stack(draws["prior"]).mean() == pytest.approx(0, abs=0.15)
    assert torch.stack(draws["prior"]).std() == pytest.approx(1, abs=0.1)
    mean, (_, deviations, axes) = latent.mean(dim=0), torch.linalg.svd(latent - latent.mean(dim=0), full_matrices=False)
    scores = (torch.stack(draws["fitted"]) - mean) @ axes.T / (deviations / math.sqrt(len(latent) - 1))
    assert scores[:, :60].std() == pytest.approx(1, abs=0.15) and scores[:, :60].mean() == pytest.approx(0, abs=0.2)


def test_your_own_picture_is_encoded_and_moved(page, written, tmp_path):
    original = written["figures"].originals[9]
    large = F.interpolate(original[None].float(), size=320, mode="bilinear").round().byte()[0]
    wide = torch.cat([large, large.flip(2)], dim=2)
    Image.fromarray(large.permute(1, 2, 0).numpy()).save(tmp_path / "mine.png")
    Image.fromarray(wide.permute(1, 2, 0).numpy()).save(tmp_path / "wide.png")
    assert page.find("drop").is_displayed()
    page.choose(tmp_path / "mine.png")
    latent = written["figures"].latent
    spread = (latent - latent.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert (page.code() - latent[9]).norm() < 0.3 * spread  # the distance of random pairs; it was resized twice
    assert page.text("caption") == "your picture" and not page.find("drop").is_displayed()
    picture = page.call("return [...cropped()]")
    picture = torch.tensor(picture).view(64, 64, 3).movedim(2, 0)
    assert (picture - original / 255).abs().mean() < 0.02

    page.choose(tmp_path / "wide.png")  # its middle is shown, and dragged to its left half
    crop = page.find("crop")
    middle, width = page.code(), crop.size["width"]
    drag = ActionChains(page.browser, 0).move_to_element_with_offset(crop, -width / 4, 0).click_and_hold()
    drag.move_by_offset(width / 2, 0).release().perform()
    page.idle()
    assert page.run("return [own.x, own.y, own.side]") == pytest.approx([160, 160, 320], abs=2)
    assert (page.code() - latent[9]).norm() < 0.3 * spread < (middle - latent[9]).norm()
    crop.send_keys(Keys.ARROW_LEFT, "+")
    page.idle()
    assert page.run("return [own.x, own.side]") == pytest.approx([160 + 0.03 * 320, 320 / 1.05], abs=2)
    page.run("scrollTo(0, 0)")
    ActionChains(page.browser, 0).scroll_from_origin(ScrollOrigin.from_element(crop), 0, -400).perform()
    page.idle()
    assert page.run("return own.side") < 200
    page.run("$('zoom').value = 0; $('zoom').oninput()")
    page.idle()
    assert page.run("return own.side") == pytest.approx(320)
    attribute = page.find("attributes").find_element(By.TAG_NAME, "input")
    before = page.code()
    attribute.send_keys(Keys.ARROW_RIGHT)
    assert (page.code() - before).norm() > 0


def test_a_face_chosen_while_a_random_one_is_decoded_stays(page):
    page.call("const slow = take('a random face', mean); $('strip').children[5].click(); await slow")
    page.idle()
    assert page.text("caption") == "test face 6"


def test_white_shows_through_a_transparent_picture(page, tmp_path):
    clear = Image.new("RGBA", (120, 80), (200, 0, 0, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 10, 80))  # outside the square in the middle
    clear.save(tmp_path / "clear.png")
    page.choose(tmp_path / "clear.png")
    assert page.call("return [...cropped()].every(level => level > 0.999)")


def test_of_two_pictures_the_one_opened_last_is_shown(page):
    page.call("""const decode = createImageBitmap, blob = canvas => new Promise(done => canvas.toBlob(done));
        window.createImageBitmap = async file => {
            if (file.name === "slow") await new Promise(done => setTimeout(done, 200));
            return decode(file);
        };
        const slow = new File([await blob($("crop"))], "slow"), fast = await blob(faces[2].picture);
        await Promise.all([open(slow), open(fast)]);""")
    page.idle()
    assert page.run("return [own.image.width, own.side]") == [64, 64]


@pytest.mark.parametrize("width", [725, 760, 1060, 1100])
def test_columns_keep_apart(browser, small, width):
    face_page.write(**small)
    page = FacePage(browser, small["path"], width=width)
    columns = [page.find(name).rect for name in ("stage", "sliders", "own")]
    for left, right in ((0, 1), (1, 2)) if width > 1056 else ((0, 1),):
        assert columns[left]["x"] + columns[left]["width"] <= columns[right]["x"]
    inside = columns[1]["x"] + columns[1]["width"]
    for element in page.find("sliders").find_elements(By.CSS_SELECTOR, "button, output"):
        assert element.rect["x"] + element.rect["width"] <= inside + 1


def test_a_dropped_picture_is_taken_and_another_file_is_refused_by_name(page):
    drop = """const data = new DataTransfer(), before = own;
        const file = given[0] ? await new Promise(done => faces[2].picture.toBlob(done)) : new Blob(["no picture"]);
        data.items.add(new File([file], given[0] || "notes.txt"));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        while (own === before && !$("trouble").textContent) await new Promise(requestAnimationFrame);"""
    page.call(drop, "face.png")
    page.idle()
    assert page.text("caption") == "your picture"
    code = page.code()
    page.call(drop, "")
    assert "notes.txt" in page.text("trouble") and not page.find("drop").is_displayed()  # its place is the picture's
    torch.testing.assert_close(page.code(), code)


@pytest.mark.parametrize(("width", "dark"), [(390, True), (800, False)])
def test_it_fits_a_narrow_window_in_light_and_dark(browser, small, width, dark):
    face_page.write(**small)
    page = FacePage(browser, small["path"], width=width, height=844, dark=dark)
    assert page.run("return document.documentElement.scrollWidth") <= width
    for name in ("face", "walk", "first", "second", "prior", "fitted", "reset", "frame", "strip", "components"):
        rect = page.find(name).rect
        assert rect["x"] >= 0 and rect["x"] + rect["width"] <= width and rect["height"] >= 16, name
    page.run("$('more').open = true")
    for element in browser.find_elements(By.CSS_SELECTOR, "button, input, canvas[role]"):
        assert element.accessible_name, element.get_attribute("outerHTML")
    paper = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (int(paper.split("(")[1].split(",")[0]) < 60) == dark
    if width > 390:
        return
    page.run("$('components').scrollIntoView({block: 'end'})")
    face, slider = (page.run(f"return $('{name}').getBoundingClientRect()") for name in ("face", "components"))
    assert face["top"] >= 0 and face["bottom"] <= slider["bottom"] <= 845  # the face stays in sight
    rows = page.run("return $('components').lastChild.firstElementChild.nextSibling.getBoundingClientRect()")
    x, y, start = rows["x"] + 0.5 * rows["width"], rows["y"] + rows["height"] / 2, page.code()
    for kind, points in (("Start", [x]), ("Move", [x + 60]), ("End", [])):
        touches = [{"x": at, "y": y} for at in points]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})
    page.idle()
    assert (page.code() - start).norm() > 0

    page.call("await open(await new Promise(done => faces[2].picture.toBlob(done)))")
    page.idle()
    page.run("$('crop').scrollIntoView({block: 'end'})")
    crop = page.run("return $('crop').getBoundingClientRect()")
    for kind, points in (("Start", [150, 200]), ("Move", [125, 225]), ("End", [])):
        touches = [{"x": crop["x"] + at, "y": crop["y"] + 200, "id": n} for n, at in enumerate(points)]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})
    page.idle()
    assert page.run("return own.side") == pytest.approx(16, rel=0.1)


def test_an_autoencoder_of_drawn_faces_of_32_pixels_has_a_page(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(celeba, "DRAWN_COUNTS", (120, 20, 30))
    for name in ("interpolation", "reconstructions", "samples", "attributes"):
        monkeypatch.setattr(FaceFigures, name, lambda *_, **__: None)
    panels = []
    monkeypatch.setattr(FaceFigures, "curves", lambda _, history, names: panels.extend(names))
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    small = ["--faces", "drawn", "--size", "32", "--epochs", "1", "--latent-dim", "12", "--precision", "fp32"]
    script.main(["--ae", *small, "--device", "cpu", *folders])
    assert panels == ["mse"]  # it has neither an ELBO nor a KL divergence
    page = FacePage(browser, tmp_path / "vanilla_vae_celeba_explorer.html")
    assert page.text("title").startswith("Autoencoder")
    model = script.VariationalAutoencoder(12, 32)
    model.load_state_dict(checkpoint.load(tmp_path / "run/checkpoint.pt")["model"])
    page.click("prior")
    expected = decoded({"decoder": model.eval().decode}, page.code()[None])[0]
    assert page.distance(expected) <= BOUND


def test_without_labels_there_are_only_components(browser, tmp_path):
    small = page_of(tmp_path, 32, 4, count=5, labelled=False)  # with few test faces, too
    face_page.write(**small)
    page = FacePage(browser, small["path"])
    assert not page.find("labelled").is_displayed() and page.run("return faces.length") == 5
    assert page.run("return sliders.length") == 4

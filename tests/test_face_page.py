"""The page of live faces: its size, its contents, and its behaviour in a real browser without a network."""

import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from browser import Page, content, same_but_for_numbers
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from torch.nn import functional as F

import vanilla_vae_celeba as script
from common.data.batches import to_float
from common.data.celeba import Faces
from common.data.drawn_faces import ATTRIBUTES, draw_faces
from common.explorer import face_page
from common.figures.face_figures import DIRECTIONS, FaceFigures

BOUND = 0.02
TITLE = "VAE </script> & friends"


def page_of(folder, size: int, latent_dim: int, count: int = 300, labelled: bool = True) -> dict:
    """The arguments of a page: drawn faces, and an untrained model whose codes and faces vary all the same."""
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, draw_faces(count, size))
    images, labels = images.permute(0, 3, 1, 2), labels if labelled else None
    model = script.VariationalAutoencoder(latent_dim, size).eval()
    with torch.no_grad():
        codes, last = model.encode(to_float(images))[0], model.encoder[-1]
        factor = codes.std(dim=0).reciprocal()
        last.weight[:latent_dim] *= factor[:, None]
        last.bias[:latent_dim].sub_(codes.mean(dim=0)).mul_(factor)
        latent = (codes - codes.mean(dim=0)) * factor
    figures = FaceFigures(TITLE, folder, "faces", images, latent, latent, model.decode)
    faces = Faces(images, labels, ATTRIBUTES, "drawn faces", True)
    page = {"path": folder / "page.html", "figures": figures, "faces": faces, "model": model}
    return page | {"own_layers": {script.Norm: "GroupNorm"}}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict:
    """A page of the script's own network."""
    page = page_of(tmp_path_factory.mktemp("page"), 64, script.DEFAULTS["latent_dim"])
    face_page.write(**page)
    return page


@pytest.fixture
def small(tmp_path) -> dict:
    """The arguments of a page that is quick to write."""
    return page_of(tmp_path, 32, 8, count=60)


def test_attributes_of_enough_faces_have_sliders_with_those_of_the_figure_first():
    torch.manual_seed(0)
    latent, names = torch.randn(500, 4), ("Wavy_Hair", "Bald", "Young", "Smiling")
    has = [latent[:, 0] > 0, latent[:, 1] > 2.8, latent[:, 2] > 0, latent[:, 3] > 0]
    chosen = face_page._attributes(latent, Namespace(attributes=torch.stack(has, dim=1), attribute_names=names))
    assert 0 < has[1].sum() <= 4  # too few
    assert [each["name"] for each in chosen] == ["smiling", "young", "wavy hair"]
    assert [each["first"] for each in chosen] == [True, True, False]  # of the figure
    expected = latent[has[3]].mean(dim=0) - latent[~has[3]].mean(dim=0)
    torch.testing.assert_close(torch.tensor(chosen[0]["direction"]), expected, atol=1e-5, rtol=1e-4)


def test_no_page_is_written_if_its_codes_would_be_inexact(small, capsys, monkeypatch):
    monkeypatch.setattr(face_page, "CODE_BOUND", 1e-7)
    face_page.write(**small)
    assert not small["path"].exists() and "no explorer page " in capsys.readouterr().out


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
        return written["model"].decoder(codes).clamp(0, 1)


def test_it_computes_as_pytorch_does_and_shows_it(page, written):
    assert written["path"].stat().st_size <= 6_000_000 and page.browser.title == page.text("title") == TITLE
    latent = written["figures"].latent
    codes = torch.cat([latent[:30], torch.randn(30, script.DEFAULTS["latent_dim"])])
    levels = "[...await decode(code)].map(level => Math.round(1e3 * level))"
    decode = f"const faces = []; for (const code of given[0]) faces.push({levels}); return faces;"
    faces = torch.tensor(page.call(decode, codes.tolist())).view(60, 64, 64, 3).movedim(3, 1) / 1e3
    assert page.run("return typeof compute") == "undefined"  # the page never waits: a worker computes everything
    expected = decoded(written, codes)
    assert expected.std(dim=0).mean() > 0.05  # otherwise any face would do
    assert (faces.clamp(0, 1) - expected).abs().mean(dim=(1, 2, 3)).max() <= BOUND

    encode = """const codes = [], levels = picture => picture.map(level => level / 255);
        for (const picture of given[0]) codes.push([...await encode(levels(picture))]);
        return codes;"""
    flat = written["figures"].originals[:60].movedim(1, 3).flatten(1)
    distances = (torch.tensor(page.call(encode, flat.tolist())) - latent[:60]).norm(dim=1)
    assert distances.max() <= 0.02 * latent.std(dim=0).norm()

    first, other = decoded(written, written["figures"].latent[:2])
    assert page.distance(first) <= BOUND < 2 * BOUND < page.distance(other)
    picture = page.run("return [...faces[3].picture.getContext('2d').getImageData(0, 0, size, size).data]")
    picture = torch.tensor(picture).view(64, 64, 4)[..., :3].movedim(2, 0)
    assert torch.equal(picture, written["figures"].originals[3].long())


def test_the_page_of_drawn_faces_in_images_is_what_the_code_of_today_would_write(browser, written):
    path = Path(script.__file__).parent / "images/drawn/vanilla_vae_celeba_explorer.html"
    kept, _ = same_but_for_numbers(path, written["path"])
    assert kept["source"] == "drawn faces" and path.stat().st_size < 4e6
    assert len(kept["encoder"][-1]["bias"]) == len(kept["mean"])  # no log-variances
    FacePage(browser, path).click("prior")


def test_sliders_move_the_face_along_their_directions_by_keyboard_and_mouse(page, written):
    names = [each["name"] for each in content(written["path"])["attributes"] if each["first"]]
    shown = [label.text.split("\n")[0] for label in page.find("attributes").find_elements(By.TAG_NAME, "label")]
    first = [name for name in DIRECTIONS if name.replace("_", " ").lower() in names]
    assert shown == names and len(first) == len(names) > 0
    start = page.code()
    attribute, component = (page.find(name).find_element(By.TAG_NAME, "input") for name in ("attributes", "components"))
    attribute.send_keys(*[Keys.ARROW_RIGHT] * 4)
    page.idle()
    labels = written["faces"].attributes[:, written["faces"].attribute_names.index(first[0])]
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
    ActionChains(page.browser).double_click(attribute).perform()
    assert page.run("return sliders[0].input.value") == "0"
    page.click("reset")
    torch.testing.assert_close(page.code(), start)


def test_a_slider_walks_between_the_two_faces_that_are_chosen(page, written):
    tiles, latent = page.find("strip").find_elements(By.TAG_NAME, "button"), written["figures"].latent
    page.call("const slow = take('a random face', mean); $('strip').children[5].click(); await slow")
    page.idle()
    assert page.text("caption") == "test face 6"  # chosen while the random one was decoded
    tiles[4].click()
    page.click("second")
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
    page.run("$('walk').value = 0.7")
    page.find("play").click()
    page.call("while (playing) await new Promise(requestAnimationFrame)")
    page.idle()
    torch.testing.assert_close(page.code(), latent[7], atol=1e-4, rtol=1e-4)
    assert page.text("caption") == "test face 8"


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
    Image.fromarray(large.permute(1, 2, 0).numpy()).save(tmp_path / "mine.png")
    Image.fromarray(torch.cat([large, large.flip(2)], dim=2).permute(1, 2, 0).numpy()).save(tmp_path / "wide.png")
    page.choose(tmp_path / "mine.png")
    latent = written["figures"].latent
    spread = latent.std(dim=0).norm()
    assert (page.code() - latent[9]).norm() < 0.3 * spread  # the distance of random pairs; it was resized twice
    assert page.text("caption") == "your picture" and not page.find("drop").is_displayed()
    picture = torch.tensor(page.call("return [...cropped()]")).view(64, 64, 3).movedim(2, 0)
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


def test_white_shows_through_a_transparent_picture(page, tmp_path):
    clear = Image.new("RGBA", (120, 80), (200, 0, 0, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 10, 80))  # outside the square in the middle
    clear.save(tmp_path / "clear.png")
    page.choose(tmp_path / "clear.png")
    assert page.call("return [...cropped()].every(level => level > 0.999)")


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


def test_it_fits_narrow_windows_in_light_and_dark(browser, small):
    face_page.write(**small)
    for width in (725, 800, 1060, 1100, 390):
        page = FacePage(browser, small["path"], width=width, height=844, dark=width == 390)
        page.run("$('more').open = true")
        names = "face", "walk", "first", "second", "prior", "fitted", "reset", "frame", "strip", "components"
        page.assert_it_fits(*names)
        paper = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (int(paper.split("(")[1].split(",")[0]) < 60) == (width == 390)
        columns = [page.find(name).rect for name in ("stage", "sliders", "own")]
        for left, right in ((0, 1), (1, 2)) if width > 1056 else ((0, 1),) if width > 720 else ():
            assert columns[left]["x"] + columns[left]["width"] <= columns[right]["x"]
        parts = "[...$('sliders').querySelectorAll('button, output')]"
        ends = page.run(f"return {parts}.map(part => part.getBoundingClientRect().right)")
        assert len(ends) > 5 and max(ends) <= columns[1]["x"] + columns[1]["width"] + 1
    page.run("$('components').scrollIntoView({block: 'end'})")
    face, slider = (page.run(f"return $('{name}').getBoundingClientRect()") for name in ("face", "components"))
    assert face["top"] >= 0 and face["bottom"] <= slider["bottom"] <= 845  # the face stays in sight
    start, rows = page.code(), page.find("components")
    x, y = 0.5 * rows.size["width"], rows.size["height"] - 15  # in the last slider
    page.swipe("components", [(x, y)], [(x + 60, y)])
    page.idle()
    assert (page.code() - start).norm() > 0

    page.call("await open(await new Promise(done => faces[2].picture.toBlob(done)))")
    page.run("$('crop').scrollIntoView({block: 'end'})")
    page.swipe("crop", [(150, 200), (200, 200)], [(125, 200), (225, 200)])
    page.idle()
    assert page.run("return own.side") == pytest.approx(16, rel=0.1)


def test_without_labels_there_are_only_components(browser, tmp_path):
    small = page_of(tmp_path, 32, 4, count=5, labelled=False)  # with few test faces, too
    face_page.write(**small)
    page = FacePage(browser, small["path"])
    assert not page.find("labelled").is_displayed() and page.run("return faces.length") == 5
    assert page.run("return sliders.length") == 4

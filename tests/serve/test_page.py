"""The page in a real browser: Debian's chromium; `make test-page` installs it, and names the folder of its tools."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.servers import serving, until

pytest.importorskip("fastapi")
TOOLS = os.environ.get("DEEPLAB_PAGE")
if TOOLS is None:
    pytest.skip("a browser is driven by `make test-page`", allow_module_level=True)

from playwright.sync_api import Page, TimeoutError, expect, sync_playwright  # noqa: E402 - not installed elsewhere

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)  # fmt: skip
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CAT = Path(__file__).resolve().parents[2] / "src" / "deeplab" / "serve" / "page" / "photos" / "chelsea.jpg"
LONGEST = 60_000


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with serving("animals", "street") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        # its own download is another browser
        path = shutil.which("chromium")
        assert path, "no chromium; fix: make test-page"
        browser = driver.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(params=["wide", "phone"])
def page(request: pytest.FixtureRequest, server: Any, browser: Any) -> Iterator[Page]:
    """The page at a size, whose console stays clean and which asks nobody else."""
    size = WIDE if request.param == "wide" else PHONE
    context = browser.new_context(viewport=size, has_touch=request.param == "phone", accept_downloads=True)
    context.set_default_timeout(LONGEST)
    expect.set_options(timeout=LONGEST)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda each: asked.append(each.url))
    page.allowed = ()
    page.goto(f"http://127.0.0.1:{server.client.port}/")
    yield page
    hosts = {url.split("/")[2] for url in asked if url.startswith("http")}
    assert hosts == {f"127.0.0.1:{server.client.port}"}
    assert [text for text in said if not any(word in text for word in page.allowed)] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    page.screenshot(path=Path(TOOLS) / f"{request.node.name}.png", full_page=True)
    context.close()


def choose(page: Page, file: Path | dict[str, Any] = CAT) -> None:
    page.get_by_label("Choose a photo").set_input_files(file)


def labelled(page: Page) -> None:
    expect(page.get_by_role("status")).to_contain_text("computed in")


def pixels(page: Page) -> np.ndarray:
    """uint8 [H, W, 4] of what is drawn, after the next frame."""
    found = page.evaluate(
        """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
            const canvas = document.getElementById("canvas");
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            done([canvas.height, canvas.width, btoa(Array.from(data, each => String.fromCharCode(each)).join(""))]);
        })))"""
    )
    return np.frombuffer(base64.b64decode(found[2]), np.uint8).reshape(found[0], found[1], 4)


def test_a_photo_is_labelled_and_asked_about(page: Page) -> None:
    choose(page)
    labelled(page)
    picture = page.get_by_role("img", name="chelsea.jpg with its labels")
    expect(picture).to_be_visible()
    before = pixels(page)
    # the middle of the cat's face
    box = picture.bounding_box()
    picture.hover(position={"x": box["width"] / 2, "y": box["height"] * 0.6})
    expect(page.locator("#tip")).to_contain_text("cat:")
    expect(page.locator("#tip")).to_contain_text("% sure")
    page.get_by_label("Opacity").fill("0")
    assert (pixels(page) != before).any()
    page.get_by_label("Opacity").fill("60")
    np.testing.assert_array_equal(pixels(page), before)
    page.mouse.move(0, 0)


def test_the_keyboard_does_it_all(page: Page) -> None:
    page.get_by_role("button", name="A cat").focus()
    page.keyboard.press("Enter")
    labelled(page)
    before = pixels(page)
    cat = page.get_by_role("button", name="cat", exact=False).filter(has=page.locator("small"))
    expect(cat).to_have_attribute("aria-pressed", "true")
    cat.focus()
    page.keyboard.press("Space")
    expect(cat).to_have_attribute("aria-pressed", "false")
    assert (pixels(page) != before).any()
    page.keyboard.press("Space")
    np.testing.assert_array_equal(pixels(page), before)
    # the field itself takes the focus, its label shows it
    field = page.get_by_label("Choose a photo")
    for attempt in range(3):
        try:
            with page.expect_file_chooser(timeout=10_000):
                field.press("Enter")
            return
        # a browser on a busy machine drops a key now and then
        except TimeoutError:
            assert attempt < 2, "no file chooser"


def test_two_strides_are_compared(page: Page) -> None:
    page.get_by_role("button", name="A person").click()
    labelled(page)
    page.get_by_label("Compare with").check()
    page.locator("#model2").select_option("animals")
    page.locator("#stride2").select_option("32")
    expect(page.locator("#caption")).to_contain_text("stride 32. They differ in")
    marked = pixels(page)
    page.get_by_label("Mark pixels that differ").uncheck()
    plain = pixels(page)
    assert (marked != plain).any()
    split = page.get_by_label("Divider between the two labellings")
    split.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert float(split.input_value()) == 65
    assert (pixels(page) != plain).any()
    page.get_by_label("Mark pixels that differ").check()


def test_what_was_found_is_taken_home(page: Page, server: Any, tmp_path: Path) -> None:
    choose(page)
    labelled(page)

    def saved(button: str) -> Path:
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    assert saved("Labels (PNG)").read_bytes() == server.client.segment(CAT.read_bytes()).body
    with Image.open(saved("Overlay (PNG)")) as overlay, Image.open(CAT) as photo:
        assert overlay.size == photo.size
    shares = json.loads(saved("Shares (JSON)").read_text())
    assert shares["model"] == "animals" and shares["shares"]["cat"] > 0.5


def test_mistakes_are_told(page: Page, server: Any) -> None:
    page.allowed = ("400", "413", "ERR_CONNECTION", "Failed to load")
    status = page.get_by_role("status")
    choose(page, {"name": "cat.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"})
    expect(status).to_contain_text("cat.jpg: the photo: not a picture")
    choose(page, {"name": "large.png", "mimeType": "image/png", "buffer": bytes(21_000_000)})
    expect(status).to_contain_text("large.png: This file has 21,000,000 bytes; allowed: 20,000,000")
    page.context.set_offline(True)
    choose(page)
    expect(status).to_contain_text("The server cannot be reached")
    page.context.set_offline(False)
    choose(page)
    labelled(page)


def test_a_busy_server_is_asked_again(page: Page, server: Any) -> None:
    page.allowed = ("503",)
    queue = server.shared.queue
    places, queue.places = queue.places, 0
    try:
        choose(page)
        expect(page.get_by_role("status")).to_contain_text("Trying again in")
    finally:
        queue.places = places
    labelled(page)


def test_the_camera_takes_a_photo(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    until(lambda: page.evaluate("document.getElementById('video').videoWidth > 0"))
    page.get_by_role("button", name="Take the photo").click()
    labelled(page)
    assert page.evaluate("document.getElementById('video').srcObject.getTracks()[0].readyState") == "ended"


def test_a_pasted_photo_is_taken(page: Page) -> None:
    page.evaluate(
        """async () => {
            const data = new DataTransfer();
            const blob = await (await fetch("page/photos/chelsea.jpg")).blob();
            data.items.add(new File([blob], "x.jpg", {type: "image/jpeg"}));
            dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
        }"""
    )
    labelled(page)


def test_everybody_can_use_it(page: Page) -> None:
    """axe-core finds nothing, before a photo and after, by day and by night."""
    axe = (Path(TOOLS) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    page.evaluate(axe)

    def violations() -> list[str]:
        found = page.evaluate("axe.run()")["violations"]
        return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations() == []
    page.get_by_text("What this model knows").click()
    page.get_by_text("From a program").click()
    page.get_by_role("button", name="A person").click()
    labelled(page)
    page.get_by_label("Compare with").check()
    expect(page.locator("#caption")).to_contain_text("They differ in")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=Path(TOOLS) / f"{scheme}-{page.viewport_size['width']}.png", full_page=True)
        assert violations() == []

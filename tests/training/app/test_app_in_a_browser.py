"""The page of `umt app` in Chromium: one server with all tabs, and one browser.

Skipped without Gradio, Playwright or Debian's Chromium.
"""

import json
import os
import re
import shutil
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image
from tiny_classifier import save_tiny_classifier
from tiny_detection import save_tiny_action_detector, save_tiny_person_detector
from tiny_pretraining import make_teacher
from tiny_question_answering import save_tiny, tiny_answerer
from tiny_video_text_retrieval import save_tiny_retrieval_model

from umt_training.cli import Parser, app
from umt_training.cli.errors import user_message
from umt_training.pictures.h264 import write_h264

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

REAL_CLIP = Path(__file__).parents[4] / "shared" / "videos" / "arm_wrestling.mp4"
TIMEOUT = 60_000  # ms
SECRET = "the content of a file outside of the given folders"


def write_clip(path: Path, seed: int, seconds: int) -> Path:
    """A clip that browsers play: coloured tiles that change ten times a second."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = generator.integers(0, 256, (10 * seconds, 8, 10, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    return write_h264(path, ((index / 10, Image.fromarray(frame)) for index, frame in enumerate(tiles)), 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models, a folder of videos with a link to a video outside, a clip to upload, and broken files."""
    folder = tmp_path_factory.mktemp("app")
    save_tiny_classifier(folder / "classifier")
    save_tiny_retrieval_model(folder / "retrieval")
    save_tiny(tiny_answerer(), folder / "answerer")
    save_tiny_action_detector(folder / "actions")
    save_tiny_person_detector(folder / "persons")
    make_teacher().save_pretrained(folder / "teacher")
    write_clip(folder / "videos" / "long.mp4", 0, seconds=14)
    write_clip(folder / "videos" / "short.mp4", 1, seconds=2)
    write_clip(folder / "elsewhere" / "private.mp4", 2, seconds=2)
    (folder / "videos" / "link.mp4").symlink_to(folder / "elsewhere" / "private.mp4")
    (folder / "elsewhere" / "secret.txt").write_text(SECRET)
    (folder / "videos" / "secret.txt").symlink_to(folder / "elsewhere" / "secret.txt")
    if REAL_CLIP.exists():
        shutil.copy(REAL_CLIP, folder / "clip.mp4")
    else:
        write_clip(folder / "clip.mp4", 3, seconds=2)
    (folder / "broken.mp4").write_bytes(b"no video\n" * 100)
    (folder / "large.mp4").write_bytes(bytes(9 << 20))
    return folder


@pytest.fixture(scope="module")
def served(folder):
    """The page with all tabs: its address, its models, and the page of a browser with what it requested."""
    from umt_training.app.server import served_page

    parser = Parser()
    app.add_arguments(parser)
    names = ("classifier", "retrieval", "answerer", "actions")
    options = {"detector": "persons", "teacher": "teacher", "videos": "videos", "examples": "videos"}
    words = [str(folder / name) for name in names]
    words += [word for option, name in options.items() for word in (f"--{option}", str(folder / name))]
    args = parser.parse_args([*words, "--device", "cpu", "--max-upload", "8"])
    before = {name: value for name, value in os.environ.items() if "GRADIO" in name or "proxy" in name.lower()}
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(constants, "HF_HOME", str(folder / "home"))
        models = app.load_models(args, app.models_by_task(args.models))
        options = {"max_upload": args.max_upload}
        address = stack.enter_context(served_page(models, app.list_examples(args), user_message, **options))
        browser = stack.enter_context(playwright.sync_playwright()).chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page, requested = browser.new_page(viewport={"width": 1280, "height": 900}), []
        page.set_default_timeout(TIMEOUT)
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        yield SimpleNamespace(address=address, models=models, page=page, requested=requested)
        browser.close()
    assert {name: value for name, value in os.environ.items() if "GRADIO" in name or "proxy" in name.lower()} == before


@pytest.fixture
def page(served):
    """The page of the browser; messages of an earlier test are closed."""
    yield served.page
    served.page.evaluate("document.querySelectorAll('.toast-close').forEach(button => button.click())")


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def upload(page, tab: str, path: Path) -> None:
    clear = page.locator(f"#{tab}-video [data-testid=video] button[aria-label=Clear]")
    if clear.is_visible():
        clear.click()
        clear.wait_for(state="hidden")  # before that, the upload would be cleared too
    page.locator(f"#{tab}-video input[type=file]").set_input_files(str(path))


def test_an_uploaded_clip_gets_the_labels_of_the_classifier(served, page, folder):
    open_tab(page, "Classify")
    upload(page, "classify", folder / "clip.mp4")
    best = page.locator("#labels h2")
    best.wait_for()
    scores = served.models.classifier.classify(str(folder / "clip.mp4"))
    assert best.inner_text().strip() == next(iter(scores))
    shown = page.locator("#labels").inner_text()
    assert all(f"{label}" in shown and f"{round(100 * score)}%" in shown for label, score in scores.items())
    page.locator("#frames img").nth(3).wait_for()
    assert page.locator("#frames img").count() == served.models.classifier.processor.num_frames


def test_a_broken_file_is_reported_in_one_line_without_its_path(page, folder):
    open_tab(page, "Classify")
    message = page.get_by_text(re.compile(r"^\s*broken\.mp4: ")).last
    for last in (False, False, True):  # a page that is busy loses an upload right after the video before was cleared
        upload(page, "classify", folder / "broken.mp4")
        try:
            message.wait_for(timeout=TIMEOUT / 3)
            break
        except playwright.TimeoutError:
            if last:
                raise
    text = message.inner_text().strip()
    assert text.startswith("broken.mp4: ") and "\n" not in text and "/" not in text.split(":")[1]


def test_a_file_above_the_limit_is_refused(page, folder):
    open_tab(page, "Classify")
    upload(page, "classify", folder / "large.mp4")
    page.get_by_text(re.compile("exceed|too large|size", re.IGNORECASE)).last.wait_for()


def test_a_found_moment_plays_from_its_time(served, page):
    open_tab(page, "Search")
    page.locator("#query textarea, #query input").first.fill("a dog runs")
    page.locator("#query button").click()
    page.locator("#moments .thumbnail-item").first.wait_for()
    captions = page.locator("#moments .caption-label").all_inner_texts()
    assert sorted(caption.split(",")[0] for caption in captions) == ["long.mp4", "long.mp4", "short.mp4"]
    number = next(index for index, caption in enumerate(captions) if "0:10.0 to" in caption)
    page.locator("#moments .thumbnail-item").nth(number).click()
    page.locator("#player video").wait_for()
    page.wait_for_function("document.querySelector('#player video').currentTime > 10.2")
    video = page.locator("#player video")
    assert video.evaluate("video => video.error === null && video.currentTime <= 14.1")
    assert captions[number] in page.locator("#player").inner_text()


def test_a_question_is_answered(served, page, folder):
    open_tab(page, "Ask")
    upload(page, "ask", folder / "clip.mp4")
    page.locator("#ask-video video").wait_for()
    page.locator("#question textarea, #question input").first.fill("What's the man doing?")
    page.locator("#question button").click()
    page.locator("#answers h2").wait_for()
    answers = served.models.answerer.answer(str(folder / "clip.mp4"), "What's the man doing?", "")
    assert page.locator("#answers h2").inner_text().strip() == next(iter(answers)).strip()


def test_persons_are_drawn_into_the_playing_video(page, folder):
    open_tab(page, "Detect")
    page.locator("#detect-examples .thumbnail-item").nth(1).click()
    page.locator("#detect-video video").wait_for()
    page.locator("#detect-button").click()
    page.locator("#detected video").wait_for()
    page.wait_for_function("document.querySelector('#detected video').currentTime > 0")
    assert page.locator("#detected video").evaluate("video => [video.videoWidth, video.videoHeight]") == [160, 128]
    assert "talk to (a person)" in page.locator("#actions").inner_text()


def test_the_slider_sets_how_many_tokens_stay_visible(served, page, folder):
    open_tab(page, "Tokens")
    upload(page, "tokens", folder / "clip.mp4")
    line = page.locator("#tokens-line")
    picture = page.locator("#mask img")
    picture.wait_for()
    view = served.models.tokens
    scored = view.score(str(folder / "clip.mp4"))
    assert line.inner_text() == view.draw(scored, "attention", 20)[1]
    first = picture.get_attribute("src")
    slider = page.locator("#visible input[type=range]")
    slider.focus()
    for _ in range(6):
        slider.press("ArrowRight")
    page.get_by_text(view.draw(scored, "attention", 50)[1]).wait_for()
    page.wait_for_function("first => document.querySelector('#mask img').src !== first", arg=first)
    page.get_by_label("motion", exact=True).check()
    page.get_by_text(view.draw(scored, "motion", 50)[1], exact=True).wait_for()


def read(url: str, data: bytes | None = None) -> tuple[int, str]:
    """Status and text of a request."""
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def test_a_path_outside_of_the_folders_is_refused(served, folder):
    secret = folder / "elsewhere" / "secret.txt"
    paths = [secret, folder / "videos" / "secret.txt", folder / "videos" / "long.mp4", "/etc/passwd", Path.cwd()]
    for path in paths:
        for form in (f"gradio_api/file={path}", f"file={path}", f"gradio_api/file=file://{path}", f"videos/{path}"):
            status, text = read(f"{served.address}{form}")
            assert status in (403, 404) and SECRET not in text and "root:" not in text, form
    up = "%2e%2e/" * 12
    for form in (f"videos/{up}etc/passwd", f"gradio_api/file={up}etc/passwd", f"static/{up}etc/passwd"):
        status, text = read(f"{served.address}{form}")
        assert status in (403, 404) and "root:" not in text, form
    for url in ("http://127.0.0.1:9/a", "https://example.com/a.mp4"):
        assert read(f"{served.address}gradio_api/file={url}")[0] == 403


def test_a_call_with_a_path_or_an_address_in_place_of_an_upload_is_refused(served, folder):
    configuration = json.loads(read(f"{served.address}config")[1])
    takes_video = [
        function
        for function in configuration["dependencies"]
        if len(function["inputs"]) == 1 and len(function["outputs"]) == 2 and function["targets"][0][1] == "input"
    ]
    assert len(takes_video) == 4  # one of each tab with a video
    for name in (str(folder / "elsewhere" / "private.mp4"), "file:///etc/passwd", "https://example.com/a.mp4"):
        data = [{"path": name, "meta": {"_type": "gradio.FileData"}}]
        body = {"data": data, "fn_index": takes_video[0]["id"], "session_hash": "of a test"}
        status, _ = read(f"{served.address}gradio_api/queue/join", json.dumps(body).encode())
        assert status == 200
        with urllib.request.urlopen(f"{served.address}gradio_api/queue/data?session_hash=of%20a%20test") as answer:
            events = [json.loads(line[5:]) for line in answer.read().decode().splitlines() if line.startswith("data:")]
        done = next(event for event in events if event["msg"] == "process_completed")
        assert not done["success"] and SECRET not in json.dumps(done), (name, done)


def test_the_page_requests_nothing_from_the_network(served):
    own = (served.address, "data:", "blob:")
    assert served.requested and [url for url in served.requested if not url.startswith(own)] == []

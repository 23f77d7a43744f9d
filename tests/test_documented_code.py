"""The code of the README and of docs/ runs on tiny models, from the top of each page to its bottom.

A block that cannot run here is listed with the reason. The others run as they are written, with options that make
models and runs tiny (`tiny_options`) and the replacements of `SMALLER`.
"""

import fnmatch
import shutil
from collections import Counter
from pathlib import Path

import pytest
from documentation_runner import PageRunner, check_mention
from documented_files import OWNER, count_as_published, use_registry, write_documented_files, write_tiny_registry
from huggingface_hub import constants
from markdown_code import fenced_blocks, inline_commands, shell_commands

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))

# pattern of a command or of a block of Python code → why it is not run
NOT_RUN = {
    "python3 -m venv .venv": "creates an environment; .ci/run does this",
    ".venv/bin/*": "runs in the environment that the command before creates; .ci/run does this",
    "source *": "a command of the shell",
    "pip install *": "needs the network",
    "hf auth login": "asks for a token of the Hub",
    "hf upload *": "uploads to the Hub",
    "python -m pytest *": "the tests themselves",
    "ruff *": "runs in .ci/run",
    "lint-imports": "runs in .ci/run",
    "mkdocs *": "runs in .ci/run",
    "umt card check": "compares cards with the real registry; runs in .ci/run",
    "umt publish l16_25m --repo-id me/umt-l16-25m": "uploads to the Hub; tests/training/cards/test_publishing.py",
    "umt publish my-model --repo-id me/my-model": "uploads to the Hub; tests/training/cards/test_publishing.py",
    "import ray\n*": "reads and writes object storage; tests/training/test_batch_callables.py",
    "* ...*": "is cut short",
}
# pattern of a command → why only its arguments are parsed
PARSED = {
    "umt app *": "serves a page until it is ended; tests/training/app",
    "umt demo": "takes minutes; tests/training/demo runs it with few steps",
    "umt finetune --config mvd_b16_k400 *": "needs a clip of each of the 400 classes",
    "python -m benchmarks.*": "takes minutes to hours; tests/benchmarks runs each on a small scale",
    "python examples/*": "takes minutes; tests/examples runs each on a small scale",
}
# code → what runs in its place
SMALLER = {
    "hidden_size=768": "hidden_size=32",
    "num_hidden_layers=12": "num_hidden_layers=2",
    "num_attention_heads=12": "num_attention_heads=2",
    "intermediate_size=3072": "intermediate_size=64",
    '{"image": 768, "video": 768}': '{"image": 32, "video": 32}',
    "UMTForPreTraining(UMTConfig())": (
        "UMTForPreTraining(UMTConfig(hidden_size=32, num_hidden_layers=6, num_attention_heads=2))"
    ),
    '"cuda"': '"cpu"',
    '"--init-from", "umt-l16-k710", "--output-dir", "my-model"]': (
        '"--init-from", "umt-l16-k710", "--output-dir", "my-model", "--num-train-epochs", "1", '
        '"--warmup-epochs", "0", "--per-device-train-batch-size", "2", "--dataloader-num-workers", "0", '
        '"--eval-share", "0.5"]'
    ),
    'trainer.push_to_hub(license="mit")': 'trainer.create_model_card(license="mit")',
    '{"target_dim": 1024}': '{"target_dim": 32}',
    "[x, y, width, height]": "[1, 2, 30, 40]",
    "/mnt/videos --index s3://bucket/index": "videos --index team-index",
    "umt publish ROW --repo-id your-name/ROW": "umt publish l16_25m --repo-id me/l16_25m",
}


def fill_in_categories(runner: PageRunner) -> None:
    metadata = Path("videos/metadata.jsonl")
    metadata.write_text(metadata.read_text().replace('"categories": [[]', '"categories": [["sit", "talk"]'))


def train_adapter(runner: PageRunner) -> None:
    shutil.rmtree("my-model")
    command = "finetune --data clips --init-from umt-l16-k710 --preset lora --output-dir my-model"
    runner.run_umt(command.split(), "a run with an adapter")


# code of a block → what its page leaves to the reader to do before it
BEFORE = {"umt finetune --config small_detection": fill_in_categories, "PeftModel.from_pretrained": train_adapter}


@pytest.fixture(scope="module")
def documented_files(tmp_path_factory):
    """The folder of files and the Hub's cache, with which the conversion and the registry know the tiny models."""
    root = tmp_path_factory.mktemp("documentation")
    with pytest.MonkeyPatch.context() as patch:
        use_registry(patch, write_tiny_registry(root / "registry", OWNER))
        count_as_published(patch)
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
        write_documented_files(root / "files", root / "hub")
        yield root / "files"


def page_runner() -> PageRunner:
    return PageRunner(REPOSITORY, NOT_RUN, PARSED, SMALLER, BEFORE)


@pages
def test_the_code_of_a_page_runs(page, documented_files, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(documented_files, folder)
    monkeypatch.chdir(folder)
    runner = page_runner()
    runner.run(page)
    assert runner.done == runner.treatments(page)


@pages
def test_the_commands_in_the_text_of_a_page_exist(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_recipe.yaml").write_text("task: classification", encoding="utf-8")
    for words in inline_commands(page):
        check_mention(words, REPOSITORY)


def test_most_code_of_the_documentation_runs(capsys):
    numbers = sum((page_runner().treatments(page) for page in PAGES), Counter())
    inline = sum(len(inline_commands(page)) for page in PAGES)
    with capsys.disabled():
        print(f"\ncode of {len(PAGES)} pages: {dict(numbers)}; commands in the text: {inline}")
    assert numbers["python", "run"] >= 45 and numbers["bash", "run"] >= 105 and inline >= 240
    assert numbers["bash", "parsed"] + numbers["bash", "not run"] <= numbers["bash", "run"] / 2
    assert numbers["python", "not run"] <= 1 and numbers["python", "parsed"] == 0


def test_every_exception_is_needed():
    blocks = [block for page in PAGES for block in fenced_blocks(page)]
    shell = [" ".join(words) for block in blocks if block.language == "bash" for words in shell_commands(block.text)]
    python = [block.text for block in blocks if block.language == "python"]
    text = "".join(block.text for block in blocks)
    assert [pattern for pattern in NOT_RUN if not fnmatch.filter([*shell, *python], pattern)] == []
    assert [pattern for pattern in PARSED if not fnmatch.filter(shell, pattern)] == []
    assert [code for code in (*SMALLER, *BEFORE) if code not in text] == []

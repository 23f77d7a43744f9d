"""What `umt` prints for mistakes: one line that names the cause and what to do, and the traceback of a bug only."""

from pathlib import Path

import aiohttp
import pytest
import torch
from tiny_classifier import save_class_folders, save_tiny_classifier, tiny_classifier, tiny_processor
from tiny_pretraining import make_student, make_teacher
from tiny_question_answering import save_tiny, tiny_answerer
from tiny_video_text_retrieval import save_tiny_retrieval_model
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor
from warm_python import packages

from umt_training import cli
from umt_training.cli.errors import user_message
from umt_training.corpus import class_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a model of each kind, videos, an empty folder and a file."""
    folder = tmp_path_factory.mktemp("messages")
    save_tiny_classifier(folder / "classifier")
    save_tiny_retrieval_model(folder / "retrieval")
    save_tiny(tiny_answerer(), folder / "answerer")
    make_student().save_pretrained(folder / "student")
    make_teacher().save_pretrained(folder / "teacher")
    save_class_folders(folder / "videos", 4)
    (folder / "empty").mkdir()
    (folder / "run" / "checkpoint-8").mkdir(parents=True)
    (folder / "run" / "checkpoint-8" / "config.json").write_text("{}")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.json").write_text('{"model_type": "umt",')
    save_tiny_classifier(folder / "truncated")
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    save_tiny_classifier(folder / "bad_processor")
    (folder / "bad_processor" / "video_preprocessor_config.json").write_text("{")
    VideoMAEForVideoClassification(VideoMAEConfig(**SIZES, image_size=32, num_frames=4)).save_pretrained(
        folder / "mae"
    )
    VideoMAEImageProcessor().save_pretrained(folder / "mae")
    torch.save({}, folder / "official.pth")
    (folder / "notes.txt").write_text("no model")
    return folder


SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIDEO = "videos/knitting/clip0.mp4"
ONE_LINE = [
    # a wrong path
    ("classify VIDEO --model ./nowhere", "The model folder ./nowhere does not exist"),
    ("classify VIDEO --model /no/where/at-all", "The model folder /no/where/at-all does not exist"),
    ("classify VIDEO --model no/where/at-all", "The model folder no/where/at-all does not exist"),
    ("classify VIDEO --model nowhere/", "The model folder nowhere/ does not exist"),
    ("classify VIDEO --model nowhere", "nowhere is not a local folder, and the Hub"),
    ("classify VIDEO --model owner/nowhere", "owner/nowhere is not a local folder, and the Hub"),
    ("classify VIDEO --model empty", "empty does not contain a model: it has no config.json"),
    (
        "classify VIDEO --model run",
        "run does not contain a model: it has no config.json; did you mean run/checkpoint-8?",
    ),
    ("classify VIDEO --model damaged", "damaged/config.json is damaged"),
    ("classify VIDEO --model truncated", "The weights of truncated are damaged"),
    ("classify VIDEO --model notes.txt", "notes.txt is a file, but a model is a folder"),
    ("classify VIDEO --model official.pth", "official.pth is a file, but a model is a folder"),
    ("classify VIDEO --model bad_processor", "The video processor of bad_processor is damaged; save it again."),
    ("embed VIDEO --model mae --output v.npy", "mae cannot embed: windows are read by a UMTVideoProcessor"),
    ("convert nowhere out.pth --to-official", "nowhere is not a local folder, and the Hub"),
    # a model of another kind
    ("classify VIDEO --model retrieval", "retrieval cannot classify: it is a model of videos and texts"),
    ("classify VIDEO --model answerer", "answerer cannot classify: it is a question-answering model"),
    ("classify VIDEO --model teacher", "teacher cannot classify: it is a teacher"),
    ("classify VIDEO --model student", "student cannot classify: it is a stage-1 model"),
    ("embed VIDEO --model answerer --output v.npy", "answerer cannot embed: it is a question-answering model"),
    ("embed VIDEO --model teacher --output v.npy", "teacher cannot embed: it is a teacher"),
    ("search dog videos --model classifier", "classifier cannot search: it is a classifier"),
    ("search dog videos --model answerer", "answerer cannot search: it is a question-answering model"),
    ("ask VIDEO what? --model classifier", "classifier cannot answer questions: it is a classifier"),
    ("ask VIDEO what? --model retrieval", "retrieval cannot answer questions: it is a model of videos and texts"),
    ("evaluate --data videos --model retrieval", "cannot be evaluated in classification"),
    # devices
    *(
        (
            f"classify VIDEO --model classifier --device {name}",
            f"--device is {name!r}, which this machine does not have",
        )
        for name in ("gpu", "GPU", "cuda:99", "meta", "cpu:1", "-1", "nvidia", "xla")
    ),
    ("embed VIDEO --model classifier --output v.npy --device gpu", "--device is 'gpu'"),
    ("search dog videos --model retrieval --device gpu", "--device is 'gpu'"),
    ("ask VIDEO what? --model answerer --device gpu", "--device is 'gpu'"),
    ("evaluate --data videos --model classifier --device gpu", "--device is 'gpu'"),
    # numbers
    *(
        (f"classify VIDEO --model classifier --{name} {value}", f"--{name} is {value}; expected at least 1.")
        for name in ("clips", "crops", "top-k", "batch-size")
        for value in (0, -1)
    ),
    ("embed VIDEO --model classifier --output v.npy --batch-size 0", "--batch-size is 0; expected at least 1."),
    ("embed VIDEO --model classifier --output v.npy --window inf", "--window is inf; expected more than 0 seconds."),
    ("search dog videos --model retrieval --top-k 0", "--top-k is 0; expected at least 1."),
    ("search dog videos --model retrieval --rerank -1", "--rerank is -1; expected at least 0."),
    ("search dog videos --model retrieval --num-workers -1", "--num-workers is -1; expected at least 0."),
    ("search dog videos --model retrieval --window 0", "--window is 0.0; expected more than 0 seconds."),
    ("ask VIDEO what? --model answerer --top-k 0", "--top-k is 0; expected at least 1."),
    ("evaluate --data videos --model classifier --clips 0", "--clips is 0; expected at least 1."),
    ("evaluate --data videos --model classifier --crops -3", "--crops is -3; expected at least 1."),
    ("evaluate --data videos --model classifier --batch-size 0", "--batch-size is 0; expected at least 1."),
    ("evaluate --data videos --model classifier --num-workers -1", "--num-workers is -1; expected at least 0."),
    ("evaluate --task retrieval --data v --model retrieval --frames 0", "--frames is 0; expected at least 1."),
    ("evaluate --task retrieval --data v --model retrieval --reranked -1", "--reranked is -1; expected at least 0."),
    ("evaluate --task retrieval --data v --model retrieval --trim-seconds 0", "--trim-seconds is 0.0; expected more"),
    ("evaluate --task question_answering --data v --model answerer --scored 0", "--scored is 0; expected at least 1."),
    ("check-videos videos --workers -1", "--workers is -1; expected at least 0."),
    ("show-mask VIDEO --teacher teacher --num-masks 0", "--num-masks is 0; expected at least 1."),
    ("show-mask VIDEO --teacher teacher --num-frames 0", "num_frames is 0"),
    ("demo --labelled 0", "--labelled is 0; expected at least 1."),
    # options that do not go together
    ("evaluate --data videos --model classifier --sampling dense", "--sampling dense needs --frame-stride N"),
    ("evaluate --data videos --model classifier --sampling strided", "--sampling strided needs --frame-stride N"),
    (
        "evaluate --data videos --model classifier --frame-stride 2",
        "--frame-stride is for --sampling dense or strided;",
    ),
    ("convert classifier x.pth", "classifier is a folder, but an official .pth file is converted; add --to-official."),
    ("convert classifier new", "to convert it back: --to-official and new.pth"),
    ("convert official.pth x.pth", "x.pth is named like a file, but a folder is created"),
    ("convert classifier new --to-official", "new must be the name of a .pth file"),
    ("convert classifier empty --to-official", "empty must be the name of a .pth file"),
    ("convert classifier x.pth --to-official --part video", "--part has no effect with --to-official"),
    ("convert classifier x.pth --to-official --labels k400", "--labels has no effect with --to-official"),
    ("ask VIDEO  --model answerer", "The question is empty."),
]


@pytest.mark.parametrize(("command", "message"), ONE_LINE)
def test_a_mistake_is_reported_in_one_line_with_exit_code_1(command, message, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    words = [VIDEO if word == "VIDEO" else word for word in command.split(" ")]
    assert cli.main(words) == 1
    printed = capfd.readouterr()
    [line] = printed.err.splitlines()
    assert line.startswith(f"umt {words[0]}: ") and message in line and not printed.out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("clasify", "umt: the command 'clasify' does not exist; did you mean classify?"),
        ("xyz", "umt: the command 'xyz' does not exist; commands are classify, embed"),
        ("", "umt: a command is required: classify"),
        ("classify v.mp4 --modle m", "umt classify: the option --modle does not exist; did you mean --model?"),
        ("classify v.mp4 --batch 2", "umt classify: the option --batch does not exist; did you mean --batch-size?"),
        ("search dog v --qqq", "umt search: the option --qqq does not exist;"),
        ("evaluate --task retreival", "'retreival' is not one of classification, detection, retrieval, "),
        ("evaluate --task retreival", "did you mean retrieval?"),
        ("classify v.mp4 --model m --dtype float23", "'float23' is not one of float32, bfloat16, float16"),
        ("classify v.mp4 --model m --top-k many", "argument --top-k: invalid int value: 'many'"),
        ("classify v.mp4", "umt classify: the following arguments are required: --model"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_ends_in_one_line_with_exit_code_2(command, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_underscores_and_dashes_are_the_same_in_the_options_of_all_commands(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert cli.main(["classify", VIDEO, "--model", "classifier", "--top_k", "2", "--batch_size=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert cli.main(["check_videos", "videos", "--workers", "0"]) == 0
    assert "4 videos checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        "evaluate --model classifier --data videos",
        "finetune --data videos",
        "pretrain --config umt_b16_k710_stage1 --data videos",
        "detect videos --boxes-only --output out",
        "search a videos --model model",
    ],
)
def test_one_process_of_several_that_accelerate_was_given_is_an_error(command, folder, monkeypatch, capsys):
    """`accelerate launch --cpu --num_processes 2` sets these variables, and starts one process."""
    monkeypatch.chdir(folder)
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert cli.main(command.split()) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "starts only one without MPI; use torchrun --nproc-per-node N -m umt_training.cli" in line


def test_the_versions_are_one_line(capsys):
    assert cli.main(["--version"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    names = [entry.split()[0] for entry in line.split(", ")]
    assert names == ["unmasked-teacher", "torch", "transformers", "av", "python"] and torch.__version__[:4] in line


def test_loading_prints_nothing(folder, monkeypatch, capfd):
    """No progress bar of the weights, and no report of the weights that `embed` does not need."""
    monkeypatch.chdir(folder)
    assert cli.main(["embed", VIDEO, "--model", "classifier", "--output", "v.npy"]) == 0
    assert capfd.readouterr().err == ""


# --- which exceptions are a user's ----------------------------------------------------------------------------------


def caught(function) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("no error")


def own_check():
    tiny_processor(num_frames=0)


def check_of_transformers():
    from transformers import AutoConfig

    AutoConfig.for_model("no such model")


def missing_tracker():
    from transformers.integrations.integration_utils import CometCallback

    CometCallback()


def write_to_a_full_disk():
    with open("/dev/full", "w") as file:
        file.write("text")


def error_of_httpx():
    raise type("ConnectError", (Exception,), {"__module__": "httpx"})("connection refused")


def error_of_aiohttp():
    raise aiohttp.ServerDisconnectedError()


def dead_worker():
    raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")


@pytest.mark.parametrize(
    "check",
    [
        own_check,
        check_of_transformers,
        missing_tracker,
        write_to_a_full_disk,
        error_of_httpx,
        error_of_aiohttp,
        dead_worker,
    ],
)
def test_errors_of_checks_and_of_the_system_are_one_line(check):
    message = user_message(caught(check))
    assert message and "\n" not in message


def unpacking():
    _, _ = (1, 2, 3)


def strict_zip():
    list(zip([1], [1, 2], strict=True))


def shapes():
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def own_operation():
    tiny_classifier().classifier(torch.zeros(1, 5))


def key():
    {}["missing"]


@pytest.mark.parametrize("bug", [unpacking, strict_zip, shapes, own_operation, key, lambda: int("x"), lambda: 1 / 0])
def test_errors_of_operations_are_bugs(bug):
    assert user_message(caught(bug)) is None


def test_a_bug_shows_its_traceback(folder, monkeypatch):
    """A ValueError too, if an operation raised it."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(class_scores, "class_scores", lambda *args: unpacking())
    with pytest.raises(ValueError, match="too many values to unpack"):
        cli.main(["classify", VIDEO, "--model", "classifier"])


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("convert classifier out.pth --to-official", "out.pth"),
        ("embed videos --model classifier --output v.parquet", "v.parquet"),
        ("embed videos --model classifier --output v.npy", "v."),
        ("search dog videos --model retrieval --num-workers 0 --index index", "index"),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(command, file, folder):
    """The limit on the size of a file stands for a disk without space."""
    code = f"""
import contextlib, io, resource, sys
from umt_training import cli
sys.dont_write_bytecode = True  # of which the limit would leave the first bytes
with contextlib.redirect_stderr(io.StringIO()) as errors:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    code = cli.main({command.split()!r})
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.stderr.write(errors.getvalue())
sys.exit(code)
"""
    done = packages.run(["-c", code], cwd=folder)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and line.startswith(f"umt {command.split()[0]}: ") and "Traceback" not in done.stderr
    assert "File too large" in line and file in line

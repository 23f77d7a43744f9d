"""`umt app`: a web page on this machine for the models that are given, or with `--export-space` the folder of a Space
on the Hub that shows it.

A model is loaded by the code of its command (`umt classify`, `search`, `ask`, `detect`, `show-mask`), with the
defaults of that command.
"""

import argparse
import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

from ..detection.defaults import DEFAULT_DETECTOR, DETECTOR_THRESHOLD
from ..model_sources import CLASSIFIER, ENCODERS, VIDEO_TEXT, architecture_of, describe_model, read_model_config
from .arguments import ACTION_DETECTOR, ANSWERER, add_loading_arguments, load_answerer, load_model, load_processor

HELP = "open a web page that classifies, searches, answers, detects, and shows tokens"
DEMO = Path("umt-demo")
NUM_EXAMPLES = 8
TEACHER = ("UMTTeacherModel",)
# the tasks of the page → the architectures that can do them
TASKS = {
    "classify": CLASSIFIER,
    "search": VIDEO_TEXT,
    "ask": ANSWERER,
    "detect": ACTION_DETECTOR,
    "teacher": TEACHER,
    "tokens": tuple(name for name in ENCODERS if name not in (*CLASSIFIER, *VIDEO_TEXT)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="model folder, or its id on the Hub; at most one for each task, which its kind determines",
    )
    parser.add_argument(
        "--demo",
        type=Path,
        nargs="?",
        const=DEMO,
        metavar="DIR",
        help="models and clips of a finished `umt demo` (DIR: umt-demo), without network; if there is none, a short "
        "demo is run first, which takes minutes",
    )
    parser.add_argument("--videos", metavar="DIR", help="folder of videos to search; it is indexed first")
    parser.add_argument("--examples", type=Path, metavar="DIR", help="folder of videos to choose from, up to 8")
    parser.add_argument(
        "--teacher", metavar="MODEL", help="teacher whose attention is shown, as of `umt show-mask`: CLIP, SigLIP ..."
    )
    parser.add_argument(
        "--detector",
        metavar="MODEL",
        help=f"detector of persons beside an action detection model, such as {DEFAULT_DETECTOR}",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="make the page public through Gradio's service")
    parser.add_argument("--max-upload", type=float, default=200, metavar="MIB", help="largest uploaded video")
    parser.add_argument(
        "--export-space",
        type=Path,
        metavar="DIR",
        help="write a Space for the Hub instead, which shows this page: app.py, requirements.txt, card, local models "
        "and videos",
    )
    parser.add_argument(
        "--package",
        metavar="REQUIREMENT",
        help="where the Space installs this package from, such as git+https://github.com/OWNER/unmasked-teacher "
        "(default: the repository that it was installed from)",
    )
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted, or writes the Space.

    Raises:
        ValueError: an option is invalid, or a model can't be used here.
        OSError: a model or folder does not exist, or the port is in use.
        ImportError: Gradio is not installed.
    """
    check_options(args)
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("umt app needs Gradio; install the extra `app`: pip install 'unmasked-teacher[app]'.")
    if args.demo is not None:
        use_demo(args)
    names = models_by_task(args.models)
    if args.export_space is not None:
        return export(args, names)
    models = load_models(args, names)
    from ..app.server import served_page
    from .errors import user_message

    examples = list_examples(args)
    options = {"host": args.host, "port": args.port, "share": args.share, "max_upload": args.max_upload}
    with served_page(models, examples, user_message, **options) as address:
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("umt app: ended", file=sys.stderr)
    return 0


def check_options(args: argparse.Namespace) -> None:
    """Raises a ValueError for options that are missing, out of range or without effect."""
    if not (args.models or args.teacher or args.demo):
        raise ValueError("The page needs a model: give model folders or ids on the Hub, or --demo.")
    if args.port is not None and not 0 < args.port < 1 << 16:
        raise ValueError(f"--port is {args.port}; expected 1 to 65535.")
    if not 0 < args.max_upload < 1 << 20:
        raise ValueError(f"--max-upload is {args.max_upload:g}; expected a number of MiB above 0.")
    for name in ("videos", "examples"):
        folder = getattr(args, name)
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"The folder {folder} of --{name} does not exist.")
    if args.export_space is None and args.package is not None:
        raise ValueError("--package is for --export-space; leave it out.")
    if args.export_space is not None and args.share:
        raise ValueError("--share has no effect with --export-space, whose page is public on the Hub; leave it out.")


def use_demo(args: argparse.Namespace) -> None:
    """Adds the models and clips of a demo to the arguments; a short demo is run if there is none."""
    from ..demo.demo import run_demo
    from ..demo.finished import SHORT, demo_models, is_finished

    if not is_finished(args.demo):
        print(
            f"umt app: {args.demo} is not a finished demo; running a short one there: one seed, no long comparison "
            "(`umt demo` runs all of it)",
            file=sys.stderr,
        )
        run_demo(SHORT, args.demo)
    demo = demo_models(args.demo)
    args.models = [*args.models, *map(str, (demo.teacher, demo.student, demo.classifier))]
    args.demo_clips = demo.clips


def models_by_task(models: list[str]) -> dict[str, str]:
    """The model of each task of `TASKS`.

    Raises:
        ValueError: a model is of a kind that no tab can use, or two do the same.
        OSError: a model does not exist.
    """
    names: dict[str, str] = {}
    for name in models:
        config = read_model_config(name)
        architecture = architecture_of(config)
        task = next((task for task, suitable in TASKS.items() if architecture in suitable), None)
        if task is None:
            raise ValueError(
                f"{name} is {describe_model(config)}, which no tab of the page can use; see umt app --help."
            )
        if task in names:
            raise ValueError(f"{names[task]} and {name} are for the same tab; give one of them.")
        names[task] = name
    return names


def load_models(args: argparse.Namespace, names: dict[str, str]) -> Any:
    """The `AppModels` of the page."""
    from transformers import AutoModelForVideoClassification

    import modeling_umt  # noqa: F401 (registers the models)

    from ..app.ask_tab import Answerer
    from ..app.classify import Classifier
    from ..app.page import AppModels

    check_models(args, names)
    classifier = answerer = None
    if "classify" in names:
        own = arguments_of(args, names["classify"])
        model = load_model(AutoModelForVideoClassification, own, CLASSIFIER, "classify")
        classifier = Classifier(model, load_processor(model.config, own), short_name(names["classify"]))
    if "ask" in names:
        answerer = Answerer(*load_answerer(arguments_of(args, names["ask"])), short_name(names["ask"]))
    finder = load_finder(args, names)
    encoders = [found.model.base_model for found in (classifier, finder) if found is not None]
    tokens, token_models = load_tokens(args, names, encoders)
    note = ""
    if args.demo is not None:
        note = (
            "The models of `umt demo`, trained in minutes on generated clips: the label is the direction of the "
            "object's motion. They do not know real videos."
        )
    return AppModels(classifier, load_search(args, names), answerer, finder, tokens, token_models, note)


def check_models(args: argparse.Namespace, names: dict[str, str]) -> None:
    """Raises a ValueError for options without their model, and models without their option."""
    if args.teacher is not None and "teacher" in names:
        raise ValueError(f"{names['teacher']} is a teacher, and --teacher is {args.teacher}; give one of them.")
    if "search" in names and args.videos is None:
        raise ValueError(f"{names['search']} searches a folder of videos; give it with --videos.")
    if args.videos is not None and "search" not in names:
        raise ValueError("--videos is searched by a model of videos and texts; give one as MODEL.")
    if args.detector is not None and "detect" not in names:
        raise ValueError("--detector is for an action detection model; give one as MODEL.")


def arguments_of(args: argparse.Namespace, model: str, **others: Any) -> argparse.Namespace:
    """The arguments of another command with a model, its options at their defaults."""
    return argparse.Namespace(**vars(args) | {"model": model} | others)


def load_search(args: argparse.Namespace, names: dict[str, str]) -> Any:
    """The updated index of `--videos` with its model, or None."""
    if "search" not in names:
        return None
    from . import search

    defaults = {"index": None, "no_update": False, "window": None, "batch_size": 4, "num_workers": None}
    own = arguments_of(args, names["search"], motion_drop_ratio=None, **defaults)
    state = search.join_for_corpus(own)
    index, model, processor = search.load_search_model(own)
    index = search.open_index(index, own, model, processor, state)
    search.update_index(index, own, model, processor, True)

    from ..app.searched import VideoSearch

    return VideoSearch(index, model, processor, short_name(names["search"]))


def load_finder(args: argparse.Namespace, names: dict[str, str]) -> Any:
    """The action detection model with a detector of persons, or None."""
    if "detect" not in names:
        return None
    from ..app.detect import ActionFinder
    from . import detect

    defaults = {"boxes": None, "detector_threshold": DETECTOR_THRESHOLD, "every": None, "threshold": None}
    own = arguments_of(args, names["detect"], **defaults)
    persons, recognizer = detect.load_persons(own), detect.load_recognizer(own)
    persons.name = short_name(persons.name)
    return ActionFinder(recognizer.model, recognizer.processor, persons, short_name(names["detect"]))


def load_tokens(args: argparse.Namespace, names: dict[str, str], encoders: list[Any]) -> tuple[Any, str]:
    """What scores tokens, and the names of its models; None without a teacher and a video encoder.

    Args:
        encoders: those of other tabs, which are used where no other encoder is given.
    """
    from processing_umt import UMTVideoProcessor

    from ..app.tokens import TokenView
    from ..trainers.scored_clip import TokenScorer
    from .show_mask import load_mask_teacher, load_motion_student, student_frame, teacher_frame

    own = arguments_of(args, "", image_size=None, teacher_image_size=None, student=names.get("tokens"), seed=0)
    own.teacher = args.teacher or names.get("teacher")
    squares = [encoder for encoder in encoders if len(set(encoder.config.image_height_width)) == 1]
    student = load_motion_student(own) if "tokens" in names else next(iter(squares), None)
    teacher = None if own.teacher is None else load_mask_teacher(own)
    by_attention = by_motion = None
    shown = []
    if teacher is not None:
        num_frames = 8 if student is None else student.config.num_frames
        if student is not None:  # the student's frames, unless the teacher's tokens do not fit to them
            side = teacher.config.image_size // teacher.config.patch_size
            size = student.config.image_height_width[0]
            own.image_size = size if size % side == 0 else None
        by_attention = TokenScorer(teacher, UMTVideoProcessor(num_frames=num_frames), *teacher_frame(own, teacher))
        own.image_size = None
        shown.append(f"teacher `{short_name(own.teacher)}`")
    if student is not None:
        processor = UMTVideoProcessor(num_frames=student.config.num_frames)
        by_motion = TokenScorer(student, processor, *student_frame(own, student))
        shown.append(f"video encoder of `{short_name(student.name_or_path)}`")
    return (TokenView(by_attention, by_motion) if shown else None), ", ".join(shown)


def export(args: argparse.Namespace, names: dict[str, str]) -> int:
    """Writes the Space of the page and prints its folder."""
    from ..app.space import SpaceFiles, package_requirement, write_space

    check_models(args, names)
    requirement = package_requirement(args.package)
    named = [(f"--{name}", getattr(args, name)) for name in ("teacher", "detector") if getattr(args, name) is not None]
    folders = [(f"--{name}", str(getattr(args, name))) for name in ("videos", "examples") if getattr(args, name)]
    switches = [] if args.dtype is None else ["--dtype", args.dtype]
    switches += ["--trust-remote-code"] if args.trust_remote_code else []
    switches += ["--max-upload", f"{args.max_upload:g}"]
    clips = list_examples(args) if args.examples is None else []
    files = SpaceFiles(args.models, named, folders, clips, switches)
    tabs = [task for task in ("classify", "search", "ask", "detect") if task in names]
    if args.teacher is not None or {"teacher", "tokens", "classify", "detect"} & names.keys():
        tabs.append("tokens")
    folder = write_space(args.export_space, files, tabs, requirement)
    print(f"{folder}: start it with python app.py there, publish it with hf upload NAME {folder} --repo-type space")
    return 0


def short_name(model: str) -> str:
    """An id on the Hub, or the last part of a path."""
    return Path(model).resolve().name if Path(model).exists() else model


def list_examples(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """Name and path of the videos to choose from, up to 8: those of `--examples`, without links out of the folder, or
    the clips of the demo."""
    if args.examples is None:
        return getattr(args, "demo_clips", [])
    from ..data.video_files import is_inside, list_video_files

    paths = [path for path in list_video_files([str(args.examples)]) if is_inside(path, args.examples)]
    return [(Path(path).stem, Path(path)) for path in paths[:NUM_EXAMPLES]]

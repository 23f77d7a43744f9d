"""Runs that find a damaged, partial or foreign checkpoint, get a signal, lose a worker or the disk: given again, the
command ends with the result of a run that was not interrupted, bit for bit, or refuses in a line."""

import json
import os
import pickle
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file

from umt_training.trainers.checkpoint_files import write_checksums

from ..robustness_cases import Case, Wrong
from .commands import COMMANDS, Corpus, differences, run, start
from .kills import reference

FINETUNE = next(command for command in COMMANDS if command.name == "finetune")
NEWEST, BEFORE = 8, 6  # steps of the checkpoints of the interrupted run
FILES = (
    "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json",
    "video_preprocessor_config.json", "trainer_state.json", "checksums.json",
)  # fmt: skip


def build(folder: Path, seed: int) -> list[Case]:
    corpus = Corpus(folder).make()
    generator = Random(seed)
    cases = []

    def add(kind: str, name: str, damage: Callable[[Path], None], used: int | None = BEFORE) -> None:
        cases.append(Case(name, kind, lambda work: resume(corpus, work, damage, used), 120))

    for file in FILES:
        for damage in (remove, truncate, empty, flip):
            if (file, damage) != ("trainer_state.json", flip):  # it has no checksum: it is written last, and read
                position = generator.random()
                add("checkpoint: damaged", f"{file}, {damage.__name__}",
                    lambda output, file=file, damage=damage, position=position:
                    damage(output / f"checkpoint-{NEWEST}" / file, position))  # fmt: skip
    for name, damage in FOREIGN.items():
        add("checkpoint: foreign or partial", name, damage)
    add("checkpoint: foreign or partial", "all damaged", damage_all, None)
    add("checkpoint: foreign or partial", "names that are not steps", other_names, NEWEST)
    for name, damage in REFUSED.items():
        cases.append(Case(name, "run folder: refused", lambda work, damage=damage: refuse(corpus, work, damage), 120))
    for number in range(6):
        kind = (signal.SIGTERM, signal.SIGUSR1)[number % 2]
        cases.append(Case(f"{kind.name} {number}", "signals", lambda work, kind=kind, moment=(number + 1) / 7:
                          stop(corpus, work, kind, moment), 120))  # fmt: skip
        cases.append(Case(f"dead worker {number}", "dead workers", lambda work, moment=(number + 1) / 7:
                          kill_worker(corpus, work, moment), 120))  # fmt: skip
        cases.append(Case(f"full disk {number}", "full disk", lambda work, limit=12_000 << number:
                          fill_disk(corpus, work, limit), 120))  # fmt: skip
    return cases


# --- damage to a file: its path, and a position in it as a fraction


def remove(path: Path, position: float) -> None:
    path.unlink()


def truncate(path: Path, position: float) -> None:
    path.write_bytes(path.read_bytes()[: int(position * path.stat().st_size)])


def empty(path: Path, position: float) -> None:
    path.write_bytes(b"")


def flip(path: Path, position: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)


# --- damage to a run's folder


def not_finite(output: Path) -> None:
    edit_weights(output, lambda weights: weights["classifier.bias"].fill_(float("nan")))


def another_model(output: Path) -> None:
    edit_weights(output, lambda weights: weights.update({"classifier.bias": torch.zeros(5)}))


def edit_weights(output: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = output / f"checkpoint-{NEWEST}" / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, {"format": "pt"})
    write_checksums(path.parent)


def without_optimizer(output: Path) -> None:
    (output / f"checkpoint-{NEWEST}" / "optimizer.pt").unlink()
    write_checksums(output / f"checkpoint-{NEWEST}")


def pickled_code(output: Path) -> None:
    """An optimiser state that creates a file when it is unpickled."""
    path = output / f"checkpoint-{NEWEST}" / "optimizer.pt"
    path.write_bytes(pickle.dumps(_Code(str(output / "executed"))))
    write_checksums(path.parent)


class _Code:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def partial_copy(output: Path) -> None:
    newer = output / f"checkpoint-{NEWEST + 2}"
    newer.mkdir()
    shutil.copy(output / f"checkpoint-{NEWEST}" / "model.safetensors", newer)
    remove(output / f"checkpoint-{NEWEST}" / "optimizer.pt", 0)


def empty_folder(output: Path) -> None:
    (output / f"checkpoint-{NEWEST + 2}").mkdir()
    empty(output / f"checkpoint-{NEWEST}" / "rng_state.pth", 0)


def other_names(output: Path) -> None:
    (output / "checkpoint-last").mkdir()
    (output / "checkpoint-").mkdir()
    (output / "checkpoint-99.tmp").mkdir()


def damage_all(output: Path) -> None:
    for folder in output.glob("checkpoint-*"):
        flip(folder / "model.safetensors", 0.9)


def edit_state(output: Path, edit: Callable[[dict], object]) -> None:
    path = output / f"checkpoint-{NEWEST}" / "trainer_state.json"
    state = json.loads(path.read_text())
    edit(state)
    path.write_text(json.dumps(state))


def field_of_another_version(output: Path) -> None:
    edit_state(output, lambda state: state.update(field_of_a_later_version=1))


def state_of_another_step(output: Path) -> None:
    edit_state(output, lambda state: state.update(global_step=4))


def state_is_a_list(output: Path) -> None:
    (output / f"checkpoint-{NEWEST}" / "trainer_state.json").write_text("[]")


def checksums_are_a_list(output: Path) -> None:
    (output / f"checkpoint-{NEWEST}" / "checksums.json").write_text("[]")


def no_checksums_of_an_earlier_version(output: Path) -> None:
    (output / f"checkpoint-{NEWEST}" / "checksums.json").unlink()


FOREIGN = {
    "weights that are not finite": not_finite, "another model": another_model, "without optimiser": without_optimizer,
    "optimiser state with code": pickled_code, "partial copy": partial_copy, "empty folder": empty_folder,
    "field of another version": field_of_another_version, "state of another step": state_of_another_step,
    "state is a list": state_is_a_list, "checksums are a list": checksums_are_a_list,
    "no checksums, as of an earlier version": no_checksums_of_an_earlier_version,
}  # fmt: skip


def run_json(text: str) -> Callable[[Path], None]:
    def write(output: Path) -> None:
        (output / "run.json").write_text(text)

    return write


def other_settings(output: Path) -> None:
    content = json.loads((output / "run.json").read_text())
    content["settings"]["weight_decay"] = 0.5
    (output / "run.json").write_text(json.dumps(content))


def model_of_somebody(output: Path) -> None:
    (output / "run.json").unlink()
    shutil.copy(output / f"checkpoint-{NEWEST}" / "model.safetensors", output)


REFUSED = {
    "run.json is empty": run_json(""), "run.json is cut off": run_json('{"settings": {'),
    "run.json is a list": run_json("[]"), "run.json has no settings": run_json("{}"),
    "run.json of other settings": other_settings, "a model without run.json": model_of_somebody,
}  # fmt: skip


# --- the cases


def interrupted(corpus: Corpus, work: Path) -> Path:
    """The folder of a run that was interrupted after its checkpoint `NEWEST`."""
    reference(FINETUNE, corpus)
    output = shutil.copytree(corpus.folder / "finetune-output", work / "output")
    for path in output.iterdir():
        if path.is_file() and path.name != "run.json":
            path.unlink()
        elif path.name.startswith("checkpoint-") and int(path.name.split("-")[1]) > NEWEST:
            shutil.rmtree(path)
    content = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(content | {"complete": False}))
    return output


def resume(corpus: Corpus, work: Path, damage: Callable[[Path], None], used: int | None) -> str:
    """The run resumes from the checkpoint of the step `used`, or begins again."""
    output, log = interrupted(corpus, work), work / "log.txt"
    damage(output)
    require_same(corpus, output, log)
    line = f"resuming from {output / f'checkpoint-{used}'}\n"
    if (line in log.read_text()) != (used is not None):
        raise Wrong(f"not resumed from the step {used}: {log.read_text()[-500:]}")
    if (output / "executed").exists():
        raise Wrong("code of a checkpoint was executed")
    return "right"


def refuse(corpus: Corpus, work: Path, damage: Callable[[Path], None]) -> str:
    output, log = interrupted(corpus, work), work / "log.txt"
    damage(output)
    before = sorted(output.rglob("*"))
    code, _ = run(FINETUNE.arguments(corpus, output), log)
    require_one_line(code, 1, log)
    if sorted(output.rglob("*")) != before:
        raise Wrong("the folder was changed")
    return "refused"


def stop(corpus: Corpus, work: Path, number: signal.Signals, moment: float) -> str:
    output, log = work / "output", work / "log.txt"
    process = start(FINETUNE.arguments(corpus, output), log)
    wait_for_training(output, process, moment, corpus)
    os.kill(process, number)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code not in (128 + number, -number, 0):  # the last two: after the last step
        raise RuntimeError(f"exit code {code}: {log.read_text()[-1000:]}")
    require_same(corpus, output, log)
    return "right"


def kill_worker(corpus: Corpus, work: Path, moment: float) -> str:
    output, log = work / "output", work / "log.txt"
    process = start([*FINETUNE.arguments(corpus, output), "--dataloader-num-workers", "1"], log)
    wait_for_training(output, process, moment, corpus)
    for worker in children(process):
        os.kill(worker, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:  # the run may be at its end
        require_one_line(code, 1, log)
    require_same(corpus, output, log)
    return "right"


def fill_disk(corpus: Corpus, work: Path, limit: int) -> str:
    """Files can't be larger than `limit` bytes, which ends a write as a full disk does."""
    output, log = work / "output", work / "log.txt"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    reference(FINETUNE, corpus)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    code, _ = run(FINETUNE.arguments(corpus, output), log)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    if code:
        require_one_line(code, 1, log)
    require_same(corpus, output, log)
    return "right"


def wait_for_training(output: Path, process: int, moment: float, corpus: Corpus) -> None:
    """Waits until the run has a first checkpoint, and a fraction of its duration more."""
    _, seconds = reference(FINETUNE, corpus)
    while not list(output.glob("checkpoint-*")) and os.path.exists(f"/proc/{process}/fd/0"):
        time.sleep(0.01)
    time.sleep(moment * seconds / 3)


def children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for path in threads for child in path.read_text().split()]


def require_same(corpus: Corpus, output: Path, log: Path) -> None:
    """Gives the command again: it must end with the result of the run that was not interrupted."""
    code, _ = run(FINETUNE.arguments(corpus, output), log)
    if code:
        raise RuntimeError(f"exit code {code}: {log.read_text()[-1000:]}")
    if wrong := list(differences(reference(FINETUNE, corpus)[0], FINETUNE.result(output))):
        raise Wrong("; ".join(wrong))


def require_one_line(code: int, expected: int, log: Path) -> None:
    text = log.read_text()
    if code != expected or "Traceback" in text or not text.splitlines()[-1].startswith("umt finetune: "):
        raise RuntimeError(f"exit code {code}: {text[-1500:]}")

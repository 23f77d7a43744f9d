"""Forks processes that run Python programs, after the import of what most programs import; see `warm_python`.

    python -I warm_server.py '{"path": [entries of sys.path], "modules": [names of modules]}'

Requests and answers are lines of JSON on standard input and output: a program to start, answered by the number of its
process, or the number of a process to wait for, answered by its exit code, or null while it runs. The server ends with
its input, or with the request null.
"""

import gc
import importlib
import json
import os
import runpy
import sys

own_warnings = runpy.run_path(os.path.join(os.path.dirname(__file__), "own_warnings.py"))


def serve() -> dict | None:
    """Answers requests; returns the request of a program in the process that is to run it, and None at the end."""
    while (request := json.loads(sys.stdin.readline() or "null")) is not None:
        if isinstance(request, int):
            process, status = os.waitpid(request, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
        else:
            answer = os.fork()
            if answer == 0:
                return request
        print(json.dumps(answer), flush=True)
    return None


def run(arguments: list[str], cwd: str, env: dict[str, str], isolated: bool, stdout: str, stderr: str) -> None:
    """Runs a program as `python *arguments` does."""
    appended = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [os.open(os.devnull, os.O_RDONLY), os.open(stdout, appended), os.open(stderr, appended)]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    program, *sys.argv[1:] = arguments[1:] if arguments[0] in ("-m", "-c") else arguments
    if not isolated:
        first = {"-m": cwd, "-c": ""}.get(arguments[0], os.path.dirname(program))
        sys.path[:0] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if arguments[0] == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv[0] = "-c"
        exec(program, {"__name__": "__main__"})
    else:
        sys.argv[0] = program
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    sys.path[:0] = settings["path"]
    # before any import that may store a reference to `warnings.warn`
    own_warnings["install"](lambda report: print(f"[OURS] {report}", file=sys.stderr, flush=True))
    for name in settings["modules"]:
        importlib.import_module(name)
    gc.freeze()  # what is imported stays, so that no process examines or copies it
    request = serve()
    if request is not None:
        run(**request)

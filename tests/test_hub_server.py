"""The loopback Hub with the real `huggingface_hub` client, and the isolation of `run_clean`."""

import hashlib
import json
import urllib.request

import pytest
from hub_server import TOKEN, USER, LoopbackHub, Request
from recorded import REPOSITORY
from subprocess_tools import PACKAGES, complaints, run_clean

REPO = f"{USER}/thing"
WEIGHTS = bytes(range(256)) * 1000  # uploaded by LFS because of its file name
FILES = {
    "config.json": b"{}\n",
    "README.md": b"# a thing\n",
    "sub/deep/a b.txt": b"text",
    "weights.safetensors": WEIGHTS,
}


@pytest.fixture
def hub():
    with LoopbackHub() as server:
        yield server


def run(hub: LoopbackHub, code: str, cwd, **kwargs) -> dict:
    """Runs `code`, whose last line of output is a JSON object, as a client of `hub`."""
    result = run_clean(code, cwd=cwd, env=hub.env(), **kwargs)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]) | {"complaints": complaints(result.stderr)}


def test_download(hub, tmp_path):
    first = hub.create_repo(REPO, {**FILES, "old.txt": b"old"})
    second = hub.create_repo(REPO, FILES)
    answer = run(
        hub,
        f"""
        import json, time
        from pathlib import Path
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
        from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url

        folder = Path(snapshot_download("{REPO}"))
        old = Path(hf_hub_download("{REPO}", "old.txt", revision="{first}"))
        metadata = get_hf_file_metadata(hf_hub_url("{REPO}", "weights.safetensors"))
        api = HfApi()
        tree = {{e.path: getattr(e, "size", None) for e in api.list_repo_tree("{REPO}", recursive=True)}}
        top = [e.path for e in api.list_repo_tree("{REPO}")]
        paths = api.get_paths_info("{REPO}", ["weights.safetensors", "sub", "absent"])
        started, failures = time.perf_counter(), {{}}
        for name, arguments in {{
            "absent": ("{REPO}", "absent.txt"),
            "gone": ("{REPO}", "old.txt"),
            "revision": ("{REPO}", "config.json", "nowhere"),
            "repository": ("{USER}/nothing", "config.json"),
        }}.items():
            try:
                hf_hub_download(*arguments[:2], revision=(*arguments, None)[2])
            except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
                failures[name] = type(error).__name__
        print(json.dumps({{
            "files": {{str(p.relative_to(folder)): p.read_bytes().hex() for p in folder.rglob("*") if p.is_file()}},
            "commit": folder.name, "old": [old.parent.name, old.read_text()],
            "sha": [api.model_info("{REPO}").sha, api.model_info("{REPO}", revision="{first}").sha],
            "metadata": [metadata.etag, metadata.size, metadata.commit_hash],
            "tree": tree, "top": top, "lfs": paths[0].lfs.sha256, "paths": [p.path for p in paths],
            "failures": failures, "seconds": time.perf_counter() - started,
            "exists": [api.file_exists("{REPO}", f) for f in ("config.json", "absent")],
        }}))
        """,
        tmp_path,
    )
    assert {path: bytes.fromhex(data) for path, data in answer["files"].items()} == FILES
    assert answer["commit"] == second and answer["old"] == [first, "old"] and answer["sha"] == [second, first]
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert answer["metadata"] == [sha256, len(WEIGHTS), second] and answer["lfs"] == sha256
    assert answer["tree"] == {path: len(data) for path, data in FILES.items()} | {"sub": None, "sub/deep": None}
    assert sorted(answer["top"]) == ["README.md", "config.json", "sub", "weights.safetensors"]
    assert answer["paths"] == ["weights.safetensors", "sub"]
    assert answer["failures"] == {
        "absent": "RemoteEntryNotFoundError",
        "gone": "RemoteEntryNotFoundError",
        "revision": "RevisionNotFoundError",
        "repository": "RepositoryNotFoundError",
    }
    assert answer["exists"] == [True, False]
    assert answer["seconds"] < 2 and answer["complaints"] == []


def test_upload_and_download_again(hub, tmp_path):
    hub.create_repo(f"{USER}/data", {"old.csv": b"a\n"}, repo_type="dataset")
    answer = run(
        hub,
        """
        import json
        from pathlib import Path
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, create_branch, create_commit
        from huggingface_hub import create_repo, create_tag, hf_hub_download, snapshot_download, upload_folder, whoami
        from huggingface_hub.errors import HfHubHTTPError

        source = Path("source")
        (source / "sub").mkdir(parents=True)
        weights = bytes(range(256)) * 1000
        (source / "weights.safetensors").write_bytes(weights)
        (source / "README.md").write_text("---\\nlicense: apache-2.0\\n---\\n# card\\n")
        (source / "sub" / "empty.txt").write_bytes(b"")
        repo = create_repo("pushed").repo_id
        again = create_repo(repo, exist_ok=True).repo_id
        first = upload_folder(repo_id=repo, folder_path=source)
        create_tag(repo, tag="v1")
        create_branch(repo, branch="side")
        side = create_commit(repo, [CommitOperationAdd("only/side.txt", b"side")], commit_message="m", revision="side")
        second = create_commit(repo, [
            CommitOperationAdd("more.bin", b"\\0more"), CommitOperationDelete("sub/"),
            CommitOperationAdd("copy.safetensors", weights),
        ], commit_message="more", parent_commit=first.oid)
        same = upload_folder(repo_id=repo, folder_path=source, ignore_patterns="sub/*")
        try:
            create_commit(repo, [CommitOperationAdd("late", b"x")], commit_message="late", parent_commit=first.oid)
            late = None
        except HfHubHTTPError as error:
            late = error.response.status_code
        try:
            create_repo("other", token=False)
            anonymous = None
        except HfHubHTTPError as error:
            anonymous = error.response.status_code
        data = create_commit("tester/data", [CommitOperationAdd("new.csv", b"a\\n1\\n")], commit_message="d",
                             repo_type="dataset")
        table = hf_hub_download("tester/data", "new.csv", repo_type="dataset")
        folder = Path(snapshot_download(repo))
        tagged = Path(snapshot_download(repo, revision="v1"))
        files = {str(p.relative_to(folder)): p.read_bytes().hex() for p in folder.rglob("*") if p.is_file()}
        print(json.dumps({
            "user": whoami()["name"], "repo": [repo, again],
            "first": first.oid, "second": second.oid, "same": same.oid, "side": side.oid,
            "late": late, "anonymous": anonymous, "files": files, "tagged": tagged.name,
            "data": data.oid, "table": Path(table).read_text(),
        }))
        """,
        tmp_path,
    )
    repo = f"{USER}/pushed"
    assert answer["user"] == USER and answer["repo"] == [repo, repo]
    assert hub.files(repo, "v1") == hub.files(repo, answer["first"]) and answer["tagged"] == answer["first"]
    assert set(hub.files(repo, "v1")) == {"README.md", "sub/empty.txt", "weights.safetensors"}
    expected = {path: data for path, data in hub.files(repo, "v1").items() if not path.startswith("sub/")}
    expected |= {"more.bin": b"\0more", "copy.safetensors": WEIGHTS}
    assert hub.files(repo) == expected == {path: bytes.fromhex(data) for path, data in answer["files"].items()}
    assert hub.files(repo, "side")["only/side.txt"] == b"side" and "only/side.txt" not in expected
    assert [c.oid for c in hub.commits(repo)][1:] == [answer[name] for name in ("first", "side", "second")]
    assert answer["same"] == answer["second"]  # nothing changed, so no commit
    assert (answer["late"], answer["anonymous"]) == (412, 401)
    puts = [r for r in hub.requests if r.method == "PUT"]
    assert len(puts) == 2 and all(r.status == 200 for r in puts)  # equal content is uploaded once
    assert hub.files(f"{USER}/data", answer["data"], repo_type="dataset")["new.csv"].decode() == answer["table"]
    assert all("No files have been modified" in line for line in answer["complaints"])


def test_injected_failures(hub, tmp_path):
    large = bytes(range(256)) * 100_000  # more than two of the client's 10 MB chunks: it resumes after complete ones
    hub.create_repo(REPO, {**FILES, "large.bin": large})
    hub.create_repo(f"{USER}/broken", FILES)
    hub.inject("PUT", "/lfs-storage/", "drop", nth=2)
    hub.inject("POST", "/commit/", "drop")
    hub.inject("GET", f"{REPO}/resolve/.*/large.bin", "drop")
    hub.inject("GET", f"{REPO}/resolve/.*/config.json", 403)
    hub.inject("GET", f"{USER}/broken/resolve/.*/weights", "corrupt", times=9)
    answer = run(
        hub,
        f"""
        import hashlib, json
        from pathlib import Path
        from huggingface_hub import CommitOperationAdd, create_commit, create_repo, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        create_repo("tester/up")
        files = {{"a.safetensors": bytes(3_000_000), "b.safetensors": bytes(range(256)) * 20_000}}
        outcome = []
        for _ in range(2):
            try:
                operations = [CommitOperationAdd(name, data) for name, data in files.items()]
                outcome.append(create_commit("tester/up", operations, commit_message="m", num_threads=1).oid)
            except Exception as error:
                outcome.append(type(error).__name__)
        large = hashlib.sha256(Path(hf_hub_download("{REPO}", "large.bin")).read_bytes()).hexdigest()
        try:
            hf_hub_download("{REPO}", "config.json")
        except HfHubHTTPError as error:
            refused = error.response.status_code
        broken = Path(hf_hub_download("{USER}/broken", "weights.safetensors")).read_bytes()
        print(json.dumps({{"outcome": outcome, "large": large, "broken": broken.hex(), "refused": refused}}))
        """,
        tmp_path,
    )
    failure, commit = answer["outcome"]
    assert failure in ("RemoteProtocolError", "ReadError", "WriteError")
    assert [c.oid for c in hub.commits(f"{USER}/up")][1:] == [commit] and len(hub.files(f"{USER}/up")) == 2
    assert [r.status for r in hub.requests if r.method == "PUT"] == [200, 0, 200]  # nothing was uploaded twice
    assert answer["large"] == hashlib.sha256(large).hexdigest()
    assert [r.status for r in hub.requests if r.method == "GET" and f"{REPO}/resolve" in r.path] == [0, 206, 403]
    assert answer["refused"] == 403
    broken = bytes.fromhex(answer["broken"])
    half = len(WEIGHTS) // 2
    assert broken[:half] == WEIGHTS[:half] and broken[half:] == bytes(255 - byte for byte in WEIGHTS[half:])


@pytest.mark.parametrize(
    "range_header, status, expected",
    [("bytes=10-19", 206, WEIGHTS[10:20]), ("bytes=255990-", 206, WEIGHTS[-10:]), ("bytes=-3", 206, WEIGHTS[-3:])],
)
def test_ranges_and_log(hub, range_header, status, expected):
    hub.create_repo(REPO, FILES)
    path = f"/{REPO}/resolve/main/weights.safetensors"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(hub.endpoint + path, headers={"Range": range_header})) as answer:
        assert (answer.status, answer.read()) == (status, expected)
        assert answer.headers["Content-Range"].endswith(f"/{len(WEIGHTS)}")
    assert hub.requests == [Request("GET", path, status)]


def test_environment_is_a_new_machine(hub):
    first, second = hub.env(), hub.env()
    assert first["HF_TOKEN"] == TOKEN and first["HF_HOME"] != second["HF_HOME"]


def test_clean_run_hides_the_packages(tmp_path):
    code = """
    import importlib, importlib.metadata, json, logging, os, sys, warnings
    found = {}
    for name in ("modeling_umt", "processing_umt", "umt_training", "huggingface_hub"):
        try:
            found[name] = importlib.import_module(name).__name__
        except ModuleNotFoundError as error:
            found[name] = None
    importlib.metadata.version("huggingface_hub")
    logging.getLogger("somewhere").warning("looks\\nharmless")
    warnings.warn("raised by a dependency")
    logging.getLogger("umt_training.cli").warning("from our\\nlogger")
    logging.getLogger("transformers").error("failed")
    print(json.dumps([found, os.getcwd(), sorted(k for k in os.environ if k.startswith("PYTHON")), __name__]))
    """
    result = run_clean(code, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)})
    assert result.returncode == 0, result.stderr
    found, cwd, _, name = json.loads(result.stdout)
    assert found == dict.fromkeys(PACKAGES) | {"huggingface_hub": "huggingface_hub"}
    assert (cwd, name) == (str(tmp_path), "__main__")
    loud = complaints(result.stderr)
    assert loud == ["[WARNING] umt_training.cli: from our logger", "[ERROR] transformers: failed"]
    assert "[WARNING] somewhere: looks harmless" in result.stderr
    failed = run_clean("import umt_training", cwd=tmp_path)
    assert failed.returncode == 1 and "No module named 'umt_training'" in failed.stderr


def test_clean_run_with_the_packages(tmp_path):
    code = "import importlib.util as u; print(*u.find_spec('modeling_umt').submodule_search_locations)"
    result = run_clean(code, cwd=tmp_path, allow_umt=True)
    assert result.stdout.strip() == str(REPOSITORY / "modeling_umt"), result.stderr


def test_transformers_and_datasets(hub, tmp_path):
    """A stock model pushed by one machine is loaded by its id on another, and so is a table."""
    table = {"README.md": b"---\nlicense: mit\n---\n", "train.csv": b"a,b\n1,x\n2,y\n"}
    hub.create_repo(f"{USER}/table", table, repo_type="dataset")
    pushed = run(
        hub,
        """
        import json, torch
        from transformers import ViTConfig, ViTModel
        torch.manual_seed(0)
        sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        model = ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).eval()
        with torch.no_grad():
            state = model(torch.ones(1, 3, 8, 8)).last_hidden_state
        model.push_to_hub("vit")
        print(json.dumps({"state": state.tolist()}))
        """,
        tmp_path,
    )
    assert {"config.json", "model.safetensors"} <= set(hub.files(f"{USER}/vit"))
    loaded = run(
        hub,
        f"""
        import json, torch
        from datasets import load_dataset
        from transformers import AutoModel
        model, info = AutoModel.from_pretrained("{USER}/vit", output_loading_info=True)
        with torch.no_grad():
            state = model.eval()(torch.ones(1, 3, 8, 8)).last_hidden_state
        rows = list(load_dataset("{USER}/table", split="train"))
        print(json.dumps({{"state": state.tolist(), "info": {{k: len(v) for k, v in info.items()}}, "rows": rows}}))
        """,
        tmp_path,
    )
    assert loaded["state"] == pushed["state"] and not any(loaded["info"].values())
    assert loaded["rows"] == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert pushed["complaints"] == loaded["complaints"] == []

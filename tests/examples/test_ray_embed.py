"""The example for Ray on a local cluster of two actors, one of which is killed while it has a batch."""

import importlib.util
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from tiny_classifier import save_noise, save_tiny_classifier

from umt_training import UMTBatchEmbedder

ray = pytest.importorskip("ray")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ray_embed.py"


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield
    ray.shutdown()


def test_every_video_has_one_vector_although_an_actor_is_killed(cluster, tmp_path, monkeypatch):
    class KilledOnce(UMTBatchEmbedder):
        def __call__(self, batch):
            result = super().__call__(batch)
            try:
                (tmp_path / "killed").touch(exist_ok=False)
            except FileExistsError:
                return result
            os.kill(os.getpid(), signal.SIGKILL)

    save_tiny_classifier(tmp_path / "model")
    videos = [str(save_noise(tmp_path / "videos" / f"{number:02}.mp4", number)) for number in range(12)]
    spec = importlib.util.spec_from_file_location("ray_embed", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "UMTBatchEmbedder", KilledOnce)
    arguments = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "vectors"), "--batch-size", "3"]
    example.main([str(tmp_path / "videos"), *arguments])

    assert (tmp_path / "killed").exists()
    rows = sorted(parquet.read_table(tmp_path / "vectors").to_pylist(), key=lambda row: row["video"])
    assert [row["video"] for row in rows] == videos and not any(row["error"] for row in rows)
    expected = UMTBatchEmbedder(str(tmp_path / "model"))({"video": videos})
    np.testing.assert_allclose([row["embedding"] for row in rows], expected["embedding"], atol=1e-6)

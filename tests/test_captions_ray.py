"""Captions through a Ray cluster of two nodes, one of which is killed in the middle."""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tinycogvlm.captions import items, on_ray, parts
from tinycogvlm.captions.run import run
from tinycogvlm.captions.settings import Settings
from tinycogvlm.cli import main
from tinycogvlm.errors import UserError

ROOT = Path(__file__).parents[1]


def test_without_ray(monkeypatch, toy):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray: pip install 'tinycogvlm\[ray\]'"):
        next(on_ray.results({0: ()}, None, "", 1, ""))


@pytest.mark.parametrize("address, said", [
    ("", "Ray could not be started on this machine (The current node timed out.)"),
    ("10.0.0.1:1", "no Ray cluster answers at 10.0.0.1:1 (The current node timed out.)")])
def test_ray_that_does_not_start(monkeypatch, address, said):
    def init(*_, **__):
        raise Exception("The current node timed out.\nMore of it")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(UserError) as found:
        next(on_ray.results({0: ()}, None, "", 1, address))
    assert str(found.value) == said


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster
    os.environ["PYTHONPATH"] = str(ROOT)                    # the nodes' processes inherit it
    small = {"num_cpus": 1, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    found.second = found.add_node(**small)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle_loses_nothing(cluster, toy, tmp_path, monkeypatch):
    import ray
    for i in range(24):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i:02}.png")
    monkeypatch.setattr(parts, "SHARD", 2)
    monkeypatch.setattr(on_ray, "Actor", slow_actor())
    settings = Settings({"caption": "x:"}, {"folder": str(toy), "device": "cpu", "stream": False})
    found = items.listed([str(tmp_path)])
    run(found, settings, tmp_path / "here.jsonl", lambda *_: None)
    done = []

    def tell(sentence, passing):
        done.append(sentence)
        if len(done) == 3:
            cluster.remove_node(cluster.second, allow_graceful=False)
    report = run(found, settings, tmp_path / "ray.jsonl", tell, workers=2, ray=cluster.address)
    assert (report["new"], report["failed"]) == (24, 0) and len(done) == 12
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()
    assert not ray.is_initialized() or ray.shutdown() is None


def slow_actor():
    """An actor that takes a moment for each shard, so that the node dies while it works"""
    import time

    class Actor(on_ray.Actor):
        def rows(self, *work):
            time.sleep(0.5)
            return super().rows(*work)
    return Actor


@pytest.mark.slow
def test_the_command(cluster, toy, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    command = ["caption", "--weights", str(toy), str(tmp_path), "--out", str(tmp_path / "o.jsonl"), "--engine"]
    assert main.main([*command, f"ray={cluster.address}"]) == 1
    a, b = map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())
    assert a["error"] is None and b["error"] is not None
    assert main.main([*command[:-2], str(tmp_path / "p.jsonl"), "--engine", f"ray={cluster.address}",
                      "--image-size", "7"]) == 1
    assert "image" in capsys.readouterr().err

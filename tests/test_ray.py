"""The Ray engine; skipped where Ray is not installed (pip install latent-skill-planning[ray])."""

import sys
import threading
import time
from typing import Any

import pytest

from lsp.config import RuntimeConfig, make_config
from lsp.errors import UserError
from lsp.experiments.sweep.execution import Execution
from lsp.experiments.sweep.planned_run import Outcome, PlannedRun

RUNTIME = RuntimeConfig(threads=1, compile=False)


def debug_run(steps: Any, seed: Any, task: Any = "walker_walk", source: Any = None) -> Any:
    settings = {"schedule.save_every": 200, "schedule.eval_every": 0, "schedule.prior_episodes": 0}
    config = make_config("lsp", "debug", task=task, seed=seed, action_repeat=20, **settings)
    return PlannedRun(config, steps, source)


def test_without_ray_it_is_one_line(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'latent-skill-planning\[ray\]'"):
        Execution("ray", storage=tmp_path).carry_out([debug_run(200, 0)], RUNTIME)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Any, address: Any) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="no Ray cluster at"):
        Execution("ray", storage=tmp_path, address=address).carry_out([debug_run(9, 0)], RUNTIME)


def test_a_run_that_no_node_has_room_for_is_one_line(tmp_path: Any) -> None:
    pytest.importorskip("ray")
    runtime = RuntimeConfig(threads=1, compile=False, device="cuda")
    with pytest.raises(UserError, match="needs 1 CPU, 1 GPU, which this machine does not have"):
        Execution("ray", storage=tmp_path, jobs=1).carry_out([debug_run(9, 0)], runtime)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_goes_away_costs_no_run(tmp_path: Any) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    runs = [debug_run(1600, seed) for seed in range(3)]
    runs.append(debug_run(400, 0, "walker_run", runs[0]))

    def remove_half_way() -> None:
        deadline = time.monotonic() + 120
        while sum(run.reached(tmp_path) > 0 for run in runs) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        cluster.remove_node(node, allow_graceful=False)

    remover = threading.Thread(target=remove_half_way)
    remover.start()
    try:
        execution = Execution("ray", storage=tmp_path, address=cluster.address)
        outcome = execution.carry_out(runs, RUNTIME)
    finally:
        remover.join()
        cluster.shutdown()
    assert outcome == Outcome({}, False)
    assert all(run.finished(tmp_path) for run in runs)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_done_is_not_tried_again(tmp_path: Any) -> None:
    pytest.importorskip("ray")
    wrong = debug_run(200, 0, "walker_wak")
    runs = [wrong, debug_run(200, 0), debug_run(200, 0, "walker_run", wrong)]
    outcome = Execution("ray", storage=tmp_path, jobs=1).carry_out(runs, RUNTIME)
    assert "Unknown task" in outcome.failed[wrong.name]
    assert "its source failed" in outcome.failed[runs[2].name]
    assert runs[1].finished(tmp_path)

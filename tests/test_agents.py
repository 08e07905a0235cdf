"""Agents: a run packed small, shipped or shared, and read wherever a run is."""

import json
import shutil
import tomllib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import short_episodes, short_run
from unchecked import unchecked

import lsp
from lsp.api import exporting, load_networks
from lsp.baselines.hiro import HiroNetworks
from lsp.cli.main import _parse, main
from lsp.config import RuntimeConfig, TransferConfig, make_config, to_dict
from lsp.errors import RunWarning, UserError
from lsp.experiments.skills.held import Held
from lsp.explorer.opening import open_session
from lsp.runs import agents
from lsp.runs.agents import read_card
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.runs.packed import packed, unpacked, write_weights
from lsp.training.evaluation import Evaluation

pytestmark = pytest.mark.usefixtures("short_episodes")

PLAIN = RuntimeConfig(compile=False, bf16=False)
NAME = "walks_upright"
FILES = {"card.json", "config.json", "spaces.json", "weights.safetensors"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Any:
    """A short run, an agent made of it, and what its export returned."""
    folder = tmp_path_factory.mktemp("runs")
    with short_episodes(), unchecked():
        lsp.train(short_run(task="quadruped_upright_walk"), folder / "run", 300, PLAIN)
        card = lsp.export(folder / "run", folder / "shared" / NAME, 2, about="it walks")
    return folder / "run", folder / "shared" / NAME, card


def test_a_card_has_the_curve_and_the_command_line_adds_a_picture(
    trained: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark = np.zeros((8, 8, 3), np.uint8)  # photographs take long
    monkeypatch.setattr("lsp.experiments.skills.above.photograph", lambda *_: dark)
    run, _, card = trained
    returns = [x["eval/return"] for x in read_metrics(run) if x["kind"] == "eval"]
    assert [x for _, x in card.curve] == pytest.approx(returns, rel=1e-5)
    assert [steps for steps, _ in card.curve] == [300]
    main(["export", str(run), "--out", str(tmp_path / NAME), "--episodes", "2"])
    assert "curve" in capsys.readouterr().out
    picture = (tmp_path / NAME / "skills.jpg").read_bytes()
    assert picture.startswith(b"\xff\xd8")
    assert len(picture) < 300_000


def test_an_agent_whose_skills_cannot_be_held_has_no_picture(tmp_path: Path, capsys: Any) -> None:
    run, out = tmp_path / "run", tmp_path / NAME
    with unchecked():
        lsp.train(short_run("hiro", "quadruped_upright_walk"), run, 300, PLAIN)
        main(["export", str(run), "--out", str(out), "--episodes", "2"])
    assert "hiro" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == FILES


@pytest.fixture
def shipped(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The agent as a part of the package, for somebody in an empty folder."""
    monkeypatch.setattr(agents, "SHIPPED", tmp_path / "package")
    shutil.copytree(trained[1], tmp_path / "package" / NAME)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package" / NAME


def refusal(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    said = str(raised.value)
    assert "\n" not in said
    return said


def test_an_agent_is_a_small_folder(trained: Any) -> None:
    run, agent, card = trained
    assert {path.name for path in agent.iterdir()} == FILES
    full = (next(run.glob("checkpoints/*300")) / "networks.safetensors").stat().st_size
    assert (agent / "weights.safetensors").stat().st_size < 0.6 * full
    assert sorted(path.name for path in agent.parent.iterdir()) == [NAME]  # and nothing beside it
    assert card == read_card(agent)
    assert str(run.parent) not in "".join(
        (agent / name).read_text() for name in FILES if "js" in name
    )


def test_its_card_says_what_it_is_and_earned(trained: Any) -> None:
    run, agent, card = trained
    assert (card.task, card.method, card.preset) == ("quadruped_upright_walk", "lsp", "debug")
    assert (card.env_steps, card.episodes, card.about) == (300, 2, "it walks")
    assert card.run == RunFolder(run).id == RunFolder(agent).id
    assert lsp.evaluate(run, 2).returns.mean() == pytest.approx(card.full_return, rel=1e-5)
    assert lsp.evaluate(agent, 2).returns.mean() == pytest.approx(card.eval_return, rel=1e-5)
    prior = lsp.evaluate(agent, 2, skills="prior").returns.mean()
    assert prior == pytest.approx(card.prior_return, rel=1e-5)
    assert card.full_return != card.eval_return != card.prior_return


def test_a_name_loads_and_evaluates_as_the_run_does(trained: Any, shipped: Path) -> None:
    observation, _ = lsp.make_env("quadruped_upright_walk").reset(seed=0)
    one, other = (lsp.load(each).act(observation) for each in (trained[0], NAME))
    np.testing.assert_allclose(one, other, atol=0.02)
    with closing(open_session(NAME)) as session:
        assert session.networks.config.task == "quadruped_upright_walk"
    assert lsp.evaluate(NAME, 1).checkpoint == 300
    assert lsp.evaluate(NAME, 1, checkpoint=300).checkpoint == 300
    assert "300 env steps, and of no others" in refusal(lsp.evaluate, NAME, 1, checkpoint=200)


def test_every_weight_is_there_again(trained: Any) -> None:
    before, after = (load_networks(path).state_dict() for path in trained[:2])
    assert before.keys() == after.keys()
    for name, weight in before.items():
        copied = f"slow_{name}" if name.startswith("value.") else name
        torch.testing.assert_close(after[name], before[copied], rtol=1e-3, atol=1e-6)
        assert after[name].dtype == weight.dtype


def test_hiro_acts_by_what_is_kept() -> None:
    settings = make_config("hiro", "debug")
    weights = HiroNetworks({"position": (5,)}, 2, settings).state_dict()
    weights["normalize.variance"] += 1e6  # beyond what half precision knows
    again = unpacked(packed(weights, half=True))
    assert again.keys() == weights.keys()
    assert len(packed(weights, half=True)) < 0.7 * len(weights)
    torch.testing.assert_close(again, weights, rtol=1e-3, atol=1e-6)


def test_what_half_precision_cannot_hold_stays_whole() -> None:
    stored = packed({"a": torch.full((2, 2), 1e5), "b": torch.ones(2, 2)}, half=True)
    assert {name: x.dtype for name, x in stored.items()} == {"a": torch.float32, "b": torch.float16}
    assert packed({"b": torch.ones(2, 2)}, half=False)["b"].dtype == torch.float32


def returns(*values: float) -> Evaluation:
    return Evaluation(np.array(values), np.array([100] * len(values)), None)


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ((100, 300, 200, 400), (400, 200, 300, 100), False),  # other ways, as good
        ((100, 300, 200, 400), (80, 290, 180, 380), True),  # each a little worse
        ((100, 300, 200, 400), (96, 296, 196, 396), True),
        ((100, 300, 200, 400), (90, 320, 150, 420), False),  # 2 %, and much noise
        ((500, 500, 500, 500), (499, 499, 499, 499), False),  # a fifth of a percent
        ((0, 0, 0, 0), (0, 0, 0, 0), False),
        ((-100, -100, -100, -101), (-110, -110, -110, -110), True),
    ],
)
def test_a_loss_beyond_the_noise_is_refused(before: Any, after: Any, refused: bool) -> None:
    if not refused:
        return exporting._check_loss(returns(*before), returns(*after))
    said = refusal(exporting._check_loss, returns(*before), returns(*after))
    assert "--full-precision" in said


def test_a_refused_export_leaves_nothing(trained: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def packed_to_nothing(folder: Path, weights: Any, half: bool) -> None:
        write_weights(folder, {name: 0 * x for name, x in weights.items()}, half)

    monkeypatch.setattr(exporting, "write_weights", packed_to_nothing)
    worse = iter([returns(100, 101), returns(10, 11)])
    monkeypatch.setattr(
        exporting, "evaluate", lambda *_, **__: next(worse)._replace(checkpoint=300)
    )
    assert "half precision loses 90" in refusal(
        lsp.export, trained[0], tmp_path / "new" / "agent", 2
    )
    assert list((tmp_path / "new").iterdir()) == []


def test_what_cannot_be_exported_is_said(trained: Any, tmp_path: Path) -> None:
    run, agent, _ = trained
    assert "is an agent already" in refusal(lsp.export, agent, tmp_path / "new", 2)
    assert "at least 2" in refusal(lsp.export, run, tmp_path / "new", 1)
    assert "not empty" in refusal(lsp.export, run, agent, 2)
    (tmp_path / "file").touch()
    assert "not empty" in refusal(lsp.export, run, tmp_path / "file", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_command_is_noted_without_folders() -> None:
    command = (
        "lsp transfer /home/me/runs/up --task t --logdir /home/me/x --reward a:b --config=/a/c"
    )
    assert exporting._portable(command) == "lsp transfer up --task t --reward a:b --config=c"
    assert exporting._portable("lsp train --logdir=/home/me/x") == "lsp train"
    assert exporting._portable("lsp 'half") is None
    assert exporting._portable(None) is None


# Names


def test_a_runs_folder_counts_before_a_name(trained: Any, shipped: Path) -> None:
    assert agents.find_run(NAME) == shipped
    Path(NAME).mkdir()
    assert agents.find_run(NAME) == shipped  # it holds no run
    shutil.copy(trained[0] / "config.json", NAME)
    assert agents.find_run(NAME) == Path(NAME)


def test_what_is_neither_is_said_with_what_there_is(shipped: Path) -> None:
    assert f"did you mean the agent {NAME}?" in refusal(lsp.load, "walk_upright")
    assert f"no agent of that name: there are {NAME} (lsp agents)" in refusal(lsp.load, "humanoid")
    said = refusal(lsp.evaluate, "runs/mine")
    assert said == "runs/mine is not a run: there is no such folder"


def test_agents_are_listed_with_their_cards(trained: Any, shipped: Path, capsys: Any) -> None:
    assert lsp.agents() == {NAME: trained[2]}
    main(["agents"])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "name"
    assert row.startswith(f"{NAME}  quadruped_upright_walk  {trained[2].eval_return:.0f} ± ")
    assert row.index("quadruped") == header.index("task")
    main(["agents", NAME])
    said = capsys.readouterr().out
    assert f"sha256 {trained[2].sums.weights}" in said
    assert "it walks" in said
    shutil.rmtree(shipped)
    main(["agents"])
    assert "ships no agents" in capsys.readouterr().out


def test_a_damaged_card_is_left_out_of_the_list(shipped: Path) -> None:
    (shipped / "card.json").write_text("{}")
    with pytest.warns(RunWarning, match="card.json is damaged"):
        assert lsp.agents() == {}


# What an agent does not have


def test_an_agent_is_not_resumed(shipped: Path, trained: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(trained[1], shared)
    for force in (False, True):
        said = refusal(lsp.train, short_run(task="quadruped_walk"), shared, 400, PLAIN, force=force)
        assert f"lsp transfer {shared} --task TASK" in said
    assert {path.name for path in shared.iterdir()} == FILES


@pytest.mark.parametrize("what", ["relabel", "keep_replay"])
def test_episodes_that_an_agent_lacks_are_said(shipped: Path, what: str) -> None:
    transfer = TransferConfig(**{what: True})  # type: ignore[arg-type]
    said = refusal(lsp.transfer, NAME, "quadruped_reach", "run", 200, PLAIN, transfer=transfer)
    assert said.startswith(f"{NAME} is an agent without episodes, which --{what[:4]}")
    assert not Path("run").exists()


def test_a_new_reward_is_planned_for_where_it_needs_no_episodes(shipped: Path) -> None:
    def up(observations: Any, actions: Any) -> Any:
        return observations["torso_upright"].reshape(-1)

    assert lsp.evaluate(NAME, 1, reward=lsp.NewReward(up, horizon=5)).predicted is not None
    said = refusal(lsp.evaluate, NAME, 1, env="quadruped_reach", reward="task")
    assert "without episodes, which this reward is fitted to" in said


def test_pictures_of_an_agent_go_elsewhere(shipped: Path, monkeypatch: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in shipped.iterdir()}
    held = Held(np.zeros((2, 3)), np.zeros((2, 1, 2)), "std", None, None)
    monkeypatch.setattr("lsp.experiments.skills.report.hold", lambda *_, **__: held)
    report = lsp.show_skills(NAME)
    assert report.files == [Path("pictures") / NAME / "held_skills" / "distances.csv"]
    assert RunFolder(shipped).video == Path("pictures") / NAME / "video.mp4"
    assert {path: path.stat().st_mtime_ns for path in shipped.iterdir()} == before


# Transfers


def test_a_transfer_starts_from_an_agent(shipped: Path) -> None:
    parsed: Any = _parse(["transfer", NAME, "--task", "quadruped_reach"])
    assert parsed.folder == Path("runs") / f"quadruped_reach-from-{NAME}"
    call = NAME, "quadruped_reach", "run"
    assert lsp.transfer(*call, 0, PLAIN)
    weights, start = load_networks("run").state_dict(), load_networks(NAME).state_dict()
    assert all(torch.equal(weights[name], start[name]) for name in start)
    source = json.loads(Path("run/source.json").read_text())
    assert (source["agent"], source["env_steps"]) == (NAME, 300)
    assert source["weights"] == read_card(shipped).sums.weights
    assert RunFolder(Path("run")).read_config().transfer.source == NAME
    assert lsp.transfer(shipped, *call[1:], 20, PLAIN)  # the same, spelled otherwise
    assert lsp.transfer(*call, 40, PLAIN)
    shutil.rmtree(shipped)
    assert lsp.transfer(*call, 60, PLAIN)


def test_a_transfer_is_packed_without_its_anchor_and_where_it_began(
    trained: Any, tmp_path: Path
) -> None:
    _, agent, _ = trained
    held = TransferConfig(anchor=0.1)
    lsp.transfer(agent, "quadruped_reach", tmp_path / "run", 0, PLAIN, transfer=held)
    card = lsp.export(tmp_path / "run", tmp_path / "agent", 2)
    assert card.source == "lsp on quadruped_upright_walk, seed 0, 300 env steps"
    assert RunFolder(tmp_path / "agent").read_config().transfer == TransferConfig()
    assert not any(
        name.startswith("anchor") for name in load_networks(tmp_path / "agent").state_dict()
    )
    assert card.success is not None


def test_a_fixed_behavior_is_packed_with_what_acts(trained: Any, tmp_path: Path) -> None:
    _, agent, _ = trained
    held = TransferConfig(freeze_policy=True, anchor=0.1)
    run, packed_in = tmp_path / "run", tmp_path / "agent"
    lsp.transfer(agent, "quadruped_reach", run, 0, PLAIN, transfer=held)
    lsp.export(run, packed_in, 2, full_precision=True)
    noted = json.loads((run / "source.json").read_text())
    assert RunFolder(packed_in).read_config().transfer.source == noted["run"]
    assert load_networks(packed_in).fixed_behavior is not None
    evaluations = (lsp.evaluate(folder, episodes=2) for folder in (run, packed_in))
    before, after = (each.returns for each in evaluations)
    np.testing.assert_array_equal(before, after)


# Trust and damage


def test_an_agent_of_a_stranger_runs_no_code(shipped: Path, trained: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(trained[1], shared)
    for folder in (shared, shipped):
        named = replace(RunFolder(folder).read_config(), reward="nobody:reward")
        (folder / "config.json").write_text(json.dumps(to_dict(named)))
        card = json.loads((folder / "card.json").read_text())
        card["sums"]["config"] = agents.sums_of(folder).config
        (folder / "card.json").write_text(json.dumps(card))
    assert "names code that would be imported" in refusal(lsp.load, shared)
    lsp.load(NAME)  # comes with the package
    lsp.load(shared, trust=True)


def test_ones_own_agent_may_name_ones_own_code(trained: Any, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    shutil.copy(trained[0] / "spaces.json", run.path)
    for reward, sealed in ((None, False), ("nobody:reward", True)):
        config = replace(short_run(), reward=reward)
        (run.path / "config.json").write_text(json.dumps(to_dict(config)))
        agent = tmp_path / str(reward)
        agent.mkdir()
        exporting._write_settings(agent, run, None)
        assert RunFolder(agent).is_own == sealed == (agent / "config.json.seal").exists()


@pytest.mark.parametrize("name", sorted(FILES - {"card.json"}))
@pytest.mark.parametrize("harm", ["missing", "flipped", "folder"])
def test_a_damaged_agent_is_one_line(shipped: Path, name: str, harm: str) -> None:
    path = shipped / name
    content = bytearray(path.read_bytes())
    path.unlink()
    content[-2] ^= 1
    if harm == "flipped":
        path.write_bytes(content)
    elif harm == "folder":
        path.mkdir()
    said = refusal(lsp.evaluate, NAME, 1)
    assert str(path) in said
    assert "install the package again" in said or harm == "folder"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "is an agent of schema 2"),
        ({"run": "x"}, "card.json is damaged"),
        ({"env_steps": -1}, "card.json is damaged"),
        ({"seed": "zero"}, "seed cannot be 'zero'"),
        ({"colour": "red"}, "unknown or missing settings: colour"),
    ],
)
def test_a_damaged_card_is_one_line(shipped: Path, change: Any, said: str) -> None:
    card = json.loads((shipped / "card.json").read_text())
    (shipped / "card.json").write_text(json.dumps(card | change))
    assert said in refusal(lsp.load, NAME)
    assert said in refusal(lsp.transfer, NAME, "quadruped_reach", "run", 10, PLAIN)


def test_weights_of_other_shapes_are_one_line(shipped: Path) -> None:
    weights = packed({"policy.x": torch.ones(2, 2)}, half=True)
    write_weights(shipped, weights, half=True)
    card = json.loads((shipped / "card.json").read_text())
    card["sums"]["weights"] = agents.sums_of(shipped).weights
    (shipped / "card.json").write_text(json.dumps(card))
    assert NAME in refusal(lsp.load, NAME)


# Those that are shipped

ROOT = Path(__file__).parents[1]


def test_what_is_shipped_is_whole_and_small() -> None:
    for folder in map(agents.SHIPPED.joinpath, agents.names()):
        assert {path.name for path in folder.iterdir()} == FILES | {"skills.jpg"}
        assert agents.check_files(folder).licence == "MIT"
        assert agents.megabytes(folder) < 2
        observation, _ = lsp.make_env(read_card(folder).task).reset(seed=0)
        assert np.isfinite(lsp.load(folder.name).act(observation)).all()


def test_a_wheel_has_the_files_of_agents() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["lsp"]
    inside = agents.SHIPPED.relative_to(ROOT / "lsp")
    for name in FILES | {"skills.jpg"}:
        assert any((inside / "an_agent" / name).match(pattern) for pattern in patterns)

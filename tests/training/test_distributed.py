"""Two processes train as one does on all their data, and stay equal to the bit."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from toys.processes import wait_for_updates
from toys.ranks import (
    POLICIES,
    RANKS,
    TRAINED,
    UPDATES,
    clipped_step,
    command_line,
    everything,
    in_ranks,
    ippo,
    learned_spring,
    model_step,
    policy_step,
    policy_trainer,
    under_torchrun,
)
from toys.reach import Reach
from toys.trainers import leaves, what_differs

from diffsurrogate import distributed
from diffsurrogate.__main__ import main
from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.algorithms.ppo import PPO
from diffsurrogate.distributed import process_group
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import load_checkpoint

OF_EACH_RANK = re.compile(
    r"other_ranks|\.env\b|\.streams|\.noise|\.running|_buffer|_replay|generator|broken|\.hidden"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks found, and their checkpoints in `folder`."""
    folder = tmp_path_factory.mktemp("ranks")
    in_ranks(everything, folder)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    return [one | {"folder": folder} for one in found]


# --- the gradient is that of all data ------------------------------------------------------------


def joined(parts: list[dict[str, Any]], axis: int) -> dict[str, Tensor]:
    names = [name for name, value in parts[0].items() if value is not None]
    return {name: torch.cat([part[name] for part in parts], dim=axis) for name in names}


def check_close(got: list[list[Tensor]], wanted: list[Tensor]) -> None:
    for one in got:
        assert len(one) == len(wanted) > 0
        for mine, theirs in zip(one, wanted, strict=True):
            assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm())
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, got[0], strict=True))
    assert sum(float(gradient.norm()) for gradient in wanted) > 0


@pytest.mark.parametrize("kind", POLICIES)
def test_policy_and_critic_follow_the_gradient_of_one_process_with_all_envs(ranks, kind):
    found = [one[f"{kind} gradient"] for one in ranks]
    assert not torch.equal(found[0]["window"]["obs"], found[1]["window"]["obs"])
    state, agent = found[0]["state"], policy_trainer(kind, 14)
    agent.env.reset(seed=0)
    for name, part in (("actor", agent.actor), ("critic", agent.critic)):
        part.load_state_dict(state["parts"][name])
    agent.env.surrogates.load_state_dict(state["learned"]["models"])
    agent.env.surrogates.trust.load_state_dict(state["learned"]["training"]["trust"])
    window = Window(**joined([one["window"] for one in found], 1))
    noise, target = (torch.cat([one[name] for one in found], 1) for name in ("noise", "target"))
    if not agent.policy_update.gradient.replays:
        window = agent.env.differentiate(window, NoisyPolicy(agent.actor, noise))
    check_close([o["gradients"] for o in found], policy_step(agent, window, noise, target))


@pytest.mark.parametrize("dynamics", ["step", "awm"])
def test_models_follow_the_gradient_of_one_process_with_both_minibatches(ranks, dynamics):
    found = [one[f"{dynamics} gradient"] for one in ranks]
    models = learned_spring(dynamics).surrogates
    models.load_state_dict(found[0]["state"])
    for name, count in found[0]["counts"].items():
        assert count > 0
        setattr(models, name, count)
    batches = {name: joined([o["batches"][name] for o in found], 0) for name in found[0]["batches"]}
    check_close([one["gradients"] for one in found], model_step(models, batches))


def test_clipped_steps_follow_the_gradient_of_one_process_with_both_minibatches(ranks):
    found = [one["ppo gradient"] for one in ranks]
    alive = [one["window"]["alive_mask"].sum() for one in found]
    assert alive[0] != alive[1]  # so that ranks count differently
    agent = ippo(14)
    agent.actor.load_state_dict(found[0]["state"])
    window = Window(**joined([one["window"] for one in found], 1))
    advantage = torch.cat([one["advantage"] for one in found], 1)
    check_close([one["gradients"] for one in found], clipped_step(agent, window, advantage))


# --- all ranks stay the same ---------------------------------------------------------------------


def common(state: dict[str, Any]) -> dict[str, Any]:
    """Return what must be equal on all ranks."""
    return {name: value for name, value in leaves(state) if not OF_EACH_RANK.search(name)}


@pytest.mark.parametrize("name", TRAINED)
def test_weights_statistics_and_metrics_are_equal_on_all_ranks(ranks, name):
    first, second = (one[name] for one in ranks)
    (other,) = first["state"]["other_ranks"]
    assert len(common(first["state"])) > 20
    assert not what_differs(common(first["state"]), common(other))
    assert what_differs(first["state"]["env"], other["env"])  # each has its own envs
    assert what_differs(first["state"]["streams"], other["streams"])
    assert len(first["metrics"]) == UPDATES[name]
    assert json.dumps(first["metrics"]) == json.dumps(second["metrics"])
    assert first["env_steps"] == first["metrics"][-1]["env_steps"]
    assert first["env_steps"] == UPDATES[name] * RANKS * 7 * first["state"]["config"]["horizon"]


def test_copies_that_break_on_one_rank_are_left_out_and_a_whole_rank_costs_the_update(ranks):
    some = ranks[0]["broken copies"]["metrics"]
    assert some[-1]["broken_copies"] == 6
    assert some[-1]["skipped_updates"] == 0
    every = ranks[0]["a broken rank"]["metrics"]
    assert every[-1]["broken_copies"] == 7 + 2
    assert [row["skipped_updates"] for row in every] == [0, 1, 1, 1]


def test_means_over_episodes_count_each_once(ranks):
    """Each copy ends 4 episodes of 2 steps on the first rank, and 2 of 4 on the second."""
    for metrics in (one["uneven episodes"] for one in ranks):
        assert metrics["episode_length"] == pytest.approx((4 * 2 + 2 * 4) / 6)


def test_a_callback_of_one_rank_stops_all(ranks):
    assert [one["stopped"] for one in ranks] == [2, 2]


def test_what_ranks_cannot_do_together_is_refused_on_all(ranks):
    for one in ranks:
        seeds, order, copies = one["refused"]
        assert "seed of rank 1 is 1, of rank 0 0" in seeds
        assert "BPPO with agents that act one after another trains in one process only" in order
        assert "the env of rank 1 is Reach of 4 copies, of rank 0 Reach of 3 copies" in copies


def test_processes_of_torchrun_without_a_process_group_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"started 2 processes.* call .*init_process_group"):
        PPO(Reach())


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_RANK": "99"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"process 99 .* is to train on cuda.*--nproc-per-node"):
        with process_group("cuda"):
            pass


def test_other_processes_that_cannot_be_reached_are_told_of(monkeypatch):
    monkeypatch.setattr(distributed, "_PATIENCE", timedelta(seconds=1))
    nobody = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "1"}
    for name, value in (nobody | {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"another process .* cannot be reached \(The client"):
        with process_group("cpu"):
            pass


@pytest.mark.parametrize("command", ["envs vmas", "evaluate run", "reproduce table1"])
def test_torchrun_starts_no_other_command_than_train(command, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(command.split()) == 2
    assert f"do all of {command.split()[0]}; only train" in capsys.readouterr().err


def test_what_all_processes_refuse_is_said_once(tmp_path):
    with pytest.raises(ChildFailedError, match=r"exitcode *: 2"):
        under_torchrun(["train", "ppo", "vmas/nothing"], tmp_path)
    said = sorted(file.read_text() for file in tmp_path.rglob("stderr.log"))
    assert len(said) == RANKS
    assert said[0] == ""
    assert said[1].startswith("error: VMAS has no scenario 'nothing'")


def test_what_one_process_refuses_alone_it_says_after_a_while(monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("diffsurrogate.__main__._PATIENCE", 0.3)
    began = time.monotonic()
    assert main(["train", "ppo", "paper/dispersion", "--num-envs", "0"]) == 2
    assert time.monotonic() - began >= 0.3
    assert "num_envs is 0" in capsys.readouterr().err


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(ranks, name):
    one = ranks[0][name]
    assert not what_differs(one["state"], one["again"])


def test_one_process_loads_what_several_have_trained_to_predict_but_not_to_go_on(ranks):
    agent = PPO.load(ranks[0]["folder"] / "ppo.pt", Reach())
    obs, _ = agent.env.reset(seed=0)
    assert agent.predict(obs).isfinite().all()
    with pytest.raises(UsageError, match=r"is one of 2 processes together, but there are 1 now"):
        agent.learn(10_000)


# --- runs, from the command line -----------------------------------------------------------------

TRAIN = [
    *"train shac++ diffsurrogate/cartpole-swingup --num-envs 6 --shac.horizon 4".split(),
    *"--eval-envs 3 --eval-steps 5 --eval-every 2 --checkpoint-every 1".split(),
    *"--film-steps 0 --no-progress --surrogates.fit.minibatches 2".split(),
    *"--shac.update.ppo.epochs 2 --shac.value.minibatches 2".split(),
]


def steps(updates: int) -> list[str]:
    return ["--total-steps", str(updates * 6 * 4)]


def test_a_run_of_which_a_process_is_killed_ends_and_goes_on_to_the_same(tmp_path, capsys):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(under_torchrun, [*TRAIN, *steps(1000), "--out", str(folder)], tmp_path)
        wait_for_updates(folder, 2)
        os.kill(int((tmp_path / "1.pid").read_text()), signal.SIGKILL)
        with pytest.raises(ChildFailedError):
            run.result()
    state = load_checkpoint(folder / "checkpoints" / "last.pt")["agent"]
    assert [len(one["env"]["current_obs"]) for one in (state, *state["other_ranks"])] == [3, 3]
    updates = state["iteration"] + 2
    resume = ["train", "--resume", "--out", str(folder), *steps(updates)]
    assert main(resume) == 2
    assert "is one of 2 processes together, but there are 1 now" in capsys.readouterr().err
    in_ranks(partial(command_line, resume), tmp_path)
    in_ranks(partial(command_line, [*TRAIN, *steps(updates), "--out", str(whole)]), tmp_path)
    states = [load_checkpoint(o / "checkpoints" / "last.pt")["agent"] for o in (whole, folder)]
    assert not what_differs(*states)
    for one in (whole, folder):
        assert len((one / "metrics.csv").read_text().splitlines()) == 1 + 1 + updates
        assert len(list(one.glob("events*"))) == (1 if one == whole else 2)
        summary = json.loads((one / "summary.json").read_text())
        assert (summary["processes"], summary["num_envs"]) == (2, 6)
        assert summary["env_steps"] == updates * 6 * 4

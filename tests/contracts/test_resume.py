"""Interrupted or not, training comes to the same: trainers saved and loaded, runs killed."""

import csv
import itertools
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys.masked import MaskedReach
from toys.reach import AGENTS, ENVS, NET, Reach, config, learned
from toys.trainers import (
    TRAINERS,
    WINDOW,
    Case,
    clipped,
    off_policy,
    sequential,
    stable_baselines,
    what_differs,
)

from diffsurrogate.__main__ import main
from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.bppo import BPPO
from diffsurrogate.algorithms.max_entropy import EntropyConfig
from diffsurrogate.algorithms.ppo import IPPO, PPO
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import DiCoConfig
from diffsurrogate.training.checkpoint import load_checkpoint, save_checkpoint
from diffsurrogate.training.run_folder import RunFolder
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.sb3.config import SB3SACConfig

# --- trainers, from Python -----------------------------------------------------------------------


def values(**changes: Any) -> ValueLearningConfig:
    return replace(config().value, **changes)


SHAC_VARIANTS = {
    "white noise, no replay": {"value": values(capacity=0), "noise": NoiseConfig()},
    "expectile, one sign": {"value": values(expectile=0.8, expectile_one_signed=0.6)},
    "squash, learn_std": {"actor": ActorConfig(net=NET, std=0.3, squash=True, learn_std=True)},
    "entropy": {
        "actor": ActorConfig(net=NET, state_dependent_std=True),
        "critic": CriticConfig(net=NET, ensemble=2),
        "entropy": EntropyConfig(temperature=1.0),
    },
}
VARIANTS = (
    TRAINERS
    | {name: replace(TRAINERS["shac"], config=config(**c)) for name, c in SHAC_VARIANTS.items()}
    | {
        "ippo, DiCo": Case(
            kind=IPPO, config=clipped(IPPO, actor=ActorConfig(net=DiCoConfig(hidden=(8,))))
        ),
        "bppo, random order": Case(kind=BPPO, config=sequential(BPPO, {"order": "random"})),
        "bppo, simultaneous": Case(kind=BPPO, config=sequential(scheme="simultaneous")),
        "sb3, joint": replace(TRAINERS["sb3"], config=stable_baselines(joint=True)),
        "sb3, raw": replace(TRAINERS["sb3"], config=stable_baselines(normalise=False)),
        "sb3-sac, shared": replace(
            TRAINERS["sb3-sac"], config=off_policy(SB3SACConfig, joint=False, capacity=500)
        ),
        "sb3-sac, given entropy weight": replace(
            TRAINERS["sb3-sac"], config=off_policy(SB3SACConfig, entropy_weight=0.1)
        ),
    }
)


def saved(agent: Trainer, path: Path) -> Path:
    agent.save(path / "agent.pt")
    return path / "agent.pt"


def check_unbroken(case: Case, path: Path, make_env: Callable[[], MultiAgentVectorEnv]) -> None:
    """Four windows equal three, saved and loaded, and one: in all that is saved, to the bit."""
    size = ENVS * case.config.horizon
    unbroken, broken = (case.make(make_env(), seed=3, lr_schedule="linear") for _ in range(2))
    unbroken.learn(4 * size)
    broken.learn(4 * size, lambda agent, metrics: agent.iteration < 3)
    env = make_env()
    env.reset(seed=11)
    loaded = case.kind.load(saved(broken, path), env)
    assert (loaded.iteration, loaded.seed, loaded.config) == (3, 3, broken.config)
    assert not what_differs(loaded, broken)
    loaded.learn(4 * size)
    assert not what_differs(loaded, unbroken)
    assert what_differs(loaded, broken)


@pytest.mark.parametrize("case", VARIANTS.values(), ids=list(VARIANTS))
def test_a_loaded_trainer_ends_where_the_unbroken_one_does(tmp_path, case):
    check_unbroken(case, tmp_path, case.env)


ELSEWHERE = {
    "dispersion": lambda: make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, max_steps=5),
    "discrete": lambda: make("games/climbing", num_envs=ENVS, steps=3),
    "masked": MaskedReach,
}


@pytest.mark.parametrize("make_env", ELSEWHERE.values(), ids=list(ELSEWHERE))
@pytest.mark.parametrize("name", ["hybrid", "recurrent mappo", "bppo", "sb3"])
def test_a_loaded_trainer_goes_on_in_envs_of_other_libraries(tmp_path, name, make_env):
    case = TRAINERS[name]
    check_unbroken(case, tmp_path, lambda: case.wrap(make_env()))


@pytest.mark.parametrize("case", TRAINERS.values(), ids=list(TRAINERS))
def test_saving_before_the_first_update_saves_the_start(tmp_path, case):
    agent = case.make(seed=3)
    loaded = case.kind.load(saved(agent, tmp_path), case.env())
    assert not what_differs(loaded.learn(WINDOW), agent.learn(WINDOW))


class Stateless(Reach):
    """Cannot save its state, and takes only seeds that NumPy's generators take."""

    def _save(self) -> State:
        raise NotImplementedError

    def _reset_all(self, seed: int | None) -> Tensor:
        np.random.RandomState(seed)
        return super()._reset_all(seed)


@pytest.mark.parametrize(
    ("name", "spread"), [*((name, True) for name in TRAINERS), ("shac", False), ("sb3", False)]
)
def test_an_env_that_saves_no_state_starts_new_episodes(tmp_path, name, spread):
    case = TRAINERS[name]
    agent = case.make(case.env(Stateless), randomise_episode_phase=spread).learn(2 * WINDOW)
    loaded = case.kind.load(saved(agent, tmp_path), case.env(Stateless))
    assert loaded.env.episode_start.all()
    new = {".streams.minibatches", ".sb3.last_obs", ".sb3.episode_starts"}
    assert set(what_differs(loaded, agent)) <= new
    assert loaded.learn(3 * WINDOW).iteration == 3


OTHERS: dict[str, Callable[[Case], tuple[MultiAgentVectorEnv, dict[str, Any]]]] = {
    "agents": lambda case: (case.env(agents=2), {}),
    "discrete actions": lambda case: (case.wrap(ELSEWHERE["discrete"]()), {}),
    "discount": lambda case: (case.env(), {"gamma": 0.5}),
    "no models were saved": lambda case: (learned(case.env()), {}),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", ["shac", "recurrent ppo", "bppo", "sb3", "sb3-td3"])
def test_a_checkpoint_of_another_env_or_configuration_is_refused(tmp_path, name, other):
    case = TRAINERS[name]
    path = saved(case.make().learn(WINDOW), tmp_path)
    with pytest.raises(UsageError):
        env, changes = OTHERS[other](case)
        case.kind.load(path, env, replace(case.config, **changes))


@pytest.mark.parametrize("name", TRAINERS)
def test_on_another_number_of_copies_a_trainer_only_acts(tmp_path, name):
    case = TRAINERS[name]
    agent, env = case.make().learn(2 * WINDOW), case.env(num_envs=11)
    loaded = case.kind.load(saved(agent, tmp_path), case.env(num_envs=11))
    env.reset(seed=1)
    obs = env.current_obs
    assert torch.equal(loaded.policy(env)(obs), agent.policy(env)(obs))
    for refused in (lambda: loaded.learn(4 * WINDOW), lambda: loaded.save(tmp_path / "new.pt")):
        with pytest.raises(UsageError, match=r"of num_envs=7, .* with 11, .* with num_envs=7$"):
            refused()
    loaded = case.kind.load(tmp_path / "agent.pt", case.env())
    assert loaded.learn(3 * WINDOW).iteration == 3


@pytest.mark.parametrize(
    ("saved_by", "wanted"),
    [
        (config(), config(actor=ActorConfig(net=NET, learn_std=True))),
        (config(), config(value=values(bins=2))),
        (config(), config(value=values(capacity=0))),
        (clipped(PPO), clipped(PPO, {"batch_size": 7})),
        (stable_baselines(), stable_baselines(hidden=(9,))),
        (stable_baselines(), stable_baselines(normalise=False)),
        (off_policy(SB3SACConfig), off_policy(SB3SACConfig, capacity=77)),
    ],
    ids=["learned deviation", "bins", "no replay", "minibatches", "widths", "normalise", "room"],
)
def test_a_checkpoint_of_other_parts_is_refused(tmp_path, saved_by, wanted):
    case = next(case for case in TRAINERS.values() if type(case.config) is type(wanted))
    case = replace(case, config=saved_by)
    with pytest.raises(UsageError):
        case.kind.load(saved(case.make().learn(WINDOW), tmp_path), case.env(), wanted)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "agent.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"agent\.pt"):
        TRAINERS["shac"].kind.load(path, Reach())


def poison(state: Any, value: float) -> str:
    """Put a number into the first tensor of weights in a state; return the tensor's name."""
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and name.endswith("weight"):
            tensor.view(-1)[0] = value
            return str(name)
    raise AssertionError(list(state))


@pytest.mark.parametrize("name", ["shac++", "recurrent mappo", "bppo", "sb3", "sb3-sac", "sb3-td3"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, name):
    case = TRAINERS[name]
    path = saved(case.make().learn(WINDOW), tmp_path)
    doors: dict[str, Callable[[Any], Any]] = {
        **dict.fromkeys(SB3, lambda state: {"policy": state["sb3"]["policy"]}),
        "shac++": lambda state: {**state["parts"], "models": state["learned"]["models"]},
    }
    modules = doors.get(name, lambda state: state["parts"])
    parts = [part for part in modules(load_checkpoint(path)) if part in MODULES]
    assert parts
    for part, value in itertools.product(parts, (float("nan"), float("inf"))):
        state = load_checkpoint(path)
        weight = poison(modules(state)[part], value)
        save_checkpoint(tmp_path / "bad.pt", state)
        with pytest.raises(UsageError, match=rf"{part}\.{weight} is not finite: 1 of .* {value}"):
            case.kind.load(tmp_path / "bad.pt", case.env())


MODULES = ("actor", "ema_actor", "critic", "policy", "models")
SB3 = ("sb3", "sb3-sac", "sb3-td3")


@pytest.mark.parametrize("name", ["shac++", *SB3])
def test_statistics_of_an_optimiser_that_are_not_finite_are_refused(tmp_path, name):
    case = TRAINERS[name]
    path = saved(case.make().learn(2 * WINDOW), tmp_path)
    state = load_checkpoint(path)
    if name in SB3:
        adam = state["sb3"]["optimiser"]
        adam = adam if name == "sb3" else adam["critic"]
    else:
        adam = state["parts"]["critic_optimiser"]["adam"]
    adam["state"][0]["exp_avg"].view(-1)[0] = float("nan")
    save_checkpoint(path, state)
    with pytest.raises(UsageError, match=r"optimiser\..*state\.0\.exp_avg is not finite"):
        case.kind.load(path, case.env())


def test_an_entropy_weight_that_is_not_finite_is_refused(tmp_path):
    case = TRAINERS["sb3-sac"]
    path = saved(case.make().learn(WINDOW), tmp_path)
    state = load_checkpoint(path)
    state["sb3"]["log_entropy_weight"].fill_(torch.inf)
    save_checkpoint(path, state)
    with pytest.raises(UsageError, match=r"sb3\.log_entropy_weight is not finite"):
        case.kind.load(path, case.env())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", [name for name, case in TRAINERS.items() if not case.recurrent])
def test_updates_saving_and_loading_work_on_cuda(tmp_path, name):
    case = TRAINERS[name]
    agent = case.make(case.env(device="cuda")).learn(2 * WINDOW)
    loaded = case.kind.load(saved(agent, tmp_path), case.env(device="cuda"))
    obs = loaded.env.current_obs
    assert obs.device.type == "cuda"
    assert torch.equal(obs, agent.env.current_obs)
    assert torch.equal(loaded.predict(obs), agent.predict(obs))
    assert loaded.learn(3 * WINDOW).predict(obs, deterministic=False).device.type == "cuda"


# --- runs, from the command line -----------------------------------------------------------------

RUN = [
    *("--num-envs", "5", "--eval-envs", "3", "--eval-steps", "5", "--eval-every", "2"),
    *("--checkpoint-every", "1", "--film-steps", "0", "--no-progress"),
]
SHAC_SIZES = [
    *("--shac.horizon", "3", "--shac.value.minibatches", "2", "--shac.value.batch-size", "16"),
]
MODEL_SIZES = ["--surrogates.fit.minibatches", "2", "--surrogates.fit.batch-size", "16"]
PPO_SIZES = ["--ppo.horizon", "3", "--ppo.clip.batch-size", "7", "--ppo.clip.epochs", "2"]
BPPO_SIZES = ["--bppo.horizon", "3", "--bppo.clip.batch-size", "7", "--bppo.clip.epochs", "2"]
SB3_SIZES = ["--sb3.horizon", "3", "--sb3.batch-size", "7", "--sb3.epochs", "2"]
OFF_POLICY_SIZES = [  # learns from the second update on, and forgets from the fourth on
    *("--sb3.horizon", "3", "--sb3.batch-size", "7", "--sb3.learning-starts", "20"),
    *("--sb3.env-steps-per-gradient-step", "2", "--sb3.capacity", "52"),
]
DISPERSION = ["paper/dispersion", "--agents", "2"]
RUNS = {
    "shac": ["shac", "diffsurrogate/cartpole-swingup", *SHAC_SIZES],
    "shac+": ["shac+", *DISPERSION, *SHAC_SIZES, *MODEL_SIZES],
    "shac++": ["shac++", *DISPERSION, *SHAC_SIZES, *MODEL_SIZES],
    "ppo": ["ppo", *DISPERSION, *PPO_SIZES],
    "mappo, recurrent": ["mappo", *DISPERSION, *PPO_SIZES, "--ppo.actor.net.gru_size", "8"],
    "bppo": ["bppo", "games/climbing", *BPPO_SIZES],
    "sb3": ["sb3-ppo", *DISPERSION, *SB3_SIZES],
    "sb3-sac": ["sb3-sac", *DISPERSION, *OFF_POLICY_SIZES],
    "sb3-td3, shared": ["sb3-td3", *DISPERSION, "--network", "shared", *OFF_POLICY_SIZES],
}
UPDATES = 4


def command(name: str, *more: str) -> list[str]:
    steps = ["--total-steps", str(UPDATES * 5 * 3), "--stop-at", "None"]
    return ["train", *RUNS[name], *RUN, *steps, *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of an unbroken run, which is trained once."""
    folder, done = tmp_path_factory.mktemp("whole"), set()

    def run(name: str) -> Path:
        if name not in done:
            assert main(command(name, "--out", str(folder / name))) == 0
            done.add(name)
        return folder / name

    return run


def check_same_run(one: Path, other: Path) -> None:
    """Compare the last and the best checkpoint, what was evaluated and the rows of metrics."""
    for name in ("last", "best"):
        agents = [load_checkpoint(o / "checkpoints" / f"{name}.pt")["agent"] for o in (one, other)]
        assert not what_differs(*agents)
    summaries = [json.loads((out / "summary.json").read_text()) for out in (one, other)]
    for key in ("mean_return", "env_steps", "updates", "diversity"):
        assert summaries[0][key] == summaries[1][key]
    for key in ("update", "mean_return"):
        assert summaries[0]["best_policy"][key] == summaries[1]["best_policy"][key]
    for out in (one, other):
        with (out / "metrics.csv").open() as stream:
            rows = [int(float(row["update"])) for row in csv.DictReader(stream)]
        assert rows == list(range(UPDATES + 1))


@pytest.mark.parametrize("name", RUNS)
def test_evaluating_a_finished_run_gives_what_its_policy_came_to(name, whole):
    """The same weights and statistics, on the same episodes."""
    out = whole(name)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["updates"]) == (RUNS[name][0], UPDATES)
    assert main(["evaluate", str(out), "--num-envs", "3", "--steps", "5"]) == 0
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["mean_return"] == summary["mean_return"]


class Killed(BaseException):
    """As by SIGKILL: nothing of ours may catch it."""


def kill_at(call: int) -> Callable[..., None]:
    """Return a function that raises at its given call, and does nothing before."""
    calls = iter(range(1, call + 1))

    def maybe(*args: Any) -> None:
        if next(calls) == call:
            raise Killed

    return maybe


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_to_the_same_end(name, whole, tmp_path, monkeypatch):
    """Killed when update 3 is logged and not saved yet: rows 0, 1, 2 and 3 make four calls."""
    out, log, kill = tmp_path / "run", RunFolder.log, kill_at(4)

    def log_and_die(folder: RunFolder, update: int, metrics: dict[str, float]) -> None:
        log(folder, update, metrics)
        kill()

    monkeypatch.setattr(RunFolder, "log", log_and_die)
    with pytest.raises(Killed):
        main(command(name, "--out", str(out)))
    monkeypatch.undo()
    assert not (out / "summary.json").exists()
    assert main(["train", "--resume", "--out", str(out), "--no-progress"]) == 0
    check_same_run(whole(name), out)


@pytest.mark.parametrize("name", ["shac++", "sb3", "sb3-sac"])
def test_ctrl_c_in_the_middle_of_an_update_stops_after_it(
    name, whole, tmp_path, monkeypatch, capsys
):
    out, improve = tmp_path / "run", Trainer.iterations
    whole(name)
    before = signal.getsignal(signal.SIGINT)  # not Python's own where a shell started us with &

    def iterations(agent: Trainer, total_iterations: int) -> Any:
        for metrics in improve(agent, total_iterations):
            if agent.iteration == 3:
                signal.raise_signal(signal.SIGINT)
            yield metrics

    monkeypatch.setattr(Trainer, "iterations", iterations)
    rarely = ["--checkpoint-every", "100", "--out", str(out)]
    assert main(command(name, *rarely)) == 130
    assert not (out / "summary.json").exists()
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(out / "checkpoints" / "last.pt")["agent"]["iteration"] == 3
    advice = capsys.readouterr().out.split("continue with: diffsurrogate ")[1].split()
    monkeypatch.undo()
    assert main(advice) == 0
    check_same_run(whole(name), out)


@pytest.mark.parametrize("name", ["shac", "sb3", "sb3-td3, shared"])
def test_a_run_killed_while_it_keeps_its_best_policy_keeps_it_once_resumed(
    name, whole, tmp_path, monkeypatch
):
    """Between the writing of last.pt and that of best.pt, which thereby hold different updates."""
    out = tmp_path / "run"
    folder = whole(name)
    best = json.loads((folder / "summary.json").read_text())["best_policy"]["update"]
    save_best = RunFolder.save_best

    def kill(folder: RunFolder, state: dict[str, Any]) -> None:
        if state["agent"]["iteration"] == best:
            raise Killed
        save_best(folder, state)

    monkeypatch.setattr(RunFolder, "save_best", kill)
    with pytest.raises(Killed):
        main(command(name, "--checkpoint-every", "100", "--out", str(out)))
    monkeypatch.undo()
    assert main(["train", "--resume", "--out", str(out), "--no-progress"]) == 0
    check_same_run(folder, out)


@pytest.mark.parametrize(
    ("method", "env", "sizes"),
    [
        ("ppo", "CartPole-v1", PPO_SIZES),
        ("sb3-ppo", "CartPole-v1", SB3_SIZES),
        ("sb3-sac", "Pendulum-v1", OFF_POLICY_SIZES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_on_an_env_that_saves_no_state_resumes_with_new_episodes(
    method, env, sizes, tmp_path
):
    start = ["train", method, f"gymnasium/{env}", *sizes, *RUN, "--out", str(tmp_path / "run")]
    assert main([*start, "--total-steps", "30"]) == 0
    assert main([*start, "--total-steps", "75", "--resume"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 5

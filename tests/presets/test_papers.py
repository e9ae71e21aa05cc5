"""`--preset paper`: the hyperparameters of the SHAC++ paper."""

import json
from pathlib import Path

from diffsurrogate.__main__ import main
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.cli.options import TrainOptions, what_differs
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import SurrogateConfig


def paper(method: str, network: str = "mlp", agents: int = 3) -> TrainOptions:
    return TrainOptions.recommended(method, "paper/transport", agents, network, "paper")


def test_the_papers_hyperparameters():
    options = paper("shac++")
    shac = options.shac
    assert (options.num_envs, shac.horizon, options.max_steps) == (512, 32, 320)
    assert options.total_steps == 20_000 * 512 * 32
    update, value = shac.update, shac.value
    assert isinstance(update, GradientUpdateConfig)
    assert (update.lr, update.max_grad_norm, shac.betas) == (1e-3, 1, (0.9, 0.999))
    assert update.gradient == PathwiseConfig(
        lam=None, action_penalty_weight=1.0, action_penalty_on="samples"
    )
    assert (shac.gamma, value.lam) == (0.99, 0.95)
    assert (shac.noise.kind, shac.actor.std, shac.actor.normalise_obs) == ("white", 1, False)
    assert (value.capacity, value.bins, value.balance) == (3333, 9, 0)
    assert shac.actor.net.hidden == (96, 96)
    assert (shac.critic.target_decay, shac.critic.normalise_obs) == (0, False)
    models = options.surrogates
    assert models == SurrogateConfig.paper(3)
    assert isinstance(models.dynamics, ActionWorldModelConfig)
    assert (models.anchor, models.loop, models.fit.every) == ("predicted", "open", 10)
    assert (models.dynamics.batch_size, models.dynamics.trajectories) == (1000, 1200)
    assert (models.reward.inputs, models.reward.net.hidden) == ("s,a,s'", (96, 96))
    attention = paper("shac++", "transformer")
    nets = (attention.shac.actor.net, attention.shac.critic.net, attention.surrogates.reward.net)
    assert {(net.architecture, net.hidden, net.heads) for net in nets} == {
        ("transformer", (64,), 1)
    }
    plus = paper("shac+").surrogates
    assert (plus.loop, plus.anchor) == ("closed", "real")
    ppo = paper("ppo", agents=5)
    assert (ppo.ppo.actor.net.hidden, ppo.ppo.actor.learn_std) == ((160, 160), False)
    assert ppo.ppo.clip.epochs == 4


def test_the_preset_is_in_the_name_and_in_what_differs():
    options = paper("shac++", agents=1)
    assert options.folder == Path("runs/shac++-paper-transport-1-mlp-paper-0")
    assert what_differs(options.to_json()) == ("preset=paper",)
    usual = TrainOptions.recommended("ppo", "paper/transport", 1)
    assert what_differs(usual.to_json()) == ()


def test_the_papers_preset_trains_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "shac++", "paper/transport", "--preset", "paper", "--no-progress"]
    small = [
        *("--num-envs", "5", "--eval-envs", "3", "--eval-steps", "5", "--film-steps", "0"),
        *("--surrogates.fit.minibatches", "2", "--surrogates.dynamics.batch-size", "4"),
        *("--surrogates.fit.batch-size", "4", "--shac.value.minibatches", "2"),
    ]
    assert main([*command, *small, "--total-steps", str(5 * 32 * 11)]) == 0
    run = tmp_path / "runs" / "shac++-paper-transport-1-mlp-paper-0"
    assert json.loads((run / "config.json").read_text())["preset"] == "paper"
    assert main([*command, "--resume", "--total-steps", str(5 * 32 * 12)]) == 0
    assert json.loads((run / "summary.json").read_text())["updates"] == 12

"""Three reward models on rewards as they come: rare penalties, outliers, heavy tails, any unit.

    python examples/benchmarks/rare_rewards.py                     # all, about 40 CPU-minutes
    python examples/benchmarks/rare_rewards.py --rewards "no penalty" --no-train

mixture is the default (`RewardModel`): ordinary rewards by regression, rare ones as events.
regression takes all rewards as one. two-hot predicts a distribution over bins of the symmetric
logarithm (DreamerV3, arXiv:2301.04104, eq. 9 to 11). The error is of ordinary rewards of held-out
steps, over their variance; the models saw 92,160 steps of a random walk of the actions. The return
is of SHAC++ with the default settings; "no gradient" is PPO's part of them alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from diffsurrogate import SHAC, LearnedDiffWrapper, SHACConfig, TorchEnv, evaluate
from diffsurrogate.algorithms.policy_updates import HybridUpdateConfig
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.normaliser import OrdinaryRange
from diffsurrogate.optimisation import ClippedAdam
from diffsurrogate.surrogates.dynamics import Batch
from diffsurrogate.surrogates.heads import RewardModel
from diffsurrogate.training.run_folder import write_rows, write_text

RESULTS = Path(__file__).parent.parent / "results"
ENVS, HORIZON, WINDOWS = 64, 32, 45
EPISODES = 8192
"""Of an evaluation: with 128 the few that meet a penalty decide."""
SEEDS = (0, 1, 2)
Form = Literal["mixture", "regression", "two-hot", "no gradient"]
State = dict[str, Tensor]


class Point(TorchEnv):
    """A point mass in a box of width 2, which is drawn to (.5, 0) by a dense reward."""

    def __init__(self, num_envs: int, reward: str, **kwargs: Any) -> None:
        """Make `num_envs` of them, of 100 steps."""
        super().__init__(
            num_envs=num_envs, agents=["point"], obs_dim=4, act_dim=2, max_steps=100, **kwargs
        )
        self.pays, self.steps_so_far = REWARDS[reward], 0

    def spawn(self, count: int, generator: torch.Generator) -> State:
        """Begin anywhere, at rest."""
        pos = torch.rand(count, 1, 2, generator=generator) * 2 - 1
        return {"pos": pos, "vel": torch.zeros(count, 1, 2)}

    def observe(self, state: State) -> Tensor:
        """Return place and velocity."""
        return torch.cat([state["pos"], state["vel"]], dim=-1)

    def advance(self, state: State, action: Tensor) -> State:
        """Push; walls stop."""
        vel = 0.9 * state["vel"] + 0.03 * action
        pos = (state["pos"] + vel).clamp(-1, 1)
        return {"pos": pos, "vel": vel}

    def reward(self, state: State, action: Tensor, next_state: State) -> Tensor:
        """Return what the row of the table pays."""
        self.steps_so_far += 1
        return self.pays(next_state["pos"], action, self.steps_so_far)


def dense(pos: Tensor, action: Tensor) -> Tensor:
    """Return minus the squared distance from (.5, 0), less a cost of acting."""
    gap = pos - torch.tensor([0.5, 0.0])
    return -gap.square().sum(-1) - 0.05 * action.square().sum(-1)


def within(pos: Tensor, share: float) -> Tensor:
    """Return whether a place is in a disc around (-.4, .4) that covers `share` of the box."""
    radius = (4 * share / torch.pi) ** 0.5
    return (pos - torch.tensor([-0.4, 0.4])).norm(dim=-1) < radius


def outlier(pos: Tensor, action: Tensor, step: int) -> Tensor:
    """Return the dense reward, but -10,000 once."""
    reward = dense(pos, action)
    return reward.index_fill(0, torch.tensor([0]), -1e4) if step == 700 else reward


REWARDS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "no penalty": lambda pos, action, step: dense(pos, action),
    "-100 in .4 %": lambda pos, action, step: dense(pos, action) - 100.0 * within(pos, 0.004),
    "-100 in 5 %": lambda pos, action, step: dense(pos, action) - 100.0 * within(pos, 0.05),
    "one of -10,000": outlier,
    "times 1e-4": lambda pos, action, step: 1e-4 * dense(pos, action),
    "times 1e4": lambda pos, action, step: 1e4 * dense(pos, action),
    "sparse 0 or 1": lambda pos, action, step: within(pos, 0.05).float(),
    "heavy tails": lambda pos, action, step: -1 / (0.02 + (-dense(pos, action)).sqrt()),
}


class Everything(OrdinaryRange):
    """Calls every value ordinary."""

    def update(self, values: Tensor) -> None:
        """Learn nothing."""


class TwoHot(RewardModel):
    """A distribution over bins that are even in the symmetric logarithm."""

    bins: Tensor

    def __init__(self, *args: Any) -> None:
        """Build one output per bin."""
        super().__init__(*args)
        config, agents, obs_dim, act_dim = args
        self.register_buffer("bins", torch.linspace(-12, 12, 255))
        self.net = build_net(
            config.net, agents, 2 * obs_dim + act_dim, len(self.bins), head_gain=0.0
        )

    def parts(
        self, obs: Tensor, action: Tensor, next_obs: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the mean of the distribution; there are no events."""
        chances = self.net(self._inputs(obs, action, next_obs)).softmax(-1)
        out = (chances * self.bins.sign() * self.bins.abs().expm1()).sum(-1)
        return out, None, out

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy with the two bins around each reward."""
        inputs = self._inputs(batch["obs"], batch["action"], batch["next_obs"])
        reward = batch["reward"]
        place = (reward.sign() * reward.abs().log1p() + 12) * (len(self.bins) - 1) / 24
        low = place.floor().clamp(0, len(self.bins) - 2).long()
        share = (place - low).clamp(0, 1).unsqueeze(-1)
        target = torch.zeros(*reward.shape, len(self.bins))
        target.scatter_(-1, low.unsqueeze(-1), 1 - share)
        target.scatter_(-1, low.unsqueeze(-1) + 1, share)
        return functional.cross_entropy(self.net(inputs).flatten(0, -2), target.flatten(0, -2))


def wrapped(reward: str, form: Form, seed: int) -> LearnedDiffWrapper:
    """Return the wrapped env with that reward model."""
    env = LearnedDiffWrapper(Point(ENVS, reward, seed=seed), seed=seed)
    models = env.surrogates
    if form == "mixture":
        return env
    if form == "two-hot":
        torch.manual_seed(seed)
        sizes, fit = (env.num_agents, env.obs_dim, env.act_dim), env.config.fit
        models.reward = TwoHot(env.config.reward, *sizes)
        models.optimisers["reward"] = ClippedAdam(
            models.reward, fit.lr, max_grad_norm=fit.max_grad_norm
        )
        models.reward.requires_grad_(False)
    assert models.reward is not None
    models.reward.ordinary, models.key_range = Everything(1), Everything(1)
    return env


def error(reward: str, form: Form, seed: int) -> float:
    """Return the error on the ordinary rewards of steps that were not trained on."""
    env = wrapped(reward, form, seed)
    generator = torch.Generator().manual_seed(seed)
    action = torch.zeros(ENVS, 1, 2)

    def walk(obs: Tensor) -> Tensor:
        nonlocal action
        action = (0.8 * action + 0.6 * torch.randn(action.shape, generator=generator)).clamp(-1, 1)
        return action

    env.reset(seed=seed)
    for _ in range(WINDOWS):
        env.fit(env.collect(walk, HORIZON))
    windows = [env.collect(walk, HORIZON) for _ in range(4)]
    real = torch.cat([window.reward.flatten() for window in windows])
    judge = OrdinaryRange(1)
    judge.update(real.unsqueeze(-1))
    kept = judge.holds(real.unsqueeze(-1)).squeeze(-1)
    model = env.surrogates.reward
    assert isinstance(model, RewardModel)
    with torch.no_grad():
        parts = [model.parts(window.obs, window.action, window.next_obs)[0] for window in windows]
    predicted = torch.cat([part.flatten() for part in parts])
    return float((predicted - real)[kept].square().mean() / real[kept].var())


def trained(reward: str, form: Form, seed: int, updates: int) -> float:
    """Return the mean return after as many updates of SHAC++."""
    env = wrapped(reward, "mixture" if form == "no gradient" else form, seed)
    config = SHACConfig.suited_to(env)
    if form == "no gradient":
        assert isinstance(config.update, HybridUpdateConfig)
        config = replace(config, update=replace(config.update, weight=0.0))
    agent = SHAC(env, config, seed=seed).learn(updates * ENVS * HORIZON)
    return evaluate(agent.predict, Point(EPISODES, reward, seed=1), seed=1).mean_return


def main(
    rewards: tuple[str, ...] = tuple(REWARDS),
    forms: tuple[Form, ...] = get_args(Form),
    seeds: tuple[int, ...] = SEEDS,
    updates: int = 30,
    train: bool = True,
    out: Path = RESULTS / "rare_rewards",
) -> None:
    """Fit and train, print a row per reward and form, and write OUT.json and OUT.md."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    lines = [
        "| rewards | form | error on ordinary rewards | return | CPU-s |",
        "|---|---|---|---|---|",
    ]
    for reward in rewards:
        for form in forms:
            start = time.process_time()
            judged = form != "no gradient"
            errors = [error(reward, form, seed) for seed in seeds] if judged else []
            returns = [trained(reward, form, seed, updates) for seed in seeds] if train else []
            used = round(time.process_time() - start, 1)
            told = (" / ".join(f"{value:.3g}" for value in values) for values in (errors, returns))
            lines.append(f"| {reward} | {form} | {' | '.join(told)} | {used} |")
            print(lines[-1], flush=True)
            row = {"rewards": reward, "form": form, "errors": errors, "returns": returns}
            rows.append(row | {"cpu_seconds": used})
            write_rows(out.with_suffix(".json"), rows)
    text = "# Reward models on rewards as they come\n\n"
    text += f"Seeds {', '.join(map(str, seeds))}; error over the variance of ordinary rewards; "
    text += f"return after {updates} updates of {ENVS} x {HORIZON} steps. Command: "
    text += f"`python examples/benchmarks/rare_rewards.py{_options(rewards, seeds)}`.\n\n"
    write_text(out.with_suffix(".md"), text + "\n".join(lines) + "\n")


def _options(rewards: Sequence[str], seeds: Sequence[int]) -> str:
    """Return the options of the command that chose these."""
    rows = [f'"{reward}"' for reward in rewards] if tuple(rewards) != tuple(REWARDS) else []
    told = [*(["--rewards", *rows] if rows else [])]
    if tuple(seeds) != SEEDS:
        told += ["--seeds", *map(str, seeds)]
    return "".join(f" {part}" for part in told)


if __name__ == "__main__":
    tyro.cli(main)

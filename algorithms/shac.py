"""Short Horizon Actor-Critic on real, mixed or learned gradients (arXiv:2204.07137).

`SHAC(env)` is SHAC on an env that differentiates itself, SHAC++ on a `LearnedDiffWrapper`, SHAC+
on one with `dynamics=False`: the trainer cannot tell them apart.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from diffsurrogate.algorithms.shac_config import SHACConfig
from diffsurrogate.cache import BinnedCache
from diffsurrogate.checkpoint import load_checkpoint, save_checkpoint
from diffsurrogate.configuration import check_same_config, config_from_dict
from diffsurrogate.critics import Critic
from diffsurrogate.env import MultiAgentVectorEnv, State, Window, clamp_to_box
from diffsurrogate.errors import UsageError
from diffsurrogate.losses import box_penalty, shac_actor_loss
from diffsurrogate.noise import NoiseProcess
from diffsurrogate.policies import Actor, NoisyPolicy
from diffsurrogate.returns import td_lambda
from diffsurrogate.seeding import derive_seed

Metrics = dict[str, float]
Callback = Callable[["SHAC", Metrics], bool | None]
"""Called after every update; returning False stops the training."""


class SHAC:
    """Learns a policy by the gradient of short windows.

    Example:
        >>> from diffsurrogate import SHAC, make
        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4, differentiable=True)
        >>> agent = SHAC(env).learn(total_steps=256)
        >>> action = agent.predict(env.current_obs, deterministic=True)
    """

    def __init__(
        self, env: MultiAgentVectorEnv, config: SHACConfig | None = None, *, seed: int = 0
    ) -> None:
        """Build actor and critic for an env.

        Args:
            env: one with gradients of dynamics and reward, real or learned.
            config: hyperparameters.
            seed: of weights, noise and minibatches, and of the env's first reset.

        Raises:
            UsageError: the env has no gradients.
        """
        if not isinstance(env, MultiAgentVectorEnv):
            raise UsageError(
                f"SHAC cannot train on a {type(env).__name__}; wrap it: "
                "SHAC(LearnedDiffWrapper(env))"
            )
        if env.gradients != {"dynamics", "reward"}:
            has = " and ".join(sorted(env.gradients)) or "none"
            raise UsageError(
                f"SHAC needs gradients of dynamics and reward, but {type(env).__name__} has {has}. "
                "Wrap it: SHAC(LearnedDiffWrapper(env)); or, if its simulator is differentiable, "
                "make it with differentiable=True"
            )
        self.env = env
        self.config = config or SHACConfig()
        if env.max_horizon is not None and self.config.horizon > env.max_horizon:
            raise UsageError(
                f"horizon is {self.config.horizon}, but the world model reaches only "
                f"{env.max_horizon} steps; shorten the horizon, or raise awm.max_horizon"
            )
        self.seed = seed
        device = env.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            low, high = env.action_low, env.action_high
            actor = Actor(self.config.actor, env.num_agents, env.obs_dim, low, high)
            critic = Critic(self.config.critic, env.num_agents, env.obs_dim)
        self.actor = actor.to(device)
        self.critic = critic.to(device)
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, "noise"))
        self.sampler = torch.Generator().manual_seed(derive_seed(seed, "minibatches"))
        # of `predict`, not of training
        self.samples = torch.Generator(device).manual_seed(derive_seed(seed, "samples"))
        shape = (env.num_envs, env.num_agents, env.act_dim)
        self.noise = NoiseProcess(self.config.noise, shape, self.generator)
        self.actor_optimiser = self._adam(self.actor, self.config.actor_lr)
        self.critic_optimiser = self._adam(self.critic, self.config.critic_lr)
        self.values: BinnedCache | None = None
        if self.config.value_capacity > 0:
            self.values = BinnedCache(
                self.config.value_capacity, self.config.value_bins, env.device
            )
        self.update = 0
        self.total_updates = 0
        self.skipped = 0
        self.started = False

    @property
    def env_steps(self) -> int:
        """Steps taken so far, counted over all envs."""
        return self.update * self.steps_per_update

    @property
    def steps_per_update(self) -> int:
        """Steps of one window, counted over all envs."""
        return self.env.num_envs * self.config.horizon

    # --- users ---------------------------------------------------------------------------------

    def learn(
        self, total_steps: int, callback: Callback | None = None, progress_bar: bool = False
    ) -> "SHAC":
        """Train until `total_steps` env steps were taken in all, or the callback says stop.

        Args:
            total_steps: counted over all envs, rounded up to whole windows.
            callback: called with the trainer and the metrics of each update.
            progress_bar: show one.
        """
        from tqdm import tqdm

        updates = -(-total_steps // self.steps_per_update)
        with tqdm(
            total=total_steps,
            initial=min(self.env_steps, total_steps),
            unit="step",
            unit_scale=True,
            disable=not progress_bar,
        ) as bar:
            for metrics in self.updates(updates):
                bar.update(min(self.env_steps, total_steps) - bar.n)
                bar.set_postfix(reward=f"{metrics['reward']:.4g}")
                if callback is not None and callback(self, metrics) is False:
                    break
        return self

    def predict(self, obs: Tensor, deterministic: bool = True) -> Tensor:
        """Return actions in the box.

        Args:
            obs: (*batch, agent, obs_dim) float32.
            deterministic: the mean action, or a sample.
        """
        noise = None
        with torch.no_grad():
            if not deterministic:
                shape = (*obs.shape[:-1], self.env.act_dim)
                noise = torch.randn(shape, generator=self.samples, device=obs.device)
            action = self.actor.act(obs, noise)
        return clamp_to_box(action, self.env.action_low, self.env.action_high)

    def save(self, path: str | Path) -> None:
        """Write everything needed to go on: nets, optimisers, caches, randomness, env."""
        save_checkpoint(Path(path), self.state_dict())

    @classmethod
    def load(
        cls, path: str | Path, env: MultiAgentVectorEnv, config: SHACConfig | None = None
    ) -> "SHAC":
        """Continue from `save` on an env of the same kind.

        Args:
            path: what `save` wrote.
            env: made as it was then, with the same number of copies.
            config: None for the one it was saved with; any other is refused.

        Raises:
            UsageError: the file is no whole checkpoint of ours, or does not fit env and config.
        """
        state = load_checkpoint(Path(path), device=env.device)
        state = state.get("agent", state)  # a run's checkpoint holds more than the trainer
        if "seed" not in state:
            raise UsageError(f"{path} is not of a trainer; give what SHAC.save or a run wrote")
        config = config or config_from_dict(SHACConfig, state.get("config", {}))
        agent = cls(env, config, seed=int(state["seed"]))
        agent.load_state_dict(state)
        return agent

    # --- training ------------------------------------------------------------------------------

    def updates(self, total_updates: int) -> Iterator[Metrics]:
        """Yield the metrics of one update after another; the caller logs, saves and stops."""
        self.total_updates = max(total_updates, 1)
        if not self.started:
            self.env.reset(seed=self.seed)
            if self.config.stagger:
                self.env.stagger(self.sampler)
            self.started = True
        while self.update < total_updates:
            began = time.process_time()
            self._set_learning_rates()
            self.env.detach()
            self.actor.statistics.snapshot()
            self.critic.statistics.snapshot()
            policy = NoisyPolicy(self.actor, self.noise.draw(self.config.horizon))
            window = self.env.rollout(policy, self.config.horizon)
            report = self._fit_actor(window)
            window = window.detach()  # from here on, nothing can reach the policy
            report |= self._fit_critic(window)
            report |= self.env.fit(window)  # last: weights must not move under a live graph
            self.actor.statistics.update(window.obs)
            self.critic.statistics.update(window.obs)
            self.update += 1
            report["env_steps"] = float(self.env_steps)
            report["update_cpu_seconds"] = time.process_time() - began
            yield report

    def return_loss(self, window: Window) -> Tensor:
        """Return the negative value of a window that still has its graph, without penalties."""
        value_obs = window.next_obs if window.value_obs is None else window.value_obs
        return shac_actor_loss(
            window.reward,
            self.critic.target(value_obs),
            window.terminated,
            window.truncated,
            gamma=self.config.gamma,
            continuation=window.continuation,
        )

    def actor_loss(self, window: Window) -> Tensor:
        """Return what the actor descends: `return_loss` and the penalty on leaving the box."""
        loss = self.return_loss(window)
        if self.config.box_weight > 0:
            one = torch.ones_like(self.actor.box_half)
            outside = self.actor.in_half_boxes(window.action)
            loss = loss + self.config.box_weight * box_penalty(outside, -one, one)
        return loss

    def _fit_actor(self, window: Window) -> Metrics:
        loss = self.actor_loss(window)
        self.actor_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.actor.parameters(), self.config.clip))
        if math.isfinite(norm):
            self.actor_optimiser.step()
        else:
            self.skipped += 1
        return {
            "actor_loss": float(loss.detach()),
            "actor_gradient_norm": norm,
            "skipped_updates": float(self.skipped),
            "reward": float(window.reward.detach().mean()),
            "episodes_ended": float(window.ended.sum()),
            "episodes_terminated": float(window.terminated.sum()),
        }

    def _fit_critic(self, window: Window) -> Metrics:
        with torch.no_grad():
            target = td_lambda(
                window.reward,
                self.critic.target(window.next_obs),
                window.terminated,
                window.truncated,
                gamma=self.config.gamma,
                lam=self.config.lam,
            )
        obs, target = window.obs.flatten(0, 1), target.flatten(0, 1)
        finite = target.isfinite().all(-1)
        if not bool(finite.all()):
            obs, target = obs[finite], target[finite]
        if len(target) == 0:
            return {}
        if self.values is not None:
            self.values.add(target.mean(-1), {"obs": obs, "target": target})
        total = 0.0
        for batch in self._critic_batches(obs, target):
            loss = (self.critic(batch["obs"]) - batch["target"]).square().mean()
            self.critic_optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.critic.net.parameters(), self.config.clip))
            if math.isfinite(norm):
                self.critic_optimiser.step()
            else:
                self.skipped += 1
            total += float(loss.detach()) / self.config.critic_updates
        self.critic.update_target()
        return {"critic_loss": total, "value_target": float(target.mean())}

    def _critic_batches(self, obs: Tensor, target: Tensor) -> Iterator[dict[str, Tensor]]:
        size = self.config.critic_batch_size
        if self.values is not None:
            for _ in range(self.config.critic_updates):
                yield self.values.sample(size, self.sampler, self.config.value_balance)
            return
        order = torch.empty(0, dtype=torch.long)
        for _ in range(self.config.critic_updates):
            if len(order) < min(size, len(obs)):
                order = torch.randperm(len(obs), generator=self.sampler)
            chosen, order = order[:size], order[size:]
            yield {"obs": obs[chosen], "target": target[chosen]}

    def _set_learning_rates(self) -> None:
        if self.config.schedule == "constant":
            return
        share = self.update / self.total_updates
        pairs = (
            (self.actor_optimiser, self.config.actor_lr),
            (self.critic_optimiser, self.config.critic_lr),
        )
        for optimiser, initial in pairs:
            for group in optimiser.param_groups:
                group["lr"] = initial + (self.config.final_lr - initial) * share

    def _adam(self, module: nn.Module, rate: float) -> torch.optim.Adam:
        learned = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.Adam(learned, lr=rate, betas=self.config.betas, fused=True)

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Return all of the training's state, in tensors and plain numbers."""
        return {
            "actor": dict(self.actor.state_dict()),
            "critic": dict(self.critic.state_dict()),
            "actor_optimiser": self.actor_optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "values": None if self.values is None else self.values.state_dict(),
            "noise": self.noise.state_dict(),
            "generator": self.generator.get_state(),
            "sampler": self.sampler.get_state(),
            "samples": self.samples.get_state(),
            "config": asdict(self.config),
            "update": self.update,
            "total_updates": self.total_updates,
            "skipped": self.skipped,
            "started": self.started,
            "seed": self.seed,
            "env": self._env_state(),
            "learned": self.env.state_dict(),
        }

    def _env_state(self) -> State | None:
        """Return the env's state; None if it cannot save one: its episodes then start anew."""
        if not self.started:
            return None
        try:
            return self.env.state()
        except NotImplementedError:
            return None

    def load_state_dict(self, state: State) -> None:
        """Go on exactly where `state_dict` was taken; an env that saves no state starts anew.

        Raises:
            UsageError: the state is of another configuration or env.
        """
        check_same_config(state.get("config", {}), asdict(self.config))
        try:
            self.actor.load_state_dict(state["actor"])
            self.critic.load_state_dict(state["critic"])
            # copies: an optimiser would share its loaded tensors with whoever saved them
            self.actor_optimiser.load_state_dict(copy.deepcopy(state["actor_optimiser"]))
            self.critic_optimiser.load_state_dict(copy.deepcopy(state["critic_optimiser"]))
            if self.values is not None:
                self.values.load_state_dict(state["values"])
            self.noise.load_state_dict(state["noise"])
            self.generator.set_state(state["generator"].cpu())
            self.sampler.set_state(state["sampler"].cpu())
            self.samples.set_state(state["samples"].cpu())
            self.update = state["update"]
            self.total_updates = state["total_updates"]
            self.skipped = state["skipped"]
            self.started = state["started"]
            self.seed = state["seed"]
            if state["env"] is not None:
                self.env.set_state(state["env"])
            elif self.started:
                self.env.reset(seed=derive_seed(self.seed, f"restart {self.update}"))
            self.env.load_state_dict(state["learned"])
        except (KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                f"the checkpoint does not fit this env and configuration ({error}); make both as "
                "they were when it was saved"
            ) from error

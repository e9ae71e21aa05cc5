"""Short Horizon Actor-Critic on real, mixed or learned gradients (arXiv:2204.07137).

`SHAC(env)` is SHAC on an env that differentiates itself, SHAC++ on a `LearnedDiffWrapper`, SHAC+
on one with `dynamics=False`: the trainer cannot tell them apart.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.critic import Critic
from diffsurrogate.actor_critic.exploration import NoiseProcess, NoiseState, resolve_noise
from diffsurrogate.actor_critic.reward_scaling import ReturnScale
from diffsurrogate.algorithms.all_choices import PredictsSteps, all_choices_loss
from diffsurrogate.algorithms.clipped_surrogate import clipped_epochs, policy_batch
from diffsurrogate.algorithms.shac_config import SHACConfig
from diffsurrogate.algorithms.value_learning import RewardSignBalance
from diffsurrogate.data.replay import StratifiedReplay
from diffsurrogate.data.segments import minibatches
from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import (
    action_penalty,
    expectile_loss,
    lambda_actor_loss,
    shac_actor_loss,
)
from diffsurrogate.functional.returns import td_lambda
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.trainer import Gradient, Metrics, Trainer, adam


class SHAC(Trainer):
    """Learns a policy by the gradient of short windows.

    Example:
        >>> from diffsurrogate import SHAC, make
        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4, differentiable=True)
        >>> agent = SHAC(env).learn(total_steps=256)
        >>> action = agent.predict(env.current_obs, deterministic=True)
    """

    config_type = SHACConfig
    config: SHACConfig

    def __init__(
        self, env: MultiAgentVectorEnv, config: SHACConfig | None = None, *, seed: int = 0
    ) -> None:
        """Build actor and critic for an env.

        Args:
            env: one with gradients of dynamics and reward, real or learned.
            config: hyperparameters; None for `SHACConfig.suited_to(env)`.
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
        super().__init__(env, config or SHACConfig.suited_to(env), seed)
        self._check_choices()
        if env.max_horizon is not None and self.config.horizon > env.max_horizon:
            raise UsageError(
                f"horizon is {self.config.horizon}, but the world model reaches only "
                f"{env.max_horizon} steps; shorten the horizon, or raise awm.max_horizon"
            )
        if self.config.replays and not env.can_replay:
            raise UsageError(
                "actor_epochs, actor_minibatches and segment_length differentiate a window again, "
                "which needs learned dynamics and reward: SHAC(LearnedDiffWrapper(env), config); "
                "or leave them at 1, 1 and None"
            )
        device = env.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            actor = build_actor(self.config.actor, env)
            critic = Critic(self.config.critic, env.num_agents, env.obs_dim)
        self._use_actor(actor, self.config.ema_decay)
        self.critic = critic.to(device)
        shape = (env.num_envs, env.num_agents, env.act_dim)
        noise = resolve_noise(self.config.noise, choices=env.discrete_actions)
        self.noise = NoiseProcess(noise, shape, self.noise_rng)
        self.actor_optimiser = adam(self.actor, self.config.actor_lr, self.config.betas)
        self.score_optimiser = adam(self.actor, self.config.score.lr, (0.9, 0.999))
        self.critic_optimiser = adam(self.critic, self.config.critic_lr, self.config.betas)
        self.sign_balance = RewardSignBalance().to(device)
        self.scale = ReturnScale(env.num_envs, env.num_agents, self.config.gamma).to(device)
        self.values: StratifiedReplay | None = None
        if self.config.value_capacity > 0:
            self.values = StratifiedReplay(
                self.config.value_capacity, self.config.value_bins, env.device
            )

    def _check_choices(self) -> None:
        """Refuse what makes no sense where actions are choices, and the other way round.

        Raises:
            UsageError: the configuration does not suit the env's actions.
        """
        discrete, config = self.env.discrete_actions, self.config
        if config.choices == "all" and not discrete:
            raise UsageError(
                "choices=\"all\" weighs an agent's choices, but this env's actions are numbers; "
                'leave it at "sampled"'
            )
        if config.choices == "all" and config.actor.order != "simultaneous":
            raise UsageError(
                "choices=\"all\" keeps the other agents' choices while it tries an agent's, which "
                f'order={config.actor.order!r} of the actor does not; use choices="sampled"'
            )
        if discrete and not self.env.can_replay:
            raise UsageError(
                "a choice passes a gradient to learned models only, not to a simulator's own; "
                "learn both: SHAC(LearnedDiffWrapper(env))"
            )
        if discrete and config.score.epochs > 0 and config.noise.kind not in ("auto", "white"):
            raise UsageError(
                f"score needs the probability of each choice, which {config.noise.kind} noise does "
                "not give; use white noise"
            )

    @property
    def pathwise_weight(self) -> float:
        """Weight of the pathwise gradient in score steps by now."""
        weight, steps = self.config.pathwise_weight, self.config.pathwise_steps
        return weight if steps is None else weight * max(0.0, 1 - self.env_steps / steps)

    def return_loss(self, window: Window) -> Tensor:
        """Return the negative value of a window that still has its graph, without penalties."""
        if self.config.choices == "all":
            assert isinstance(self.env, PredictsSteps)
            return all_choices_loss(
                self.env,
                self.actor,
                self.critic,
                window,
                gamma=self.config.gamma,
                reward_unit=self.scale.scale,
            )
        value_obs = window.next_obs if window.value_obs is None else window.value_obs
        reward = window.reward / self.scale.scale
        rest = (reward, self.critic.target(value_obs), window.terminated, window.truncated)
        gamma, lam = self.config.gamma, self.config.actor_lam
        if lam is None:
            return shac_actor_loss(*rest, gamma=gamma, continue_prob=window.continue_prob)
        return lambda_actor_loss(*rest, gamma=gamma, lam=lam, continue_prob=window.continue_prob)

    def actor_loss(self, window: Window) -> Tensor:
        """Return what the actor descends: `return_loss` and the penalty on leaving the box."""
        loss = self.return_loss(window)
        boxed = self.config.actor.squash or self.actor.discrete
        if self.config.action_penalty_weight > 0 and not boxed:
            one = torch.ones_like(self.actor.action_scale)
            if self.config.action_penalty_on == "means":
                action = window.mask_dead_actions(self.actor(window.obs.detach()))
            else:
                action = self.actor.normalise_action(window.action)
            loss = loss + self.config.action_penalty_weight * action_penalty(action, -one, one)
        return loss

    def _improve(self) -> Metrics:
        self._set_learning_rates()
        self._set_deviation()
        self.env.detach()
        self.actor.freeze_normaliser(self.minibatch_rng)
        self.critic.statistics.snapshot()
        config, memory = self.config, None
        climbs = config.score.epochs > 0
        if climbs:
            noise, memory = self.noise.draw_with_state(config.horizon)
        else:
            noise = self.noise.draw(config.horizon)
        without_graph = config.replays or config.choices == "all"
        without_graph |= climbs and self.pathwise_weight == 0
        collect = self.env.collect if without_graph else self.env.rollout
        window = collect(NoisyPolicy(self.actor, noise), config.horizon)
        if config.scale_rewards:
            self.scale.update(window.reward.detach(), window.ended)
        target = self.value_targets(window)
        if climbs:
            report = self._climb(window, noise, target, memory)
        elif config.replays:
            report = self._replay(window, noise)
        else:
            report = self._fit_actor(window)
        window = window.detach()  # from here on, nothing can reach the policy
        report |= {
            "skipped_updates": float(self.skipped),
            "reward": float(window.reward.mean()),
            "episodes_ended": float(window.ended.sum()),
            "episodes_terminated": float(window.terminated.sum()),
        }
        self.sign_balance.update(window.reward)
        report |= self._fit_critic(window.obs, target)
        report |= self.env.fit(window)  # last: weights must not move under a live graph
        self.actor.update_normaliser(window.obs)
        self.critic.statistics.update(window.obs)
        return report

    def _fit_actor(self, window: Window) -> Metrics:
        loss = self.actor_loss(window)
        norm = self._descend(self.actor_optimiser, loss, self.config.clip)
        return {"actor_loss": float(loss.detach()), "actor_gradient_norm": norm}

    def _replay(self, window: Window, noise: Tensor) -> Metrics:
        """Step the policy several times on parts of a window; return the means over all."""
        reports = [
            self._fit_actor(part)
            for _ in range(self.config.actor_epochs)
            for part in self._parts(window, noise)
        ]
        return {name: sum(r[name] for r in reports) / len(reports) for name in reports[0]}

    def _parts(self, window: Window, noise: Tensor) -> Iterator[Window]:
        """Yield random parts of a window, each with the graph of the policy as it is by then."""
        for part, part_noise in minibatches(
            window,
            noise,
            length=min(self.config.segment_length or window.horizon, window.horizon),
            count=self.config.actor_minibatches,
            generator=self.minibatch_rng,
        ):
            if self.config.choices == "all":  # needs no graph of the window
                yield part
            else:
                yield self.env.differentiate(part, NoisyPolicy(self.actor, part_noise))

    def _climb(
        self, window: Window, noise: Tensor, target: Tensor, memory: NoiseState | None
    ) -> Metrics:
        """Take score steps on a window, each with the pathwise gradient as a part."""
        config = self.config
        with torch.no_grad():
            advantage = target - self.critic.target(window.obs)
        past = policy_batch(window, self.actor, advantage, memory)
        extra_grad, report = self._pathwise(window, noise, advantage.sum(-1).std())
        if config.pathwise_steps is not None:
            report["pathwise_weight"] = self.pathwise_weight
        return report | clipped_epochs(
            self.actor,
            past,
            config=config.score,
            generator=self.minibatch_rng,
            descend=lambda loss: self._descend(
                self.score_optimiser, loss, config.score.max_grad_norm, extra_grad
            ),
        )

    def _pathwise(
        self, window: Window, noise: Tensor, deviation: Tensor
    ) -> tuple[Gradient, Metrics]:
        """Return the weighted pathwise gradient of a window or its part, and its norm before that.

        Divided by the deviation of the team's advantages it is in the units of the score
        function's gradient, whose advantages are divided by it too; its norm is then cut to
        `score.max_grad_norm`, as where a model errs it can be of any size.
        """
        weight, limit = self.pathwise_weight, self.config.score.max_grad_norm
        if weight == 0:
            return [], {}
        if self.config.replays:
            window = next(self._parts(window, noise))
        weights = [p for p in self.actor.parameters() if p.requires_grad]
        found = torch.autograd.grad(self.actor_loss(window), weights, allow_unused=True)
        pairs = [(p, g) for p, g in zip(weights, found, strict=True) if g is not None]
        scale = 1 / deviation.clamp(min=1e-3)
        norm = float(scale * torch.stack([g.norm() for _, g in pairs]).norm())
        report = {"actor_gradient_norm": norm}
        if not math.isfinite(norm):
            self.skipped += 1
            return [], report
        scale = scale * weight * min(1.0, limit / max(norm, 1e-12))
        return [(p, scale * g) for p, g in pairs], report

    @torch.no_grad()
    def value_targets(self, window: Window) -> Tensor:
        """Return what the critic is to learn: TD(λ) of scaled rewards, (time, env, agent)."""
        return td_lambda(
            window.reward / self.scale.scale,
            self.critic.target(window.next_obs),
            window.terminated,
            window.truncated,
            gamma=self.config.gamma,
            lam=self.config.lam,
        )

    def _fit_critic(self, obs: Tensor, target: Tensor) -> Metrics:
        obs, target = obs.flatten(0, 1), target.flatten(0, 1)
        finite = target.isfinite().all(-1)
        if not bool(finite.all()):
            obs, target = obs[finite], target[finite]
        if len(target) == 0:
            return {}
        if self.values is not None:
            self.values.add(target.mean(-1), {"obs": obs, "target": target})
        total, expectile = 0.0, self.config.expectile_at(self.sign_balance.share)
        for batch in self._critic_batches(obs, target):
            loss = expectile_loss(self.critic(batch["obs"]), batch["target"], expectile=expectile)
            self._descend(self.critic_optimiser, loss, self.config.clip)
            total += float(loss.detach()) / self.config.critic_updates
        self.critic.update_target()
        report = {"critic_loss": total, "value_target": float(target.mean())}
        if self.config.expectile_one_signed is not None:
            report["expectile"] = expectile
        return report

    def _critic_batches(self, obs: Tensor, target: Tensor) -> Iterator[dict[str, Tensor]]:
        size = self.config.critic_batch_size
        if self.values is not None:
            for _ in range(self.config.critic_updates):
                yield self.values.sample(size, self.minibatch_rng, self.config.value_balance)
            return
        order = torch.empty(0, dtype=torch.long)
        for _ in range(self.config.critic_updates):
            if len(order) < min(size, len(obs)):
                order = torch.randperm(len(obs), generator=self.minibatch_rng)
            chosen, order = order[:size], order[size:]
            yield {"obs": obs[chosen], "target": target[chosen]}

    def _set_learning_rates(self) -> None:
        if self.config.schedule == "constant":
            return
        share = self.iteration / self.total_iterations
        pairs = (
            (self.actor_optimiser, self.config.actor_lr),
            (self.score_optimiser, self.config.score.lr),
            (self.critic_optimiser, self.config.critic_lr),
        )
        for optimiser, initial in pairs:
            for group in optimiser.param_groups:
                group["lr"] = initial + (self.config.final_lr - initial) * share

    def _set_deviation(self) -> None:
        if self.config.final_std is None:
            return
        share = min(1.0, self.env_steps / self.config.std_steps)
        first, last = math.log(self.config.actor.std), math.log(self.config.final_std)
        self.actor.log_std.fill_(first + share * (last - first))

    def _state(self) -> State:
        return {
            "actor": dict(self.actor.state_dict()),
            "critic": dict(self.critic.state_dict()),
            "sign_balance": dict(self.sign_balance.state_dict()),
            "scale": dict(self.scale.state_dict()),
            "actor_optimiser": self.actor_optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "score_optimiser": self.score_optimiser.state_dict(),
            "values": None if self.values is None else self.values.state_dict(),
            "noise": self.noise.state_dict(),
        }

    def _load_state(self, state: State) -> None:
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.sign_balance.load_state_dict(state["sign_balance"])
        self.scale.load_state_dict(state["scale"])
        # copies: an optimiser would share its loaded tensors with whoever saved them
        self.actor_optimiser.load_state_dict(copy.deepcopy(state["actor_optimiser"]))
        self.score_optimiser.load_state_dict(copy.deepcopy(state["score_optimiser"]))
        self.critic_optimiser.load_state_dict(copy.deepcopy(state["critic_optimiser"]))
        if self.values is not None:
            self.values.load_state_dict(state["values"])
        self.noise.load_state_dict(state["noise"])

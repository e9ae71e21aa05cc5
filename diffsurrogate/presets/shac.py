"""Recipes of SHAC, SHAC+ and SHAC++."""

from dataclasses import replace

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import HybridUpdateConfig
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.nets.config import (
    DiCoConfig,
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    NetConfig,
    SharedNetConfig,
    TransformerConfig,
)
from diffsurrogate.presets.recipe import Choice, Network
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.step_model import StepModelConfig

_TRANSFORMER = TransformerConfig(hidden=(64,), embed=(128, 128), activation="silu")
_SHARED = SharedNetConfig(hidden=(128, 128, 128), activation="silu")
_NETS: dict[Network, NetConfig] = {
    "shared": _SHARED,
    "shared-id": replace(_SHARED, agent_id=True),
    "transformer": _TRANSFORMER,
    "transformer-id": replace(_TRANSFORMER, agent_id=True),
    "hyper-linear": HyperLinearConfig(activation="silu"),
    "hyper-mlp": HyperMLPConfig(activation="silu"),
    "dico": DiCoConfig(activation="silu"),
}
"""Of the policy, but for mlp."""
_ALIKE = SharedNetConfig(hidden=(128, 128), activation="silu")
"""Of the models of the paper's tasks, whose agents are all alike and touch things."""


def recommended_shac(choice: Choice, num_envs: int) -> SHACConfig:
    """Return the hyperparameters of SHAC, SHAC+ or SHAC++.

    SHAC++'s paper's tasks have recipes of their own; elsewhere it is `SHACConfig.hybrid`, which
    `SHAC(env)` takes too, with the network asked for.
    """
    if choice.network != "mlp":
        config = _shared_weights(choice)
        return config if choice.library == "paper" else _hybrid(config, choice, num_envs)
    if choice.library == "paper":
        width = max(64, 32 * (choice.agents or 1))
        actor = ActorConfig(net=JointNetConfig(hidden=(width, width)))
        return _mixed(choice, actor, lr=2e-3)
    return _hybrid(SHACConfig(), choice, num_envs)


def recommended_surrogates(choice: Choice) -> SurrogateConfig:
    """Return the models that SHAC+ or SHAC++ learns."""
    config = SurrogateConfig()
    if choice.network != "mlp":
        # Agents that share a policy need a reward model without slopes that are not there.
        reward = replace(config.reward, net=_shared(choice), range="bounded")
        config = replace(config, reward=reward, fit=FitConfig(minibatches=12))
    elif choice.library == "paper":
        config = replace(config, adjoint_clip=3.0, reward=replace(config.reward, net=_ALIKE))
    if choice.library == "paper":
        step = StepModelConfig(net=_ALIKE, num_frequencies=6, leave_out_jumps=False)
        fit = replace(
            config.fit,
            batch_size=_as_for_three(config.fit.batch_size, choice),
            capacity=_as_for_three(config.fit.capacity, choice),
        )
        config = replace(config, dynamics=step, fit=fit)
    return config if choice.library == "paper" else replace(config, termination=True)


def _as_for_three(transitions: int, choice: Choice) -> int:
    """Return as many transitions as have the rows of `transitions` of three agents.

    To a network that agents share every agent of a transition is a row, and costs as much.
    """
    return transitions * 3 // max(choice.agents or 3, 3)


def _shared(choice: Choice) -> SharedNetConfig:
    """Return the critic's and the reward model's network beside a policy that is no joint MLP.

    It tells agents apart unless the policy does not; the paper's tasks were measured without.
    """
    alike = choice.library == "paper" or choice.network in ("shared", "transformer")
    return replace(_SHARED, agent_id=not alike)


def _hybrid(config: SHACConfig, choice: Choice, num_envs: int) -> SHACConfig:
    """Return `SHACConfig.hybrid` with the networks and rates of `config`."""
    hybrid = SHACConfig.hybrid(
        num_envs, learned=choice.method == "shac++", articulated=choice.articulated
    )
    minibatches = config.update.gradient.minibatches if choice.method == "shac++" else 1
    gradient = replace(hybrid.update.gradient, minibatches=minibatches)
    std, learn_std = hybrid.actor.std, hybrid.actor.learn_std
    return replace(
        hybrid,
        actor=replace(config.actor, std=std, learn_std=learn_std),
        critic=hybrid.critic if choice.network == "mlp" else CriticConfig(net=_shared(choice)),
        betas=config.betas,
        update=replace(hybrid.update, gradient=gradient),
        value=replace(
            config.value, minibatches=hybrid.value.minibatches, capacity=hybrid.value.capacity
        ),
    )


def _mixed(choice: Choice, actor: ActorConfig, *, lr: float) -> SHACConfig:
    """Return pathwise and likelihood-ratio gradients mixed, as tasks gated by contact need them.

    Where all is learned the pathwise gradient is of half the envs, at half the price.
    """
    gradient = PathwiseConfig(
        lam=0.4, minibatches=2 if choice.method == "shac++" else 1, action_penalty_weight=0.0
    )
    ppo = replace(HybridUpdateConfig().ppo, batch_size=2048, lr=lr)
    return SHACConfig(
        actor=actor,
        noise=NoiseConfig(kind="white"),
        update=HybridUpdateConfig(ppo=ppo, weight=0.2, gradient=gradient),
        value=ValueLearningConfig(
            expectile=0.8,
            expectile_one_signed=0.65,
            minibatches=16,
            batch_size=_as_for_three(1024, choice),
            bins=1,
            capacity=_as_for_three(60_000, choice),
        ),
        ema_decay=0.95,
    )


def _shared_weights(choice: Choice) -> SHACConfig:
    """Return what measured best for a Transformer over agents as the policy (SHAC++, B.2).

    Agents that share a policy and see almost the same must learn "to the nearest one left", which
    takes a good value function. The other networks start from the same, unmeasured.
    """
    config = _mixed(choice, ActorConfig(net=_NETS[choice.network]), lr=1e-3)
    return replace(
        config,
        critic=replace(config.critic, net=_SHARED),
        value=replace(config.value, lr=1e-3),
        betas=(0.9, 0.99),
    )

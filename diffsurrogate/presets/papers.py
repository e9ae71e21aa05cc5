"""`--preset paper`: the numbers of the SHAC++ paper, as far as ours can express them."""

from dataclasses import replace

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import JointNetConfig, NetConfig, TransformerConfig
from diffsurrogate.presets.recipe import Choice, Recipe, RunConfig
from diffsurrogate.surrogates.config import SurrogateConfig

_ENVS, _HORIZON, _EPISODES = 512, 32, 20_000


def paper_recipe(choice: Choice) -> Recipe:
    """Return the hyperparameters of SHAC++ (Bertolotti et al., ECAI 2025; its tables 3 and 4).

    Without `agents` the networks are as wide as for one. Where the paper is silent, its public
    code decides: two hidden layers of the MLP (the paper's text says one), and PPO's epochs,
    minibatches, clipping and one ratio per agent.

    Ours cannot express:
        - dropout of .1 in the policy, the tanh at the end of the MLP policy and its residual
          layer;
        - gradients of the value function that are not clipped: actor and critic share a limit of
          1 (PPO: .5);
        - a value function that rests for ten windows: the same 300 minibatches of 1000 are spread
          evenly over them;
        - a reward model without normalised inputs, and a Transformer's norms after its layers;
          half of the reward model's minibatches are spread over the bins, the paper's are not;
        - stopping once 90 % of the envs have 90 % of the maximum: `stop_at` is of the mean.

    Corrected on purpose, so that figures mean something: value targets (the code's TD(λ) weighs
    the last value wrongly and pairs targets with the next state), caches that overwrite their own
    batch and share one range of bins, PPO's ratio (the code's is not 1 at equal parameters), and
    the random stream of evaluations, which trained envs do not see here. Envs are reset one by
    one after 320 steps, the ten windows after which the paper resets them all.

    Raises:
        UsageError: the paper has no such method or network.
    """
    if choice.method not in ("shac", "shac+", "shac++", "ppo"):
        raise UsageError(
            f"the paper has no {choice.method}; --preset paper is for ppo, shac, shac+ and "
            "shac++, leave it out for the others"
        )
    if choice.network not in ("mlp", "transformer"):
        raise UsageError(
            f"the paper has no {choice.network} network; with --preset paper use --network mlp or "
            "transformer"
        )
    net = _net(choice)
    actor = ActorConfig(net=net, std=1.0, normalise_obs=False)
    critic = CriticConfig(net=net, target_decay=0.0, normalise_obs=False)
    run = RunConfig(
        num_envs=_ENVS,
        total_steps=_EPISODES * _ENVS * _HORIZON,
        max_steps=10 * _HORIZON if choice.library == "paper" else None,
        stop_at=0.9,
        eval_every=100,
        checkpoint_every=100,
    )
    if choice.method == "ppo":
        return Recipe(**vars(choice), run=run, config=_ppo(actor, critic))
    learned = None if choice.method == "shac" else _surrogates(choice, net)
    return Recipe(**vars(choice), run=run, config=_shac(actor, critic), surrogates=learned)


def _net(choice: Choice) -> NetConfig:
    """Return the network of policy, value and reward."""
    if choice.network == "transformer":
        return TransformerConfig(hidden=(64,), activation="relu")
    return JointNetConfig(hidden=(32 * (choice.agents or 1),) * 2, activation="relu")


def _shac(actor: ActorConfig, critic: CriticConfig) -> SHACConfig:
    return SHACConfig(
        horizon=_HORIZON,
        gamma=0.99,
        actor=actor,
        critic=critic,
        noise=NoiseConfig(kind="white"),
        update=GradientUpdateConfig(lr=1e-3),
        value=ValueLearningConfig(
            lam=0.95,
            lr=1e-3,
            minibatches=30,
            batch_size=1000,
            capacity=30_000 // 9,
            bins=9,
            balance=0.0,
        ),
        betas=(0.9, 0.999),
        randomise_episode_phase=False,
    )


def _surrogates(choice: Choice, net: NetConfig) -> SurrogateConfig:
    """Return the models; SHAC+ differentiates the simulator, through the policy as well."""
    paper = SurrogateConfig.paper(choice.agents or 1)
    paper = replace(paper, reward=replace(paper.reward, net=net))
    if choice.method == "shac+":
        return replace(paper, anchor="real", loop="closed")
    return paper


def _ppo(actor: ActorConfig, critic: CriticConfig) -> PPOConfig:
    return PPOConfig(
        horizon=_HORIZON,
        gamma=0.99,
        lam=0.95,
        actor=actor,
        critic=critic,
        clip=ClipConfig(
            epochs=4,
            batch_size=2000,
            clip_range=0.2,
            lr=1e-3,
            max_grad_norm=0.5,
            entropy_weight=0.0,
            ratio="per_agent",
            advantage="individual",
        ),
        critic_lr=1e-3,
        scale_rewards=False,
        randomise_episode_phase=False,
    )

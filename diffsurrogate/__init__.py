"""Learned gradients for any simulator: wrap an env, train it with SHAC.

from diffsurrogate import SHAC, LearnedDiffWrapper, make

env = LearnedDiffWrapper(make("paper/dispersion", num_envs=64, n_agents=1))
SHAC(env).learn(total_steps=500_000, progress_bar=True)  # SHAC++
"""

from importlib.metadata import version

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.diversity import policy_diversity, visited
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.bppo import ARMAPPO, BPPO, HAPPO, BPPOConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.max_entropy import EntropyConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, make, register_adapter, register_env
from diffsurrogate.envs.torch_env import TorchEnv
from diffsurrogate.envs.waiting import warn_of_hanging_envs
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients
from diffsurrogate.nets.config import (
    DiCoConfig,
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    SeparateNetConfig,
    SharedNetConfig,
    TransformerConfig,
)
from diffsurrogate.policy_export import export_policy
from diffsurrogate.presets.recipe import Recipe, RunConfig
from diffsurrogate.presets.recommend import recommended
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.trained_policy import TrainedPolicy, load_policy
from diffsurrogate.training.callbacks import (
    CheckpointCallback,
    EvalCallback,
    LogCallback,
    TrainingCallback,
)
from diffsurrogate.training.evaluate import Evaluation, evaluate
from diffsurrogate.training.loggers import MLflowLogger, WandbLogger
from diffsurrogate.training.run_folder import RunFolder
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

__version__ = version("diffsurrogate")

__all__ = [
    "ARMAPPO",
    "BPPO",
    "HAPPO",
    "IPPO",
    "MAPPO",
    "PPO",
    "SHAC",
    "ActorConfig",
    "AllActionConfig",
    "BPPOConfig",
    "CheckpointCallback",
    "ClipConfig",
    "CriticConfig",
    "DiCoConfig",
    "EntropyConfig",
    "EvalCallback",
    "Evaluation",
    "FitConfig",
    "GradientUpdateConfig",
    "HybridUpdateConfig",
    "HyperLinearConfig",
    "HyperMLPConfig",
    "JointNetConfig",
    "LearnedDiffWrapper",
    "LogCallback",
    "MLflowLogger",
    "MultiAgentVectorEnv",
    "NoiseConfig",
    "PPOConfig",
    "PathwiseConfig",
    "Recipe",
    "RewardConfig",
    "RunConfig",
    "RunFolder",
    "SHACConfig",
    "SeparateNetConfig",
    "SharedNetConfig",
    "StepModelConfig",
    "SurrogateConfig",
    "TorchEnv",
    "TrainedPolicy",
    "TrainingCallback",
    "TransformerConfig",
    "UsageError",
    "ValueLearningConfig",
    "WandbLogger",
    "Window",
    "as_multi_agent",
    "check_gradients",
    "evaluate",
    "export_policy",
    "load_policy",
    "make",
    "policy_diversity",
    "recommended",
    "register_adapter",
    "register_env",
    "visited",
    "warn_of_hanging_envs",
]

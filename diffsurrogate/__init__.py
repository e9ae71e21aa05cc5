"""Learned gradients for any simulator: wrap an env, train it with SHAC.

from diffsurrogate import SHAC, LearnedDiffWrapper, make

env = LearnedDiffWrapper(make("paper/dispersion", num_envs=64, n_agents=1))
SHAC(env).learn(total_steps=500_000, progress_bar=True)  # SHAC++
"""

from importlib.metadata import version

from diffsurrogate.algorithms.bppo import ARMAPPO, BPPO, HAPPO
from diffsurrogate.algorithms.bppo_config import ARMAPPOConfig, BPPOConfig, HAPPOConfig
from diffsurrogate.algorithms.evaluate import Evaluation, evaluate
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO
from diffsurrogate.algorithms.ppo_config import ClipConfig, IPPOConfig, MAPPOConfig, PPOConfig
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.algorithms.shac_config import SHACConfig
from diffsurrogate.critics import CriticConfig
from diffsurrogate.diversity import policy_diversity, visited
from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.gradcheck import check_gradients
from diffsurrogate.nets import NetConfig
from diffsurrogate.noise import NoiseConfig
from diffsurrogate.policies import ActorConfig
from diffsurrogate.registry import as_multi_agent, make, register_adapter, register_env
from diffsurrogate.rewards import RewardConfig
from diffsurrogate.step_model import StepModelConfig
from diffsurrogate.surrogate_config import SurrogateConfig
from diffsurrogate.torch_env import TorchEnv
from diffsurrogate.window import Window
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
    "ARMAPPOConfig",
    "ActorConfig",
    "BPPOConfig",
    "ClipConfig",
    "CriticConfig",
    "Evaluation",
    "HAPPOConfig",
    "IPPOConfig",
    "LearnedDiffWrapper",
    "MAPPOConfig",
    "MultiAgentVectorEnv",
    "NetConfig",
    "NoiseConfig",
    "PPOConfig",
    "RewardConfig",
    "SHACConfig",
    "StepModelConfig",
    "SurrogateConfig",
    "TorchEnv",
    "UsageError",
    "Window",
    "as_multi_agent",
    "check_gradients",
    "evaluate",
    "make",
    "policy_diversity",
    "register_adapter",
    "register_env",
    "visited",
]

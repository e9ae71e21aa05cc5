from .actor_critic.actor import ActorConfig as ActorConfig
from .actor_critic.critic import CriticConfig as CriticConfig
from .actor_critic.diversity import policy_diversity as policy_diversity, visited as visited
from .actor_critic.exploration import NoiseConfig as NoiseConfig
from .algorithms.all_action import AllActionConfig as AllActionConfig
from .algorithms.bppo import (
    ARMAPPO as ARMAPPO,
    BPPO as BPPO,
    HAPPO as HAPPO,
    BPPOConfig as BPPOConfig,
)
from .algorithms.clipped_surrogate import ClipConfig as ClipConfig
from .algorithms.max_entropy import EntropyConfig as EntropyConfig
from .algorithms.pathwise import PathwiseConfig as PathwiseConfig
from .algorithms.policy_updates import (
    GradientUpdateConfig as GradientUpdateConfig,
    HybridUpdateConfig as HybridUpdateConfig,
)
from .algorithms.ppo import IPPO as IPPO, MAPPO as MAPPO, PPO as PPO, PPOConfig as PPOConfig
from .algorithms.shac import SHAC as SHAC, SHACConfig as SHACConfig
from .algorithms.value_learning import ValueLearningConfig as ValueLearningConfig
from .envs.env import MultiAgentVectorEnv as MultiAgentVectorEnv
from .envs.registry import (
    as_multi_agent as as_multi_agent,
    make as make,
    register_adapter as register_adapter,
    register_env as register_env,
)
from .envs.torch_env import TorchEnv as TorchEnv
from .envs.waiting import warn_of_hanging_envs as warn_of_hanging_envs
from .envs.window import Window as Window
from .errors import UsageError as UsageError
from .gradients.finite_differences import check_gradients as check_gradients
from .nets.config import (
    DiCoConfig as DiCoConfig,
    HyperLinearConfig as HyperLinearConfig,
    HyperMLPConfig as HyperMLPConfig,
    JointNetConfig as JointNetConfig,
    SeparateNetConfig as SeparateNetConfig,
    SharedNetConfig as SharedNetConfig,
    TransformerConfig as TransformerConfig,
)
from .policy_export import export_policy as export_policy
from .presets.recipe import Recipe as Recipe, RunConfig as RunConfig
from .presets.recommend import recommended as recommended
from .surrogates.config import FitConfig as FitConfig, SurrogateConfig as SurrogateConfig
from .surrogates.heads import RewardConfig as RewardConfig
from .surrogates.step_model import StepModelConfig as StepModelConfig
from .trained_policy import TrainedPolicy as TrainedPolicy, load_policy as load_policy
from .training.callbacks import (
    CheckpointCallback as CheckpointCallback,
    EvalCallback as EvalCallback,
    LogCallback as LogCallback,
    TrainingCallback as TrainingCallback,
)
from .training.evaluate import Evaluation as Evaluation, evaluate as evaluate
from .training.loggers import MLflowLogger as MLflowLogger, WandbLogger as WandbLogger
from .training.run_folder import RunFolder as RunFolder
from .wrappers.learned import LearnedDiffWrapper as LearnedDiffWrapper
from .wrappers.observation_history import ObservationHistory as ObservationHistory

__version__: str

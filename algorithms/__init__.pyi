from .bppo import ARMAPPO as ARMAPPO, BPPO as BPPO, HAPPO as HAPPO, BPPOConfig as BPPOConfig
from .ppo import IPPO as IPPO, MAPPO as MAPPO, PPO as PPO, PPOConfig as PPOConfig
from .shac import SHAC as SHAC, SHACConfig as SHACConfig

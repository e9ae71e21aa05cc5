from .learned import LearnedDiffWrapper as LearnedDiffWrapper
from .observation_history import ObservationHistory as ObservationHistory
from .split_agents import SplitAgents as SplitAgents
from .team_reward import TeamReward as TeamReward

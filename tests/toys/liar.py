"""A Gymnasium env that breaks the rules in its third step."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Liar(gymnasium.Env[Any, Any]):
    """Honest until its third step, then as told."""

    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, lie: str = "", nested: bool = False) -> None:
        box = spaces.Box(-7, 7, (2, 3))
        self.nested = nested
        self.observation_space = spaces.Dict({"eye": box}) if nested else box
        self.lie, self.steps = lie, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        lies, self.steps = self.lie.startswith("reset") and self.steps == 3, 0
        return self.see(self.lie if lies else ""), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        lie = self.lie if self.steps == 3 else ""
        if lie == "raise":
            raise KeyError("wheel")
        reward: Any = {"reward": np.nan, "nothing": None, "array": np.ones(2)}.get(lie, 1.0)
        ends = lie.startswith(("end", "reset"))
        return self.see("" if lie.startswith("reset") else lie), reward, ends, False, {}

    def see(self, lie: str) -> Any:
        obs = np.full((2, 3), 7.0, np.float32)
        if lie.endswith("far"):
            obs[1, 2] = 8
        if lie.endswith("nan"):
            obs[1, 2] = np.nan
        obs = obs[:, :2] if lie.endswith("shape") else obs
        return {"eye": obs} if self.nested else obs

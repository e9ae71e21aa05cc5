"""An env of Gymnasium as you may have one: docs/from_stable_baselines3.md trains on it."""

from typing import Any

import gymnasium
import numpy as np


class Track(gymnasium.Env):
    """A cart follows a target that swings; the action is its acceleration."""

    observation_space = gymnasium.spaces.Box(-10, 10, (4,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.phase = 0, self.np_random.uniform(0, 2 * np.pi)
        self.place, self.speed = self.np_random.uniform(-1, 1), 0.0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.speed += 0.3 * float(action[0])
        self.place += 0.1 * self.speed
        self.time += 1
        seen = self._seen()
        distance = abs(float(seen[0] - seen[2]))
        reward = 1 - distance - 0.1 * float(action[0]) ** 2
        return seen, reward, distance > 3, False, {"distance": distance}

    def _seen(self) -> np.ndarray:
        angle = self.phase + 0.1 * self.time
        return np.array([self.place, self.speed, np.sin(angle), np.cos(angle)], np.float32)


gymnasium.register("Track-v0", "track:Track", max_episode_steps=100)

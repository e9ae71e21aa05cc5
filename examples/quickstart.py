"""SHAC++ on a task that no simulator differentiates, in ten lines.

python examples/quickstart.py
"""

from diffsurrogate import SHAC, LearnedDiffWrapper, evaluate, make


def main(total_steps: int = 800_000, episodes: int = 512) -> float:
    """Train on VMAS Dispersion and return the normalised return (1 is the true maximum)."""
    env = LearnedDiffWrapper(make("paper/dispersion", num_envs=256, n_agents=1, max_steps=320))
    agent = SHAC(env, seed=42)
    agent.learn(total_steps=total_steps, progress_bar=True)
    result = evaluate(agent.predict, make("paper/dispersion", num_envs=episodes, n_agents=1))
    print(f"normalised return {result.normalised_return:.3f}")
    return result.normalised_return or 0.0


if __name__ == "__main__":
    main()

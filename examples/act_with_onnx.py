"""Act by an exported policy, without diffsurrogate and torch: NumPy and onnxruntime do.

diffsurrogate export runs/ppo-gymnasium-Pendulum-v1-mlp-0 --out policy.onnx
python examples/act_with_onnx.py policy.onnx
"""

import sys

import gymnasium
import numpy as np
import onnxruntime


def main(path: str, seed: int = 0) -> float:
    """Return the return of an episode of the Gymnasium env that the policy was trained on."""
    policy = onnxruntime.InferenceSession(path)
    env_id = policy.get_modelmeta().custom_metadata_map["env"]
    env = gymnasium.make(env_id.partition("/")[2])
    obs, _ = env.reset(seed=seed)
    inputs = {i.name: np.zeros([1, *i.shape[1:]], np.float32) for i in policy.get_inputs()}
    total, ended = 0.0, False
    while not ended:
        inputs["obs"] = obs[None].astype(np.float32)
        action, *memory = policy.run(None, inputs)
        if memory:  # of a policy with a GRU; zeros where an episode starts
            inputs["hidden"] = memory[0]
        obs, reward, terminated, truncated, _ = env.step(action[0])
        total, ended = total + float(reward), terminated or truncated
    print(f"return {total:.1f}")
    return total


if __name__ == "__main__":
    main(sys.argv[1])

#!/usr/bin/env bash
# gymnax's envs are pure JAX, and their gradient is silently cut between steps.
#
# gymnax 1.0.1, jax 0.10.2: `jax.grad` through `step_env` of Pendulum-v1 gives no error and a wrong number: what the
# first of three actions does to the sum of rewards is -.2117 by finite differences and -.001 by `jax.grad` (the cost
# of the action itself), and the last observation has a Jacobian of exactly 0. State and observation are
# detached (`stop_gradient`) unless the env is `env.with_transition_gradients()`, which few envs offer; then both
# agree. Also seen: `import gymnax` fails in a fresh environment, as it imports six, which it does not require.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "gymnax==1.0.1" "jax==0.10.2" \
  "jaxlib==0.10.2" "numpy==2.4.6"
if "$folder/venv/bin/python" -c "import gymnax" 2>"$folder/error"; then
  echo "gymnax is imported without six" && exit 1
fi
tail -1 "$folder/error"
grep --quiet "No module named 'six'" "$folder/error"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "six==1.17.0"
cat >"$folder/check.py" <<'PYTHON'
import gymnax
import jax
import jax.numpy as jnp

env, params = gymnax.make("Pendulum-v1")
key = jax.random.PRNGKey(0)
_, start = env.reset_env(key, params)


def three_steps(first, env):
    state, total = start, 0.0
    for action in (first, jnp.zeros(1), jnp.zeros(1)):
        obs, state, reward, *_ = env.step_env(key, state, action, params)
        total = total + reward
    return total, obs


here, step = jnp.array([0.5]), 0.01
for name, one in (("as made", env), ("with_transition_gradients()", env.with_transition_gradients())):
    ahead, behind = (three_steps(here + sign * step, one)[0] for sign in (1, -1))
    numeric = float((ahead - behind) / (2 * step))
    slope = float(jax.grad(lambda first: three_steps(first, one)[0])(here)[0])
    jacobian = jax.jacobian(lambda first: three_steps(first, one)[1])(here)
    moves = bool((jacobian != 0).any())
    print(f"{name}: jax.grad {slope:.4f}, finite difference {numeric:.4f}, observation depends: {moves}")
    agree = abs(slope - numeric) < 0.01 * abs(numeric)
    assert agree == moves == (one is not env), (name, slope, numeric, moves)
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

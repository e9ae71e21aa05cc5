r"""Accelerations under contacts, exactly and with their exact derivative.

MuJoCo's acceleration $a$ minimises $\frac12 (a - M^{-1} f)^T M (a - M^{-1} f)
+ \frac12 \sum_{i: J_i a < r_i} D_i (J_i a - r_i)^2$: joint-space inertia $M$, forces $f$, and a row
$J_i$, stiffness $D_i$ and reference $r_i$ per constraint (contacts with pyramidal friction cones,
joint limits). Given which constraints push, it is a linear system.

No LAPACK: on the CPU of jaxlib 0.10.2, two of its batched factorisations that run at the same time
can wait for each other for ever.
"""

from typing import Any

from diffsurrogate.wrappers.jax.library import jax, jnp

Array = Any
MOST_ITERATIONS = 8
"""Newton's method is stopped after as many; two or three do where contacts are few."""
LINE_SEARCH = 4
"""Newton iterations on the step size."""


def inverse(matrix: Array) -> Array:
    """Return the inverse of a small positive definite matrix, by sweeping its pivots in turn."""
    for k in range(len(matrix)):
        column = matrix[:, k]
        pivot = column[k]
        swept = column / pivot
        matrix = matrix - jnp.outer(swept, column)
        matrix = matrix.at[k].set(swept).at[:, k].set(swept).at[k, k].set(-1 / pivot)
    return -matrix


def solve_positive(matrix: Array, right: Array) -> Array:
    """Return x of `matrix @ x = right`, both differentiable; `matrix` is positive definite."""
    inverted = inverse(jax.lax.stop_gradient(matrix))

    def solve(_: Any, right: Array) -> Array:
        first = inverted @ right
        return first + inverted @ (right - matrix_fixed @ first)  # refined: float32 loses digits

    matrix_fixed = jax.lax.stop_gradient(matrix)
    return jax.lax.custom_linear_solve(lambda x: matrix @ x, right, solve, symmetric=True)


def constrained_acceleration(
    inertia: Array, force: Array, rows: Array, stiffness: Array, reference: Array, guess: Array
) -> tuple[Array, Array]:
    """Return the acceleration $a$ and the constraints' force on the joints.

    Newton's method finds which constraints push; the derivative is that of the linear system they
    leave, which is the solution's wherever a small change makes no other constraint push.

    Args:
        inertia: M, (joint, joint).
        force: f, (joint,).
        rows: J, (constraint, joint).
        stiffness: D, (constraint,); 0 for a constraint that is not there.
        reference: r, (constraint,).
        guess: where to begin, such as the acceleration of the step before.
    """
    fixed = jax.lax.stop_gradient((inertia, force, rows, stiffness, reference))
    pushing = _pushing(*fixed, jax.lax.stop_gradient(guess))
    weights = stiffness * pushing
    acceleration = _minimum(inertia, force, rows, weights, reference)
    push = rows.T @ (weights * (reference - rows @ acceleration))
    return acceleration, push


def _minimum(inertia: Array, force: Array, rows: Array, weights: Array, reference: Array) -> Array:
    """Return the minimum if the constraints push with these weights."""
    matrix = inertia + (rows.T * weights) @ rows
    return solve_positive(matrix, force + rows.T @ (weights * reference))


def _pushing(
    inertia: Array, force: Array, rows: Array, stiffness: Array, reference: Array, guess: Array
) -> Array:
    """Return which constraints push at the minimum, (constraint,) bool."""

    def go_on(state: tuple[Array, Array, Array, Array]) -> Array:
        _, _, changed, count = state
        return changed & (count < MOST_ITERATIONS)

    def improve(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        here, pushing, _, count = state
        there = _minimum(inertia, force, rows, stiffness * pushing, reference)
        step = there - here
        gap, gap_step = rows @ here - reference, rows @ step
        slope, curvature = step @ (inertia @ here - force), step @ (inertia @ step)
        size = jnp.ones(())
        for _ in range(LINE_SEARCH):
            active = jnp.where(gap + size * gap_step < 0, stiffness * gap_step, 0.0)
            gradient = slope + size * curvature + active @ (gap + size * gap_step)
            size = jnp.clip(size - gradient / (curvature + active @ gap_step + 1e-12), 0.0, 1.0)
        after = here + size * step
        now = rows @ after < reference
        return after, now, ((now != pushing) & (stiffness > 0)).any(), count + 1

    start = guess, rows @ guess < reference, jnp.asarray(True), jnp.asarray(0)
    return jax.lax.while_loop(go_on, improve, start)[1]

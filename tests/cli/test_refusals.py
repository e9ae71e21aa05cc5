"""Training with options that cannot work: one line of advice, and nothing is written."""

import pytest

from diffsurrogate.__main__ import main

REFUSALS = {
    "shac vnas/dispersion": "did you mean 'vmas'",
    "shac++ vmas/dispersio": "dispersion",
    "shac++ paper/transprt": "transport",
    "shac diffsurrogate/cartpole-swingup --shac.horizon 0": "at least 1",
    "shac++ paper/dispersion --agents 0": "agents is 0",
    "shac diffsurrogate/cartpole-swingup --agents 3": "n_agents",
    "shac+ vmas/football": "dynamics",
    "shac paper/dispersion": "LearnedDiffWrapper",
    "shac diffsurrogate/cartpole-swingup --device cuda:97": "--device cpu",
    "shac diffsurrogate/cartpole-swingup --device abacus": "--device cpu",
    "shac diffsurrogate/cartpole-swingup --device meta": "--device cpu",
    "shac diffsurrogate/cartpole-swingup --seed -1": "at least 0",
    "shac diffsurrogate/cartpole-swingup --eval-steps 0": "at least 1",
    "shac diffsurrogate/cartpole-swingup --time-limit nan": "at least 0",
    "shac diffsurrogate/cartpole-swingup --resume": "check the path",
    "ippo paper/dispersion --network transformer": "see only",
    "sb3-ppo paper/dispersion --network transformer": "shared",
    "shac gymnasium/CartPole-v1": "no gradients of its own",
    "shac+ gymnasium/CartPole-v1": "Leave dynamics=True to learn one",
    "ppo paper/dispersion --shac.horizon 4": "--ppo.",
    "sb3-ppo paper/dispersion --ppo.horizon 4": "did you mean --sb3.horizon?",
    "mappo paper/dispersion --surrogates.fit.minibatches 4": "--ppo.",
    "ppo paper/dispersion --ppo.horizon 0": "at least 1",
    "sb3-ppo paper/dispersion --sb3.horizon 0": "at least 1",
    "sb3-ppo paper/dispersion --sb3.batch-size 1": "at least 2",
    "sb3-ppo paper/dispersion --sb3.hidden 0": "at least 1",
    "ppo paper/dispersion --ppo.actor.squash": "actor.squash False",
    "sb3-ppo gymnasium/CartPole-v1 --num-envs 1 --sb3.horizon 1": "raise num_envs",
    "sb3-ppo paper/dispersion --network shared-id": "mlp or shared",
    "sb3-sac games/climbing": "SAC needs continuous actions",
    "sb3-td3 gymnasium/CartPole-v1": "TD3 needs continuous actions",
    "sb3-sac paper/dispersion --network transformer": "sb3-sac has no transformer network",
    "sb3-td3 paper/dispersion --sb3.epochs 4": "sb3-td3 has no option --sb3.epochs",
    "sb3-sac paper/dispersion --sb3.noise-std 0.1": "sb3-sac has no option --sb3.noise-std",
    "sb3-sac paper/dispersion --sb3.target-decay 1": "in [0, 1)",
    "sb3-sac paper/dispersion --num-envs 5 --sb3.capacity 4": "raise the capacity",
    "sb3-sac paper/transport --preset paper": "the paper has no sb3-sac",
    "ippo paper/dispersion --network transformer-id": "see only themselves",
    "sb3-ppo paper/dispersion --network hyper-mlp": "mlp or share",
    "ippo paper/dispersion --network dico --agents 1": "there is 1",
    "ippo gymnasium/Pendulum-v1 --network dico": "there is 1",
    "mappo games/specialisation --network dico": "are discrete",
    "shac++ paper/dispersion --network hyper-mlp --preset paper": "no hyper-mlp network",
    "shac++ paper/dispersion --surrogates.reward.net dico": "values and models",
    "ippo vmas/navigation --network dico --ppo.actor.net.gru_size 5": "have no GRU; choose",
    "shac++ vmas/navigation --network transformer --shac.actor.net.gru-size 5": "have no GRU",
    "ppo games/climbing --shac.actor.net.gru_size 5": "did you mean --ppo.actor.net.gru-size?",
    "ppo games/climbing --ppo.lr 0.1": "did you mean --ppo.clip.lr?",
    "shac++ paper/dispersion --shac.critic.net.gru_size 5": "set value.capacity to 0",
    "bppo games/climbing --bppo.actor.net.gru_size 5": "one after another",
    "happo games/climbing --bppo.critic.net.gru_size 5": "agents in turn",
    "bppo games/climbing --network shared": "leave out --network",
    "bppo games/climbing --ppo.gamma 0.5": "--bppo.",
    "mappo games/climbing --bppo.gamma 0.5": "--ppo.",
    "bppo games/climbing --bppo.update-order random": "backward",
    "shac vmas/navigation": "--eval-steps",
    "shac++ vmas/navigation --shac.update hybird": "'hybird'; give one of gradient, hybrid",
    "shac++ vmas/navigation --shac.update": "give one of gradient, hybrid",
    "shac vmas/navigation --shac.update.gradient all": "give one of pathwise, all-action",
    "shac+ vmas/navigation --surrogates.dynamics rssm": "give one of step, awm",
    "shac vmas/navigation --surrogates.dynamics awm": "no option --surrogates.dynamics",
    "ppo vmas/navigation --shac.update hybrid": "no option --shac.update",
    "mappo paper/transport --preset paper": "the paper has no mappo",
    "ppo paper/transport --network shared --preset paper": "use --network mlp or transformer",
}
"""Arguments of `diffsurrogate train`, and a part of what is said."""


@pytest.mark.parametrize("arguments", REFUSALS)
def test_options_that_cannot_work_get_one_line_of_advice(arguments, tmp_path, capsys):
    out = tmp_path / "run"
    words = arguments.split()
    assert main(["train", *words[:2], "--out", str(out), *words[2:]]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert REFUSALS[arguments] in message
    assert not out.exists()

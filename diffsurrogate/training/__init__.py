"""The training loop: trainer, optimisation, evaluation, checkpoints and run folders."""

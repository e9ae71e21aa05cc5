"""`diffsurrogate sweep`: a search for hyperparameters, by Optuna."""

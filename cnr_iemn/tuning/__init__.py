"""Search of hyperparameters with Optuna."""

"""What a training run shows while it works: epoch lines, TensorBoard, MLflow, W&B."""

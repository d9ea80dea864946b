"""Files of a model: tensors and JSON written whole or not at all, checkpoints, the model folder, the Hub."""

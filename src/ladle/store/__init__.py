"""Files of a model: atomic writing of tensors and JSON, checkpoints, the model folder and the Hugging Face Hub."""

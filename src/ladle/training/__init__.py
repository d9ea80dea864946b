"""Training: the training loop, its budget and safeguards, distributed training, and the records it writes."""

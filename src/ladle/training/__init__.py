"""Training: the loop, its budget and safeguards, several devices, and what it records."""

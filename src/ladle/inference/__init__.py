"""log p(x) and p(z|x) of a given model: functions of batches, independent of model folders and data splits."""

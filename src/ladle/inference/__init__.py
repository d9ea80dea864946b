"""log p(x) and p(z|x) of a given model: batches in, numbers out. Nothing here knows a folder or a split."""

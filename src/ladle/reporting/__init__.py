"""The report: one page of panels that shows what a model has learned."""

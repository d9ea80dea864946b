"""Pictures of a model, and the report: one page that shows what it has learned."""

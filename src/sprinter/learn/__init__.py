"""Making drafts and verifiers: distillation, row collection, splits, fitting."""

"""The lean backend: fused projections, quantised weights, a compiled forward pass."""

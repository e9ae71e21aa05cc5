"""The papers' equations: tensors in, tensors out."""

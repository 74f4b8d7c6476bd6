"""Checkpoints as dictionaries of tensors: read, recognised, converted, merged and written."""

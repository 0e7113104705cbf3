"""Bytes each device holds: weights, KV cache, state, buffers."""

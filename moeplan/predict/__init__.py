"""Compose graph, memory and cost into a prediction."""

"""Budgets against predictions: what is asked, what is promised, what changed."""

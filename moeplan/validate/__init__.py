"""Predicted against measured: errors per row, per regime, worst first."""

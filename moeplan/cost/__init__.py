"""Time of one step: FLOPs, bytes moved, efficiencies."""

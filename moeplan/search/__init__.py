"""Legal candidates, what fits, what it costs, and the best plan with the reasons of the others."""

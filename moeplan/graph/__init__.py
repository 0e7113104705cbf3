"""From a ModelSpec to every weight tensor: the inventory, its types, its sums."""

"""What each engine does: KV layout, placement options, flags."""

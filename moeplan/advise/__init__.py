"""Rules that turn numbers into a sentence: caveats of the textbook, verdicts of a comparison."""

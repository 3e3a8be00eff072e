"""Turn what a user types into one library call each, and its result into a few lines."""

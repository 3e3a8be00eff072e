"""A package of its own, lest another project's `tests` among the installed ones be found first."""

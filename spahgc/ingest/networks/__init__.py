"""Networks that see patches: which are known, how each is built, where its weights come from."""

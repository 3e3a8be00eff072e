"""Read one slide folder each, into a `Slide`; never write, never know the store."""

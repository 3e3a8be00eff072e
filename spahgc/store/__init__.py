"""Hold the slides, the index over them and the runs made from them; know neither side."""

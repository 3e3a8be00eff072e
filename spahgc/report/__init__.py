"""Turn runs into the tables and pictures people look at."""

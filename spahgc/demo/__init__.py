"""Write synthetic slides in the true file formats, for the demo and the tests."""

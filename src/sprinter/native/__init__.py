"""What is compiled with the user's own compiler, and how it is built; optional everywhere."""

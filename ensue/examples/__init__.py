"""Small applications that are installed with Ensue, to run and to read."""

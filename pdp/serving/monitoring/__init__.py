"""What a program shows to those who watch it."""

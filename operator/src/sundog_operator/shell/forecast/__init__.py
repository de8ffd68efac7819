"""Commands that estimate how long a test takes."""

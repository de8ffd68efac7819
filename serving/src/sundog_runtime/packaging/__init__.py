"""Model packages: a folder of files with a digest."""

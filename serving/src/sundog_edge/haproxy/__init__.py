"""HAProxy: its configuration and maps, its command line, and its workers."""

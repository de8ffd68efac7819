"""The queue of keys to reconcile, and the keys that are idle."""

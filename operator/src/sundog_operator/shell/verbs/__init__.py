"""The commands of `sundog`, one module each."""

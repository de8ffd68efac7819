"""The commands of `sundog local`."""

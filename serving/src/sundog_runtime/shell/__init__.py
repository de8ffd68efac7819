"""Commands for models: `sundog package` and `sundog digest`."""

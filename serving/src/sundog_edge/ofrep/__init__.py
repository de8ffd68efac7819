"""Look-ups of the arm of a unit by the OpenFeature Remote Evaluation Protocol (OFREP)."""

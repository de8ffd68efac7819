"""Developers' tooling: generates the CRDs and the reference pages. Not part of the distribution."""

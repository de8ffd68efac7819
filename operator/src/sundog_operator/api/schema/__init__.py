"""The CustomResourceDefinitions, and how manifests are checked against the types."""

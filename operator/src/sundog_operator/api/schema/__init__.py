"""The CustomResourceDefinitions, and the validation of manifests by the types."""

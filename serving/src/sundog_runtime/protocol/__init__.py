"""The protocols that replicas speak: JSON and the Open Inference Protocol, over HTTP and gRPC."""

// Its CRDs are read from the module, and nothing is compiled: `go mod tidy` would drop the requirement.
module sundog.dev/tests/cluster/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0

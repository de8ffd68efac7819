// Its CRDs are read from the module, and nothing is compiled: `go mod tidy` would drop the requirement.
module sundog.dev/tests/cluster/gateway-api

go 1.26.0

require sigs.k8s.io/gateway-api v1.6.3

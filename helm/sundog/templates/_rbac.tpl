{{/*
What the operator may do in a namespace that it watches: a ClusterRole for all of them, or a Role in each of `watchNamespaces`.
Every verb here is one that the code uses; a test compares them. Nobody may be granted what the granter does not hold,
so the right to `sundog-edge`'s own Secret is here because each edge gets it.
*/}}
{{- define "sundog.rules" -}}
- apiGroups: [serving.sundog.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [serving.sundog.dev]
  resources: [modeldeployments/status, experiments/status]
  verbs: [patch]
# Admission asks for this of who names an owner that blocks (OwnerReferencesPermissionEnforcement, as on OpenShift).
- apiGroups: [serving.sundog.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
# The records of rollouts.
- apiGroups: [serving.sundog.dev]
  resources: [experiments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, list, watch, create, patch, update]
# The edge, and Ray's memory.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# For each edge the right to follow its own ConfigMap and Secret.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sundog-edge]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# Those that endpoints and models name: a role cannot know their names, but without `list` only names are found that users wrote down.
- apiGroups: [""]
  resources: [secrets]
  verbs: {{ ternary (list "get" "list" "watch") (list "get") .Values.installation.watchSecrets | toJson }}
{{- end }}

{{/* The Lease, in the operator's own namespace. A name cannot bind `create`. */}}
{{- define "sundog.leaderRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [sundog-operator]
  verbs: [get, update]
{{- end }}

{{/*
Permissions of the operator in a namespace that it watches: a ClusterRole for all of them, or a Role in each of `watchNamespaces`.
The operator uses every verb: a test compares them with the requests that the API server saw. `resourceNames` lists names that
are fixed. It also restricts creation by server-side apply, because such a request carries the name. Kubernetes lets an account
grant only permissions that it holds. The rules for `sundog-edge` include those of each edge, so the operator needs neither
`escalate` nor `bind`.
*/}}
{{- define "sundog.rules" -}}
- apiGroups: [serving.sundog.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [serving.sundog.dev]
  resources: [modeldeployments/status, experiments/status]
  verbs: [patch]
# With the admission plugin OwnerReferencesPermissionEnforcement, as on OpenShift, a blocking owner reference needs `update` of
# the owner's finalizers. A change of an object's owners needs `delete` of that object: some rules below have it for this reason.
- apiGroups: [serving.sundog.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
- apiGroups: [ray.io]
  resources: [rayclusters/finalizers]
  verbs: [update]
# Records of rollouts, and revisions.
- apiGroups: [serving.sundog.dev]
  resources: [experiments]
  verbs: [get, list, watch, create, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# RayClusters, their stores, their pods.
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [statefulsets]
  resourceNames: [sundog-edge-store]
  verbs: [delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [list]
# Devices that pods claim, for ModelDeployments with `allocation: dra`. The templates are named after revisions.
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [get, create]
# Why Kueue has not admitted a pod, for ModelDeployments with `scheduling.queue`.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
# Per ModelDeployment a Service and, if it names a Gateway, an HTTPRoute; then the objects of the namespace's edge.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, update, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [sundog-edge]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [serviceaccounts]
  resourceNames: [sundog-edge]
  verbs: [create, patch, delete]
- apiGroups: [""]
  resources: [services]
  resourceNames: [sundog-edge, sundog-edge-store]
  verbs: [delete]
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [sundog-edge]
  verbs: [get, list, watch, create, patch, delete]
# Whether a pod with the edge's label is one of the edge's Deployment.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  resourceNames: [sundog-edge, sundog-edge-store, sundog-ray, sundog-ray-heads, sundog-ray-workers, sundog-valkey]
  verbs: [get, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [list, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  resourceNames: [sundog-edge]
  verbs: [get, create, patch, delete]
# Claims and Secrets that users name in endpoints, models and environments. Without `list` the operator can read a Secret only
# by its name.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  verbs: {{ ternary (list "get" "create" "list" "watch") (list "get" "create") .Values.installation.watchSecrets | toJson }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sundog-edge]
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sundog-edge-store, sundog-ray]
  verbs: [update, delete]
{{- end }}

{{/* Permissions at cluster scope, if the operator watches all namespaces: it looks for GPUs on nodes. */}}
{{- define "sundog.clusterRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}

{{/* Permissions for the Lease, in the operator's namespace. `resourceNames` cannot restrict `create`. */}}
{{- define "sundog.leaderRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "sundog.lease" . }}]
  verbs: [get, update]
{{- end }}

{{/* Name of every object of the chart: the release's name, with `sundog` in it. At most 40 characters, because suffixes follow. */}}
{{- define "sundog.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "sundog" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-sundog" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Name of the Lease that elects the leader among the replicas of this release. */}}
{{- define "sundog.lease" -}}
{{- printf "%s-operator" (include "sundog.fullname" .) -}}
{{- end }}

{{- define "sundog.selector" -}}
app.kubernetes.io/name: sundog-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object of the chart. `managed-by: Helm` marks them; the operator's own objects carry `managed-by: sundog`. */}}
{{- define "sundog.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{ include "sundog.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: sundog
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with omit (.Values.commonLabels | default dict) "helm.sh/chart" "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/component" "app.kubernetes.io/part-of" "app.kubernetes.io/managed-by" }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* `commonAnnotations` as a field of an object's metadata; nothing if there are none. */}}
{{- define "sundog.annotations" -}}
{{- with .Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{- define "sundog.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "sundog.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: name the account, since serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Operator and edge share one image. No registry holds it yet, so there is no default. */}}
{{- define "sundog.image" -}}
{{- $repository := required "image.repository: name the image of the operator and the edge that you built with `make images`" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* Names of the claims that exposure logs may be written to, as a JSON list. */}}
{{- define "sundog.claims" -}}
{{- $claims := dict -}}
{{- range .Values.installation.exposureLogs.places -}}
{{- if hasPrefix "pvc://" . -}}
{{- $_ := set $claims (trimPrefix "pvc://" . | splitList "/" | first) true -}}
{{- end -}}
{{- end -}}
{{- keys $claims | sortAlpha | toJson -}}
{{- end }}

{{/* The operator's configuration file: the values of `installation`, and the fields that the chart fills in. */}}
{{- define "sundog.installation" -}}
{{- $installation := deepCopy .Values.installation -}}
{{- $_ := required "installation.runtimeImage: name the image with Ray, PyTorch and the model server" $installation.runtimeImage -}}
{{- if not $installation.edgeImage -}}
{{- $_ := set $installation "edgeImage" (include "sundog.image" .) -}}
{{- end -}}
{{- $_ := set $installation "watchNamespaces" (.Values.watchNamespaces | sortAlpha | uniq) -}}
{{- $policies := dict "enabled" .Values.networkPolicy.enabled "metricsFrom" (.Values.networkPolicy.metricsFrom | default list) -}}
{{- $_ := set $policies "apiServerPorts" .Values.networkPolicy.apiServerPorts -}}
{{- $_ := set $policies "operatorNamespace" .Release.Namespace -}}
{{- $_ := set $installation "networkPolicies" $policies -}}
{{- toYaml $installation -}}
{{- end }}

{{/* Port of the edge's agent. The operator sets the same port in the edge's pods. */}}
{{- define "sundog.agentPort" -}}9090{{- end }}

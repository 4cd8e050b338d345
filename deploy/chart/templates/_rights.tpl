{{/*
The rights of the agent itself. They are those of cluster.Rights in reconcile/cluster/rights.go: a test compares them.
*/}}

{{/* In the namespace of an environment's states and of its Lease. */}}
{{- define "sluice.rights.states" -}}
# The states of apps.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# One replica leads.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update]
{{- end }}

{{/* In each namespace that apps are in. */}}
{{- define "sluice.rights.apps" -}}
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Helm's records of releases.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, create, update, delete]
# Why pods are not ready.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
# What Flagger still steers is not touched.
- apiGroups: [flagger.app]
  resources: [canaries]
  verbs: [list]
# To warn about objects that match stable pods but not the canary's.
- apiGroups: [""]
  resources: [services]
  verbs: [list]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [autoscaling.k8s.io]
  resources: [verticalpodautoscalers]
  verbs: [list]
- apiGroups: [extensions.istio.io]
  resources: [wasmplugins]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list]
- apiGroups: [networking.istio.io]
  resources: [destinationrules, envoyfilters, proxyconfigs, sidecars, virtualservices]
  verbs: [list]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list]
- apiGroups: [security.istio.io]
  resources: [authorizationpolicies, peerauthentications, requestauthentications]
  verbs: [list]
- apiGroups: [telemetry.istio.io]
  resources: [telemetries]
  verbs: [list]
{{- end }}

{{/* In the whole cluster. */}}
{{- define "sluice.rights.cluster" -}}
# News of kinds.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
# What else leads the users of an app, in other namespaces, is warned of.
- apiGroups: [networking.istio.io]
  resources: [destinationrules, virtualservices]
  verbs: [list]
{{- end }}

{{/* What the charts of the environments may hold. */}}
{{- define "sluice.rights.charts" -}}
{{- range .Values.rights }}
- apiGroups: {{ .apiGroups | toJson }}
  resources: {{ .resources | toJson }}
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- with .Values.extraRules }}
{{ toYaml . }}
{{- end }}
{{- end }}

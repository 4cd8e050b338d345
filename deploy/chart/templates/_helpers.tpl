{{- define "sluice.name" -}}
{{- if contains "sluice" .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-sluice" .Release.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sluice.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "sluice.name" .) }}{{ else }}{{ required "serviceAccount.name: missing; expected a name where serviceAccount.create is false" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "sluice.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The namespaces of the environments' states, as a list in YAML. Those of apps are the same, and .Values.namespaces. */}}
{{- define "sluice.stateNamespaces" -}}
{{- $names := list }}
{{- range .Values.config.environments }}{{ $names = append $names (.namespace | default (printf "jx-%s" .name)) }}{{ end }}
{{- $names | uniq | sortAlpha | toYaml }}
{{- end }}

{{/* agent.yaml: what the values say, and what the chart says itself. */}}
{{- define "sluice.config" -}}
{{- $own := dict "apiVersion" "sluice.dev/v1alpha1" "kind" "Agent" "dataDir" "/var/lib/sluice" "listen" ":8080" "leaderElection" true }}
{{- merge $own .Values.config | toYaml }}
{{- end }}

{{/* The port of a URL; one without a scheme is git's short form of ssh. */}}
{{- define "sluice.port" -}}
{{- if contains "://" . }}
{{- $u := urlParse . }}
{{- $port := regexFind ":[0-9]+$" $u.host | trimPrefix ":" }}
{{- $port | default (get (dict "http" "80" "https" "443" "ssh" "22" "git+ssh" "22") $u.scheme) | default "443" }}
{{- else }}22{{ end }}
{{- end }}

{{/* The ports that the agent reaches, as a list in YAML. */}}
{{- define "sluice.ports" -}}
{{- $ports := list 443 6443 }}
{{- $ports = append $ports (include "sluice.port" .Values.config.prometheus.address | int) }}
{{- $charts := .Values.config.charts }}
{{- range .Values.config.environments }}{{ $charts = concat ($charts | default list) (.charts | default list) }}{{ end }}
{{- range $charts }}{{ $ports = append $ports (include "sluice.port" (.url | replace "oci://" "https://") | int) }}{{ end }}
{{- range .Values.config.environments }}
{{- range list .repository .upstream .status }}{{ with . }}{{ $ports = append $ports (include "sluice.port" .url | int) }}{{ end }}{{ end }}
{{- end }}
{{- range .Values.networkPolicy.ports }}{{ $ports = append $ports (int .) }}{{ end }}
{{- $ports | uniq | toYaml }}
{{- end }}

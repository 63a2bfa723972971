{{/* Egress rules, one for each destination. An empty list of peers is any address, on these ports. */}}
{{- define "medmim.toNames" -}}
# DNS: any address, since a node's own DNS cache is no pod.
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

{{- define "medmim.toStore" -}}
# The object store.
- ports: [{port: {{ include "medmim.storePort" . }}, protocol: TCP}]
  {{- with .Values.networkPolicy.objectStore }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "medmim.storePort" -}}
{{ include "medmim.port" (.Values.store.endpoint | default "https://aws") }}
{{- end }}

{{/* The port of an address. */}}
{{- define "medmim.port" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end }}

{{- define "medmim.toMlflow" -}}
{{- if .Values.mlflow.enabled }}
# MLflow.
- ports: [{port: 5000, protocol: TCP}]
  to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}}
      podSelector: {matchLabels: {app.kubernetes.io/name: medmim, app.kubernetes.io/component: mlflow}}
{{- else }}
# The MLflow that is there.
- ports: [{port: {{ include "medmim.port" .Values.mlflow.external.uri }}, protocol: TCP}]
  {{- with .Values.networkPolicy.mlflow }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "medmim.toApiServer" -}}
# The API server: as a service on 443, behind it on 6443.
- ports: [{port: 443, protocol: TCP}, {port: 6443, protocol: TCP}]
  {{- with .Values.networkPolicy.apiServer }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "medmim.toDatabase" -}}
# MLflow's PostgreSQL.
- ports: [{port: 5432, protocol: TCP}]
  {{- with .Values.networkPolicy.database }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "medmim.toKfp" -}}
# KFP: its API, its metadata, its own artifact store.
- to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.kfp.namespace }}}}}]
{{- end }}

{{/* What medmim.cluster.pod_templates reads. root; namespace */}}
{{- define "medmim.podTemplates" -}}
{{- $pods := .root.Values.runPods -}}
{{- range $role, $container := dict "step" "main" "head" "ray-head" "worker" "ray-worker" "submitter" "submitter" }}
{{- $own := get $pods $role }}
{{- $all := include "medmim.podTemplate" (dict "root" $.root "container" $container) | trim }}
{{- if or $all $own }}
{{ $role }}:
  {{- if $all }}
  - {{- $all | nindent 4 }}
  {{- end }}
  {{- with $own }}
  - {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- $queue := $pods.queue }}
{{- range .root.Values.runNamespaces }}{{ if eq .name $.namespace }}{{ $queue = .queue | default $queue }}{{ end }}{{ end }}
{{- with $queue }}
job: {kueue.x-k8s.io/queue-name: {{ . | quote }}}
{{- end }}
gpu: {{ toJson $pods.gpu }}
s3Secret: {{ and (not (empty .root.Values.store.existingSecret)) (empty .root.Values.accounts.step.annotations) }}
{{- end }}

{{/* What all pods of runs get, as a partial pod template; empty where that is nothing. root; container: its name in this role */}}
{{- define "medmim.podTemplate" -}}
{{- $values := .root.Values.runPods -}}
{{- $template := dict -}}
{{- $metadata := pick $values "labels" "annotations" -}}
{{- $spec := pick $values "nodeSelector" "tolerations" "volumes" -}}
{{- $container := pick $values "env" "volumeMounts" -}}
{{- if .root.Values.uidByNamespace -}}
{{- $_ := set $spec "securityContext" (dict "runAsUser" nil "runAsGroup" nil "fsGroup" nil) -}}
{{- end -}}
{{- if ne .root.Values.image.pullPolicy "IfNotPresent" -}}
{{- $_ := set $container "imagePullPolicy" .root.Values.image.pullPolicy -}}
{{- end -}}
{{- range $part := list $metadata $spec $container -}}
{{- range $key := keys $part }}{{ if empty (get $part $key) }}{{ $_ := unset $part $key }}{{ end }}{{ end -}}
{{- end -}}
{{- if $container }}{{ $_ := set $spec "containers" (list (set $container "name" .container)) }}{{ end -}}
{{- if $metadata }}{{ $_ := set $template "metadata" $metadata }}{{ end -}}
{{- if $spec }}{{ $_ := set $template "spec" $spec }}{{ end -}}
{{- if $template }}{{ toYaml $template }}{{ end -}}
{{- end }}

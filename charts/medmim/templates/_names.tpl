{{/* Labels of an object. Names are fixed, not the release's: the compiled pipeline refers to them, so one release a namespace. */}}
{{- define "medmim.labels" -}}
{{ include "medmim.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The labels that select our pods, in Services and NetworkPolicies. */}}
{{- define "medmim.selector" -}}
app.kubernetes.io/name: medmim
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "medmim.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Another image: by default the one beside medmim's own. root; own: what the values say of it; kind: what its name ends with */}}
{{- define "medmim.imageBeside" -}}
{{- $image := .root.Values.image -}}
{{ .own.repository | default (printf "%s-%s" $image.repository .kind) }}{{ if .own.digest }}@{{ .own.digest }}{{ else }}:{{ .own.tag | default $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The image with torch. */}}
{{- define "medmim.cudaImage" -}}
{{ include "medmim.imageBeside" (dict "root" . "own" .Values.cudaImage "kind" "cuda") }}
{{- end }}

{{- define "medmim.inferenceImage" -}}
{{ include "medmim.imageBeside" (dict "root" . "own" .Values.inference.image "kind" "inference") }}
{{- end }}

{{- define "medmim.consoleImage" -}}
{{ include "medmim.imageBeside" (dict "root" . "own" .Values.console.image "kind" "console") }}
{{- end }}

{{/* Every host name by which the console is reached; it refuses others. */}}
{{- define "medmim.consoleHosts" -}}
{{- $service := printf "medmim-console.%s" .Release.Namespace -}}
{{- $hosts := list "localhost" "127.0.0.1" "medmim-console" $service (printf "%s.svc" $service) (printf "%s.svc.%s" $service .Values.clusterDomain) -}}
{{- with .Values.console.ingress }}{{ if .enabled }}{{ $hosts = append $hosts .host }}{{ end }}{{ end -}}
{{ toJson (concat $hosts .Values.console.names) }}
{{- end }}

{{/* Where the cache is: where steps and Ray pods run, and where the model server does. */}}
{{- define "medmim.cacheNamespaces" -}}
{{- $names := list -}}
{{- range .Values.runNamespaces }}{{ $names = append $names .name }}{{ end -}}
{{- if .Values.inference.enabled }}{{ $names = append $names .Release.Namespace }}{{ end -}}
{{ toJson $names }}
{{- end }}

{{/* Where steps run: the run namespaces, and that where promoters start runs. */}}
{{- define "medmim.stepNamespaces" -}}
{{- $names := list -}}
{{- range .Values.runNamespaces }}{{ $names = append $names .name }}{{ end -}}
{{- with .Values.promotion.kfpNamespace }}{{ $names = append $names . }}{{ end -}}
{{ toJson $names }}
{{- end }}

{{/* The namespace of the nightly's runs. */}}
{{- define "medmim.nightlyNamespace" -}}
{{- $first := first .Values.runNamespaces | default dict -}}
{{ .Values.nightly.namespace | default (get $first "name") }}
{{- end }}

{{/* The nightly's key to the store. */}}
{{- define "medmim.nightlySecret" -}}
{{ .Values.nightly.s3Secret | default .Values.store.existingSecret }}
{{- end }}

{{- define "medmim.service" -}}
medmim-mlflow.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Where MLflow is: ours, or one that is there. */}}
{{- define "medmim.mlflowUri" -}}
{{ if .Values.mlflow.enabled }}http://{{ include "medmim.service" . }}:5000{{ else }}{{ .Values.mlflow.external.uri }}{{ end }}
{{- end }}

{{- define "medmim.mlflowCertificate" -}}
{{ if not .Values.mlflow.enabled }}{{ .Values.mlflow.external.certificate }}{{ end }}
{{- end }}

{{/* Every valid host name of MLflow's server; the list replaces the server's own. */}}
{{- define "medmim.allowedHosts" -}}
{{- $service := printf "medmim-mlflow.%s" .Release.Namespace -}}
{{- $names := list "medmim-mlflow" $service (printf "%s.svc" $service) (printf "%s.svc.%s" $service .Values.clusterDomain) -}}
{{- $hosts := list -}}
{{- range $names }}{{ $hosts = concat $hosts (list . (printf "%s:5000" .)) }}{{ end -}}
{{- $hosts = concat $hosts (list "localhost" "localhost:*") -}}
{{- if .Values.mlflow.ingress.enabled }}{{ $hosts = concat $hosts (list .Values.mlflow.ingress.host (printf "%s:*" .Values.mlflow.ingress.host)) }}{{ end -}}
{{- if .Values.mlflow.metrics.enabled }}{{ $hosts = append $hosts "$(POD_IP):5000" }}{{ end -}}
{{ join "," (concat $hosts .Values.mlflow.extraAllowedHosts) }}
{{- end }}

{{/* What values.schema.json cannot say: keys that depend on each other. */}}
{{- define "medmim.check" -}}
{{- if and (not .Values.mlflow.enabled) (not .Values.mlflow.external.uri) }}{{ fail "mlflow.external.uri: with mlflow.enabled: false, name the MLflow that is there: https://HOST" }}{{ end -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.external.uri }}{{ fail "mlflow.external.uri: an MLflow of the chart's own is installed as well; set mlflow.enabled: false" }}{{ end -}}
{{- if and .Values.mlflow.auth.enabled .Values.mlflow.appName }}{{ fail "mlflow.appName: mlflow.auth.enabled is an app of its own, basic-auth; give one of them" }}{{ end -}}
{{- if and (not .Values.mlflow.database.existingSecret) (gt (int .Values.mlflow.replicas) 1) }}{{ fail "mlflow.replicas: SQLite has one writer; set mlflow.database.existingSecret or leave it at 1" }}{{ end -}}
{{- if and .Values.mlflow.ingress.enabled (not .Values.mlflow.ingress.host) }}{{ fail "mlflow.ingress.host: an ingress needs it, and the server must know it" }}{{ end -}}
{{- if and .Values.mlflow.ingress.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.mlflowFrom) }}{{ fail "networkPolicy.mlflowFrom: name the ingress controller's pods, else the ingress cannot reach MLflow" }}{{ end -}}
{{- if and .Values.mlflow.metrics.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.mlflowFrom) }}{{ fail "networkPolicy.mlflowFrom: name Prometheus' pods, else mlflow.metrics are out of its reach" }}{{ end -}}
{{- if and .Values.mlflow.metrics.enabled .Values.mlflow.auth.enabled (not .Values.mlflow.metrics.existingSecret) }}{{ fail "mlflow.metrics.existingSecret: with mlflow.auth the server shows /metrics to its users only" }}{{ end -}}
{{- if and .Values.mlflow.auth.enabled (hasPrefix (printf "%s/" .Values.store.artifacts) (printf "%s/" .Values.store.mlflow)) }}{{ fail (printf "store.mlflow: %s is below store.artifacts, where steps may write: they could replace the code of the champion, past MLflow's users" .Values.store.mlflow) }}{{ end -}}
{{- if .Values.inference.enabled -}}
{{- with .Values.inference -}}
{{- if not .model }}{{ fail "inference.model: name the model that is served: models:/NAME@champion" }}{{ end -}}
{{- if ne (empty .access.identityHeader) (empty .access.proxies) }}{{ fail "inference.access.proxies: they and identityHeader belong together; from elsewhere than the ingress, anybody could send the header" }}{{ end -}}
{{- if not (or .access.tokensSecret .access.identityHeader .access.anyone) }}{{ fail "inference.access: say who may ask: tokensSecret, identityHeader with proxies, or anyone: true" }}{{ end -}}
{{- if and (eq .engine "vllm") (not .image.repository) }}{{ fail "inference.image.repository: name an image that has vLLM (docs/image.md)" }}{{ end -}}
{{- if and .ingress.enabled (not .ingress.host) }}{{ fail "inference.ingress.host: an ingress needs it" }}{{ end -}}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) }}{{ fail "inference.autoscaling.minReplicas: it is above maxReplicas" }}{{ end -}}
{{- if and (eq (toString .rollout.maxSurge) "0") (eq (toString .rollout.maxUnavailable) "0") }}{{ fail "inference.rollout: with maxSurge and maxUnavailable 0 no pod could be replaced" }}{{ end -}}
{{- if and (or .ingress.enabled .metrics.enabled) $.Values.networkPolicy.enabled (not $.Values.networkPolicy.inferenceFrom) }}{{ fail "networkPolicy.inferenceFrom: name the pods of the ingress controller and of Prometheus, else they cannot reach the model server" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if .Values.console.enabled -}}
{{- with .Values.console -}}
{{- if and .promotion.enabled (not (or .promotion.tokensSecret .promotion.identityHeader)) }}{{ fail "console.promotion: say who may promote: tokensSecret, or identityHeader with promoters and console.proxies" }}{{ end -}}
{{- if and .promotion.enabled .promotion.identityHeader (not $.Values.console.proxies) }}{{ fail "console.proxies: name the networks of the ingress; from elsewhere, anybody could send console.promotion.identityHeader" }}{{ end -}}
{{- if and .promotion.enabled (ne (empty .promotion.identityHeader) (empty .promotion.promoters)) }}{{ fail "console.promotion.promoters: they and identityHeader belong together: whom the ingress names, and who of them may promote" }}{{ end -}}
{{- if and .promotion.enabled .promotion.identityHeader (not (and $.Values.networkPolicy.enabled $.Values.networkPolicy.consoleFrom)) }}{{ fail "networkPolicy.consoleFrom: name the ingress controller's pods, and leave networkPolicy.enabled on; console.proxies is a network of many pods, and any of them could send console.promotion.identityHeader" }}{{ end -}}
{{- if and .ingress.enabled (not .ingress.host) }}{{ fail "console.ingress.host: an ingress needs it, and the console must know it" }}{{ end -}}
{{- if and .ingress.enabled $.Values.networkPolicy.enabled (not $.Values.networkPolicy.consoleFrom) }}{{ fail "networkPolicy.consoleFrom: name the ingress controller's pods, else the ingress cannot reach the console" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.cache.hostPath .Values.cache.existingClaim }}{{ fail "cache.hostPath: cache.existingClaim is given as well; give one of them" }}{{ end -}}
{{- if .Values.nightly.enabled -}}
{{- $recipe := trim .Values.nightly.recipe -}}
{{- if not $recipe }}{{ fail "nightly.recipe: give the recipe to run, --set-file nightly.recipe=mine.yaml" }}{{ end -}}
{{- if contains "\n" $recipe -}}
{{- if not (regexMatch "(?m)^[{]?[\"']?name[\"']?:" $recipe) }}{{ fail "nightly.recipe: the text has no line name: ..., so it is no recipe's YAML; give the file by --set-file nightly.recipe=mine.yaml" }}{{ end -}}
{{- else if not (regexMatch "^[a-z0-9-]+$" $recipe) }}{{ fail (printf "nightly.recipe: '%s' is no shipped recipe's name, and a file is given by --set-file nightly.recipe=mine.yaml" $recipe) }}{{ end -}}
{{- if not (or .Values.image.digest (eq .Values.image.pullPolicy "Never")) }}{{ fail "image.digest: the nightly's pods reach no registry, so its runs' image must be named by digest" }}{{ end -}}
{{- if not (or .Values.cudaImage.digest (eq .Values.image.pullPolicy "Never")) }}{{ fail "cudaImage.digest: the nightly's pods reach no registry, so its runs' image with torch must be named by digest" }}{{ end -}}
{{- if not (include "medmim.nightlyNamespace" .) }}{{ fail "nightly.namespace: name the namespace of its runs, one of runNamespaces" }}{{ end -}}
{{- $runs := list -}}{{- range .Values.runNamespaces }}{{ $runs = append $runs .name }}{{ end -}}
{{- if not (has (include "medmim.nightlyNamespace" .) $runs) }}{{ fail (printf "nightly.namespace: %s is none of runNamespaces" .Values.nightly.namespace) }}{{ end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range .Values.runNamespaces -}}
{{- if eq .name $.Release.Namespace }}{{ fail (printf "runNamespaces: %s is the release's own namespace; steps could read the promoter's and MLflow's Secrets there" .name) }}{{ end -}}
{{- if hasKey $seen .name }}{{ fail (printf "runNamespaces: %s is named twice" .name) }}{{ end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- with .Values.promotion.kfpNamespace -}}
{{- if or (eq . $.Release.Namespace) (hasKey $seen .) }}{{ fail (printf "promotion.kfpNamespace: %s is %s; runs may read every Secret of theirs, and only promoters may start runs there" . (ternary "one of runNamespaces" "the release's own namespace" (hasKey $seen .))) }}{{ end -}}
{{- end -}}
{{- end }}

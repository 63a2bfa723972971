{{/* Of a pod, and of every account: KFP's pods and Ray's name no secret of their own. */}}
{{- define "medmim.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The part of a pod's spec that is the same everywhere. root; account; token: whether it speaks to the API server; like: .Values.mlflow, .Values.jobs, .Values.inference or .Values.console; disk: most GiB in its home, without: no bound; image: where it is not medmim's */}}
{{- define "medmim.pod" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false # a Service named mlflow would set MLFLOW_PORT
securityContext:
  runAsNonRoot: true
  {{- if not .root.Values.uidByNamespace }}
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001 # else a volume is root's
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- include "medmim.pullSecrets" .root }}
{{- with .like.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .like.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .like.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - {name: tmp, emptyDir: {{ ternary "{sizeLimit: 2Gi}" "{}" (hasKey . "disk") }}}
  - {name: home, emptyDir: {{ hasKey . "disk" | ternary (printf "{sizeLimit: %vGi}" .disk) "{}" }}}
  - name: ca
    configMap: {name: medmim-ca, optional: true}
  {{- with .like.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The same of a container. */}}
{{- define "medmim.container" -}}
image: {{ .image | default (include "medmim.image" .root) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
resources: {{- toYaml .like.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "medmim.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /home/medmim}
- {name: ca, mountPath: /etc/medmim/ca, readOnly: true}
{{- with .like.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Settings by reference. s3, mlflow: names of Secrets, empty for none. patience: seconds, where it is not that of all. */}}
{{- define "medmim.env" -}}
{{- range list "MEDMIM_STORE" "MEDMIM_PATIENCE" "MLFLOW_TRACKING_URI" "MLFLOW_TRACKING_SERVER_CERT_PATH" "AWS_ENDPOINT_URL" "AWS_REGION" "AWS_CA_BUNDLE" "MEDMIM_CACHE_CLAIM" }}
- name: {{ . }}
  {{- if and $.patience (eq . "MEDMIM_PATIENCE") }}
  value: {{ $.patience | quote }}
  {{- else }}
  valueFrom: {configMapKeyRef: {name: medmim, key: {{ . }}, optional: true}}
  {{- end }}
{{- end }}
{{- include "medmim.s3" . }}
{{- with .mlflow }}
{{- range list "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" "MLFLOW_TRACKING_TOKEN" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.mlflow }}, key: {{ . }}, optional: true}}
{{- end }}
{{- end }}
{{- with .like.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "medmim.s3" -}}
{{- if .s3 }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.s3 }}, key: {{ . }}, optional: {{ $.optional | default false }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* MLflow's database: SQLite on the volume, or a URI that only a Secret knows. */}}
{{- define "medmim.database" -}}
- name: MLFLOW_BACKEND_STORE_URI
{{- if .Values.mlflow.database.existingSecret }}
  valueFrom: {secretKeyRef: {name: {{ .Values.mlflow.database.existingSecret }}, key: {{ .Values.mlflow.database.key }}}}
{{- else }}
  value: sqlite:////data/mlflow.db
{{- end }}
{{- end }}

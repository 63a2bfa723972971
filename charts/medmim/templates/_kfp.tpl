{{/* What KFP wants an account of runs to have in a namespace. root; component; account; namespace */}}
{{- define "medmim.kfpRole" -}}
# KFP's stock rules for the pods of a run, word for word, since KFP gives its launcher and Argo's sidecar this account:
# manifests/kustomize/base/pipeline/pipeline-runner-role.yaml of kubeflow/pipelines 2.17.0. medmim uses none of them.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .account }}-kfp
  namespace: {{ .namespace }}
  labels: {{- include "medmim.labels" . | nindent 4 }}
rules:
  # Credentials of KFP's own artifact store.
  - apiGroups: [""]
    resources: [secrets]
    verbs: [get]
  # `kfp-launcher`: where KFP's artifacts go.
  - apiGroups: [""]
    resources: [configmaps]
    verbs: [get, watch, list]
  # Components that make and delete volumes.
  - apiGroups: [""]
    resources: [persistentvolumes, persistentvolumeclaims]
    verbs: ["*"]
  # ... and snapshots of them.
  - apiGroups: [snapshot.storage.k8s.io]
    resources: [volumesnapshots]
    verbs: [create, delete, get]
  # Argo's executor reads the Workflow that it is part of.
  - apiGroups: [argoproj.io]
    resources: [workflows]
    verbs: [get, list, watch, update, patch]
  # Argo's executor watches its pod; components may start pods and services.
  - apiGroups: [""]
    resources: [pods, pods/exec, pods/log, services]
    verbs: ["*"]
  # Components that deploy.
  - apiGroups: ["", apps, extensions]
    resources: [deployments, replicasets]
    verbs: ["*"]
  # Kubeflow's training jobs and the like.
  - apiGroups: [kubeflow.org]
    resources: ["*"]
    verbs: ["*"]
  # Components that start Jobs.
  - apiGroups: [batch]
    resources: [jobs]
    verbs: ["*"]
  # Components that serve models by Seldon.
  - apiGroups: [machinelearning.seldon.io]
    resources: [seldondeployments]
    verbs: ["*"]
  # How Argo's executor reports a step's outputs.
  - apiGroups: [argoproj.io]
    resources: [workflowtaskresults]
    verbs: [create, patch]
  # KFP's MLflow plug-in.
  - apiGroups: [mlflow.kubeflow.org]
    resources: [experiments]
    verbs: [get, list, create, update]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .account }}-kfp
  namespace: {{ .namespace }}
  labels: {{- include "medmim.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .account }}-kfp
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ .namespace }}
{{- end }}

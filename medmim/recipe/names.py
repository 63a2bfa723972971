"""What recipe, chart, compiled pipelines and pods must call the same. The chart and the IR are tested against it."""

USER = 10001  # uid and gid of medmim's image
HOME = "/home/medmim"  # of that user
CA_FOLDER = "/etc/medmim/ca"  # where ConfigMap CA_CONFIG_MAP is mounted; its key is ca.crt
CA_FILE = f"{CA_FOLDER}/ca.crt"
CA_KEYS = ("AWS_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH")  # settings that name a file there

CACHE_FOLDER = "/var/cache/medmim"  # MEDMIM_CACHE of pods: where the claim MEDMIM_CACHE_CLAIM is mounted
RAW_FOLDER = "/var/lib/medmim/raw"  # of the data step and its Ray job: where the claim MEDMIM_RAW_CLAIM is mounted

SETTINGS = "medmim"  # the ConfigMap of a run namespace: where store and MLflow are, and what is no secret
SETTINGS_KEYS = (
    "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_CA_BUNDLE", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MEDMIM_STORE", "MEDMIM_IMAGE", "MEDMIM_CUDA_IMAGE", "MEDMIM_PATIENCE", "MEDMIM_APPROVAL", "MEDMIM_CACHE_CLAIM",
    "MEDMIM_CACHE_GIB", "MEDMIM_RAW_CLAIM", "MEDMIM_PROMOTER_NAMESPACE", "MEDMIM_GATE_POLICY", "MEDMIM_PODS",
)  # fmt: skip
CA_CONFIG_MAP = "medmim-ca"

S3_SECRET = "medmim-s3"  # noqa: S105  a name
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TRACKING_SECRET = "medmim-mlflow"  # noqa: S105  a name
LOGIN_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
TRACKING_KEYS = (*LOGIN_KEYS, "MLFLOW_TRACKING_TOKEN")  # a user, or a token

STEP_ACCOUNT, RAY_ACCOUNT, SWEEP_ACCOUNT = "medmim-step", "medmim-ray", "medmim-sweep"
PROMOTER = "medmim-promoter"  # its account, and the PodTemplate of its Jobs

RAY_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}  # Ray's own defaults

KFP_VERSION = "2.17.0"  # of SDK and server
KFP_NAMESPACE = "kubeflow"  # where KFP's own manifests put it
RUN_ID = "MEDMIM_KFP_RUN"  # in a step's environment: KFP's id of the run
KFP_SERVICE = "ml-pipeline"  # of its API
KFP_ENDPOINT = f"http://{KFP_SERVICE}.{KFP_NAMESPACE}:8888"

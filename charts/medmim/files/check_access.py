"""helm test: this pod's account may do what is asked of it, and not what starts with `not`.

Each argument: [not] VERB RESOURCE[.GROUP] [NAMESPACE], by default in this pod's namespace.
"""

import sys

from kubernetes import client

from medmim.cluster.kube import connect

cluster = connect()
api, here = client.AuthorizationV1Api(cluster.api), cluster.namespace
wrong = []
for asked in sys.argv[1:]:
    words = asked.removeprefix("not ").split()
    resource, _, group = words[1].partition(".")
    resource, _, part = resource.partition("/")
    namespace = words[2] if len(words) > 2 else here
    attributes = {"verb": words[0], "resource": resource, "group": group, "namespace": namespace}
    if part:
        attributes["subresource"] = part
    review = {"spec": {"resourceAttributes": attributes}}
    allowed = api.create_self_subject_access_review(review).status.allowed
    if allowed == asked.startswith("not "):
        wrong.append(f"it may {'' if allowed else 'not '}{words[0]} {words[1]} (in {namespace})")
if wrong:
    sys.exit("error: this account's rights are not the chart's\n" + "\n".join(f"  - {line}" for line in wrong))
sys.stdout.write(f"{len(sys.argv) - 1} rights are as they should be\n")

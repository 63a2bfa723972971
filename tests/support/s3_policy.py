"""AWS' evaluation of the policies in infra/s3, as far as they go: actions, resources and conditions of S3 requests.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html, and for the two conditions
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes-enforce.html
"""

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

POLICIES = Path(__file__).parents[2] / "infra" / "s3"


def load(role: str, bucket: str) -> Any:
    """A policy of infra/s3 for another bucket."""
    return json.loads((POLICIES / f"{role}.json").read_text("utf-8").replace("s3:::medmim", f"s3:::{bucket}"))


def evaluated(*policies: Any) -> Callable[[str, str, Mapping[str, str]], bool]:
    """Whether a user with these policies may send a request: something allows it, and nothing denies it."""
    statements = [statement for policy in policies for statement in policy["Statement"]]

    def allows(method: str, target: str, headers: Mapping[str, str]) -> bool:
        action, resource, context = _asked(method, target, {key.lower(): value for key, value in headers.items()})
        effects = {one["Effect"] for one in statements if _applies(one, action, resource, context)}
        return effects == {"Allow"}

    return allows


def _asked(method: str, target: str, headers: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
    """Action, resource and condition keys of a request."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).strip("/").partition("/")
    versions = "Version" if "versionId" in query else ""
    context = {"s3:if-none-match": headers["if-none-match"]} if "if-none-match" in headers else {}
    if not key:
        about = {"location": "s3:GetBucketLocation", "versions": "s3:ListBucketVersions"}
        listed = next((action for name, action in about.items() if name in query), "s3:ListBucket")
        return (listed if method in ("GET", "HEAD") else f"s3:{method}Bucket"), f"arn:aws:s3:::{bucket}", context
    if method in ("PUT", "POST"):
        makes = "partNumber" not in query and "uploads" not in query
        action, context = "s3:PutObject", {**context, "s3:ObjectCreationOperation": str(makes).lower()}
    elif method == "DELETE":
        action = "s3:AbortMultipartUpload" if "uploadId" in query else f"s3:DeleteObject{versions}"
    else:
        action = f"s3:GetObject{versions}"
    return action, f"arn:aws:s3:::{bucket}/{key}", context


def _applies(statement: Any, action: str, resource: str, context: Mapping[str, str]) -> bool:
    named = any(fnmatchcase(resource, one) for one in statement.get("Resource") or statement["NotResource"])
    return (
        action in statement["Action"]
        and named is ("Resource" in statement)
        and all(_holds(how, wanted, context) for how, wanted in statement.get("Condition", {}).items())
    )


def _holds(how: str, wanted: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    tests: dict[str, Callable[[str, Any], bool]] = {
        "StringLike": lambda key, patterns: any(fnmatchcase(context.get(key, ""), one) for one in patterns),
        "Null": lambda key, value: (key not in context) is (value == "true"),
        "BoolIfExists": lambda key, value: context.get(key, value) == value,
    }
    return all(tests[how](key, value) for key, value in wanted.items())

"""A step as a pipeline of one task, for graphs of one's own: with its pod, and not cached (docs/components.md)."""

import inspect
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.types.type_annotations import get_io_artifact_class

from pipelines.pod import in_pod


def one_step(component: Any) -> BaseComponent:
    """The pipeline of one component; inputs and outputs are the component's, its name is medmim-step-NAME.

    A component compiled alone has neither settings, secrets nor a security context, and KFP would cache it.

    Args:
        component: A component of `components/`.
    """
    signature = inspect.signature(component.python_func)
    inputs = [one for name, one in signature.parameters.items() if name in component.component_spec.inputs]
    artifacts = [(name, one.annotation) for name, one in signature.parameters.items() if one not in inputs]
    outputs = _outputs(artifacts)

    def graph(*values: Any) -> Any:
        task = in_pod(component(**dict(zip((one.name for one in inputs), values, strict=True))))
        return outputs(*(task.outputs[name] for name, _ in artifacts)) if artifacts else task.output

    graph.__name__ = component.name
    graph.__doc__ = inspect.getdoc(component.python_func)
    graph.__signature__ = signature.replace(parameters=inputs, return_annotation=outputs)  # type: ignore[attr-defined]
    return dsl.pipeline(name=f"medmim-step-{component.name}")(graph)


def _outputs(artifacts: list[tuple[str, Any]]) -> Any:
    """What a graph returns: a component writes its artifacts through parameters, a graph cannot."""
    if not artifacts:
        return str
    return NamedTuple("Outputs", [(name, get_io_artifact_class(kind)) for name, kind in artifacts])

from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from sundog_operator.api.experiment.experiment import Experiment
from sundog_operator.api.experiment.status import ExperimentStatus
from sundog_operator.api.model_deployment.model_deployment import ModelDeployment
from sundog_operator.api.model_deployment.status import ModelDeploymentStatus
from sundog_operator.api.schema.crds import root_schema


@pytest.fixture(scope="session")
def admission_of_status() -> Callable[[Any], list[str]]:
    """What the CRD has against a status."""
    kinds = {ModelDeploymentStatus: ModelDeployment, ExperimentStatus: Experiment}
    schemas = {status: root_schema(kind)["properties"]["status"] for status, kind in kinds.items()}

    def errors(status: Any) -> list[str]:
        return [
            error.message for error in jsonschema.Draft4Validator(schemas[type(status)]).iter_errors(status.to_json())
        ]

    return errors

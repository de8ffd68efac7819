"""What `sundog doctor --cluster` expects of a cluster is what the chart needs."""

import re

import pytest
import yaml

from charting import CHART, NAMESPACE, ROOT, cases, templates, values
from sundog_operator.api.installation import FeedbackStore, parse_installation
from sundog_operator.shell.cluster_checks import checks
from sundog_operator.shell.cluster_checks.planned_release import (
    CRDS,
    DEFAULT_RELEASE,
    POLICIES,
    PlannedRelease,
    read_release,
)


def rendered(case: str) -> PlannedRelease:
    """Read what `helm template` prints of a case."""
    return read_release(
        "---\n".join(text for path, text in templates(values(case)).items() if path.endswith(".yaml")).encode()
    )


def resources_in(release: PlannedRelease, namespace: str) -> set[str]:
    return {resource.partition(".")[0] for resource, where in release.resources if where == namespace}


def test_the_default_release_is_the_charts_rendering_of_its_default_values() -> None:
    found = rendered("smallest")
    assert found.resources == DEFAULT_RELEASE.resources
    assert (found.namespace, DEFAULT_RELEASE.namespace) == (NAMESPACE, NAMESPACE)


def test_resources_follow_the_values() -> None:
    bare, namespaced = rendered("bare"), rendered("namespaced")
    assert resources_in(bare, NAMESPACE) == {"configmaps", "deployments", "services"}
    assert not bare.has_resource(CRDS)
    assert not bare.has_resource(POLICIES)
    assert resources_in(namespaced, "vision") == resources_in(namespaced, "speech") == {"roles", "rolebindings"}
    assert resources_in(namespaced, "") == set()
    assert resources_in(rendered("everything"), NAMESPACE) >= {"podmonitors", "servicemonitors", "prometheusrules"}


@pytest.mark.parametrize("case", ["smallest", "everything"])
def test_images_are_those_of_the_operator_and_of_what_it_plans(case: str) -> None:
    """The operator's is the first: a probe runs Python in it."""
    [deployment] = [each for each in yaml.safe_load_all(templates(values(case))["templates/deployment.yaml"]) if each]
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    release = rendered(case)
    assert (release.images[0].name, release.images[0].policy) == (container["image"], container["imagePullPolicy"])
    assert set(release.pull_secrets) >= {each["name"] for each in pod.get("imagePullSecrets", ())}
    assert release.installation is not None
    planned = {release.installation.edge_image, release.installation.runtime_image}
    stores = {FeedbackStore().image} if case == "smallest" else set()
    assert {each.name for each in release.images} == {container["image"], *planned, *stores}


def test_the_pod_of_helm_test_is_not_created_by_an_installation() -> None:
    assert "pods" not in resources_in(rendered("smallest"), NAMESPACE)


@pytest.mark.parametrize("case", cases())
def test_settings_are_those_of_the_rendered_config_map(case: str) -> None:
    (text,) = [
        document["data"]["installation.yaml"]
        for document in yaml.safe_load_all(templates(values(case))["templates/installation.yaml"])
    ]
    assert rendered(case).installation == parse_installation(text, case)


def test_permissions_are_those_of_helm_for_each_resource_and_its_record() -> None:
    asked = set(rendered("namespaced").find_permissions())
    assert {
        ("create", "roles.rbac.authorization.k8s.io", "vision"),
        ("escalate", "roles.rbac.authorization.k8s.io", "speech"),
    } <= asked
    assert ("patch", "deployments.apps", NAMESPACE) in asked
    record = {verb for verb, resource, namespace in asked if (resource, namespace) == ("secrets", NAMESPACE)}
    assert record >= {"get", "list", "create", "update"}
    assert {verb for verb, resource, _ in asked if resource == "rolebindings.rbac.authorization.k8s.io"} == {
        "get",
        "create",
        "patch",
    }
    assert ("create", CRDS, "") in DEFAULT_RELEASE.find_permissions()


def test_versions_are_those_of_the_chart_the_tests_and_the_runtime_image() -> None:
    oldest = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert oldest.startswith(f">={'.'.join(map(str, checks.KUBERNETES_VERSION))}.")
    [kuberay] = re.findall(r"ray-operator v(\d+)\.(\d+)", (ROOT / "tests/cluster/go/kuberay/go.mod").read_text())
    assert tuple(map(int, kuberay)) == checks.KUBERAY_VERSION
    cuda = re.findall(r"PyTorch \S+ for CUDA (\d+)", (ROOT / "images" / "README.md").read_text())
    assert (cuda, checks.DRIVER_BRANCH) == (["13"], 580), "NVIDIA's driver 580 is the oldest one for CUDA 13"

"""Check what a release takes and needs no account: `make release-check`. Files of the release go to out/release."""

import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from releasing import artifacts, audit, locks
from releasing.programs import CheckError, NotRunError, go_program, run

OUTPUT: Final = Path("out/release")
SUMS: Final = "SHA256SUMS"


@dataclass(frozen=True)
class Checkout:
    """The checkout of a release. `tag` is empty before it is tagged."""

    root: Path
    tag: str = ""

    @property
    def output(self) -> Path:
        """The folder for the files of the release."""
        return self.root / OUTPUT


def check_locks(checkout: Checkout) -> str:
    """Compare the locks with pyproject.toml, constraints.txt and the index."""
    if found := locks.find_stale(checkout.root):
        raise CheckError(f"{'; '.join(found)}. Run `make locks`.")
    try:
        found = locks.find_outdated(checkout.root)
    except locks.LockError as error:
        raise NotRunError(f"belong to pyproject.toml, but not compared with an index: {error}"[:300]) from None
    if found:
        raise CheckError(f"{'; '.join(found)}. Run `make locks`.")
    return "those of pyproject.toml and the index"


def check_versions(checkout: Checkout) -> str:
    """Compare the version of the package with those of the chart, the changelog and the tag."""
    version = str(tomllib.loads((checkout.root / "pyproject.toml").read_text())["project"]["version"])
    chart = (checkout.root / "helm" / "sundog" / "Chart.yaml").read_text()
    for field in ("version", "appVersion"):
        (found,) = re.findall(rf"^{field}: (\S+)$", chart, re.MULTILINE)
        if found != version:
            raise CheckError(f"Chart.yaml {field}: {found}; expected {version}, the version of pyproject.toml")
    if not checkout.tag:
        return version
    if checkout.tag != f"v{version}":
        raise CheckError(f"tag {checkout.tag}; expected v{version}, the version of pyproject.toml")
    changelog = (checkout.root / "CHANGELOG.md").read_text()
    if f"\n## [{version}]" not in changelog:
        raise CheckError(f"CHANGELOG.md: no heading [{version}]. Move the entries of [Unreleased] below it.")
    unreleased = changelog.partition("\n## [Unreleased]\n")[2].partition("\n## [")[0]
    if unreleased.strip():
        raise CheckError(f"CHANGELOG.md: [Unreleased] has entries; expected none. Move them below [{version}].")
    return f"{version}, as the tag and the changelog"


def check_base(checkout: Checkout) -> str:
    """Find out whether the base image is pinned."""
    text = (checkout.root / "images" / "operator-edge.Containerfile").read_text()
    (base,) = re.findall(r"^ARG BASE=(.+)$", text, re.MULTILINE)
    if "@sha256:" not in base:
        raise NotRunError(f"{base} has no digest. The release workflow pins it by images/pin-base.")
    return str(base)


def check_wheel(checkout: Checkout) -> str:
    """Build the wheel twice."""
    time = artifacts.commit_time(checkout.root)
    return artifacts.build_twice(
        lambda source, target, umask: artifacts.build_wheel(source, target, time, umask),
        checkout.root,
        checkout.output,
    )


def check_chart(checkout: Checkout) -> str:
    """Lint the chart, and package it twice."""
    cases = sorted((checkout.root / "tests/contract/chart/cases").glob("*.yaml"))
    for case in cases:
        chart = checkout.root / "helm" / "sundog"
        run(go_program("helm"), "lint", "--strict", "--quiet", chart, "--values", case)
    return artifacts.build_twice(
        lambda source, target, _: artifacts.package_chart(source, target), checkout.root, checkout.output
    )


def check_chart_signature(checkout: Checkout) -> str:
    """Sign the chart and verify it. The signature by the project's key belongs to the files of the release."""
    if not shutil.which("gpg"):
        raise NotRunError("gpg is not installed")
    time = artifacts.commit_time(checkout.root)
    with tempfile.TemporaryDirectory() as folder, artifacts.signing_key() as key:
        source = artifacts.export(checkout.root, Path(folder) / "source", time)
        signature = artifacts.sign_chart(source, Path(folder), key)
        package = signature.with_suffix("")
        published = checkout.output / package.name
        if artifacts.digest(package) != artifacts.digest(published):
            raise CheckError(f"{package.name}: the signed package differs from {published}")
        if key.is_of_project:
            shutil.copy(signature, checkout.output)
    holder = f"the key {key.name!r}" if key.is_of_project else "a key of this check"
    return f"by {holder}; helm verify accepts the package, and refuses a changed one"


def check_bills(checkout: Checkout) -> str:
    """Write the bill of materials of each image twice."""
    names = [
        artifacts.build_twice(
            lambda source, target, _, image=image: artifacts.write_bill(source, image, target),  # type: ignore[misc]
            checkout.root,
            checkout.output,
        ).split()[0]
        for image in artifacts.BILLS
    ]
    return ", ".join(names)


def check_advisories(checkout: Checkout) -> str:
    """Ask about known vulnerabilities."""
    return audit.audit(checkout.root)


def check_workflows(checkout: Checkout) -> str:
    """Check the workflows by actionlint."""
    files = sorted((checkout.root / ".github" / "workflows").glob("*.yml"))
    if not files:
        raise CheckError(".github/workflows: no workflow found")
    run(go_program("actionlint"), *files, cwd=checkout.root)
    return ", ".join(path.name for path in files)


CHECKS: Final[dict[str, Callable[[Checkout], str]]] = {
    "locks": check_locks,
    "versions": check_versions,
    "base image": check_base,
    "wheel": check_wheel,
    "chart": check_chart,
    "chart's signature": check_chart_signature,
    "bills of materials": check_bills,
    "advisories": check_advisories,
    "workflows": check_workflows,
}


def check(checkout: Checkout, show: Callable[[str], None], required: frozenset[str] = frozenset()) -> bool:
    """Run all checks, show a line for each, and return whether none failed.

    A check that could not run fails if it is required. Files of the release get a list of their digests.
    """
    shutil.rmtree(checkout.output, ignore_errors=True)
    checkout.output.mkdir(parents=True)
    has_passed = True
    for name, run_check in CHECKS.items():
        try:
            show(f"ok       {name}: {run_check(checkout)}")
        except NotRunError as reason:
            has_passed = has_passed and name not in required
            show(f"{'FAILED ' if name in required else 'not run'}  {name}: {reason}")
        except CheckError as error:
            has_passed = False
            show(f"FAILED   {name}: {error}")
    files = sorted(checkout.output.iterdir())
    sums = (f"{artifacts.digest(path).removeprefix('sha256:')}  {path.name}\n" for path in files)
    (checkout.output / SUMS).write_text("".join(sums), encoding="utf-8")
    return has_passed

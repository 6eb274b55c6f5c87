"""Manifests, and the schemas to hold them against: Kubernetes' own, Strimzi's and KEDA's, as their makers publish them.

Every schema is strict: a field that it does not know is an error, as it would be for `kubectl apply`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from support.go_tools import GoError, cache, go_program, go_sources
from support.jars import JARS

from tutelage.deploy.local.programs import StackError, find_java, maven_artifact

Document = dict[str, Any]
KUBERNETES, STRIMZI, KEDA = "1.37.0", "1.2.0", "2.21.0"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.2"
KUBECONFORM = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
_STRIMZI_KINDS = {
    "Kafka": "kafka",
    "KafkaNodePool": "nodepool",
    "KafkaTopic": "topic",
    "KafkaUser": "user",
}
_TIMEOUT_S = 600


class MissingTool(Exception):
    """Something could not be fetched here; the message says what and why."""


class Manifests(list[Document]):
    """What is built of an overlay."""

    def of(self, *kinds: str) -> list[Document]:
        """All of some kinds."""
        return [each for each in self if each["kind"] in kinds]

    def names(self, kind: str) -> set[str]:
        """The names of a kind."""
        return {each["metadata"]["name"] for each in self.of(kind)}

    def one(self, kind: str, name: str) -> Document:
        """The one of this name."""
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found

    def pods(self) -> dict[str, Document]:
        """Pod templates, by what makes them."""
        found = {
            each["metadata"]["name"]: each["spec"]["template"]
            for each in self.of("Job", "Deployment")
        }
        return found | {
            each["metadata"]["name"]: each["spec"]["jobTargetRef"]["template"]
            for each in self.of("ScaledJob")
        }

    def commands(self) -> dict[str, list[str]]:
        """Command lines of ours, without the word tutelage, by what runs them."""
        mains = {
            name: pod["spec"]["containers"][0]
            for name, pod in self.pods().items()
            if name != "registry"
        }
        assert all(main["command"] == ["tutelage"] for main in mains.values())
        return {name: main["args"] for name, main in mains.items()}

    def ports(self, name: str) -> set[int]:
        """The ports of a pod's only container."""
        (container,) = self.pods()[name]["spec"]["containers"]
        return {port["containerPort"] for port in container["ports"]}

    def mounted(self, name: str, folder: str) -> tuple[str, str]:
        """What lies in a folder of a pod, as kind and name."""
        spec = self.pods()[name]["spec"]
        (volume,) = (
            each["name"]
            for each in spec["containers"][0]["volumeMounts"]
            if each["mountPath"] == folder
        )
        (source,) = (each for each in spec["volumes"] if each["name"] == volume)
        kind, value = next((kind, value) for kind, value in source.items() if kind != "name")
        return kind, value.get("name") or value.get("secretName") or value["claimName"]


def references(at: Any) -> Iterator[tuple[str, str, str]]:
    """Every key of a ConfigMap or Secret that is named anywhere."""
    for key, value in (
        at.items() if isinstance(at, dict) else enumerate(at) if isinstance(at, list) else ()
    ):
        if key in ("configMapKeyRef", "secretKeyRef"):
            yield key.removesuffix("KeyRef"), value["name"], value["key"]
        elif key in ("configMapTargetRef", "secretTargetRef"):
            yield from (
                (key.removesuffix("TargetRef"), each["name"], each["key"]) for each in value
            )
        elif key == "secret" and "items" in value:
            yield from (("secret", value["secretName"], each["key"]) for each in value["items"])
        yield from references(value)


def fetch() -> None:
    """Bring what the others need; MissingTool if that fails."""
    _go_tool(KUSTOMIZE)
    _go_tool(KUBECONFORM)
    _schemas()


def built(overlay: Path) -> Manifests:
    """What kustomize makes of a folder."""
    return Manifests(yaml.safe_load_all(_said([str(_go_tool(KUSTOMIZE)), "build", str(overlay)])))


def complaints(manifests: Sequence[Document]) -> list[str]:
    """What kubeconform has against manifests, a line for each resource."""
    location = f"{_schemas()}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    done = subprocess.run(
        [str(_go_tool(KUBECONFORM)), "-strict", "-output", "json", "-schema-location", location, "-"],
        input=yaml.safe_dump_all(manifests), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["resources"]
    assert bool(found) == bool(done.returncode), done.stderr
    return [f"{each['kind']} {each['name']}: {each['msg']}" for each in found]


def strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema in which fields that are not named are errors, except where the CRD keeps them."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        # Names of fields, not words of the schema: one may be called `properties` itself.
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if (
            not schema.get("x-kubernetes-preserve-unknown-fields")
            and schema.get("type") == "object"
        ):
            made.setdefault("additionalProperties", False)
    return made


def _schemas() -> Path:
    target = cache() / f"kubernetes-schemas-{KUBERNETES}-{STRIMZI}-{KEDA}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            staged = Path(folder) / "schemas"
            staged.mkdir()
            _kubernetes(staged)
            for file in (*_strimzi(Path(folder)), *_keda()):
                definition = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
                for each in definition["versions"]:
                    name = f"{definition['names']['kind'].lower()}-{definition['group'].split('.')[0]}-{each['name']}.json"
                    (staged / name).write_text(
                        json.dumps(strict(each["schema"]["openAPIV3Schema"])), encoding="utf-8"
                    )
            try:
                os.rename(staged, target)
            except OSError:
                # Somebody else was faster, with the same.
                assert target.is_dir()
    return target


def _kubernetes(target: Path) -> None:
    try:
        there = version("kubernetes-validate")
    except PackageNotFoundError as error:
        raise MissingTool(
            f"the package kubernetes-validate {KUBERNETES} is not installed: pip install -e '.[dev]'"
        ) from error
    if there != KUBERNETES:
        raise MissingTool(
            f"kubernetes-validate {there} is installed; Kubernetes' schemas are wanted of {KUBERNETES}"
        )
    # Not imported: it is the files that are wanted.
    spec = find_spec("kubernetes_validate")
    assert spec is not None and spec.origin is not None
    found = list(
        (Path(spec.origin).parent / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict").glob(
            "*.json"
        )
    )
    assert found, spec.origin
    for file in found:
        schema = json.loads(file.read_text(encoding="utf-8"))
        # They name each other by places on a server that is not here.
        schema.pop("$id", None)
        (target / file.name).write_text(json.dumps(_beside(schema)), encoding="utf-8")


def _beside(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_beside(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: "_definitions.json#" + value.partition("#")[2]
        if key == "$ref" and isinstance(value, str) and value.startswith("/api/")
        else _beside(value)
        for key, value in schema.items()
    }


def _strimzi(folder: Path) -> list[Path]:
    try:
        jars = [
            maven_artifact(f"io.strimzi:{name}:{STRIMZI}", f"Strimzi's {name}", JARS)
            for name in ("crd-generator", "api")
        ]
        java = find_java()
    except StackError as error:
        raise MissingTool(str(error)) from error
    files = {kind: folder / f"{kind.lower()}.yaml" for kind in _STRIMZI_KINDS}
    wanted = [
        f"io.strimzi.api.kafka.model.{_STRIMZI_KINDS[kind]}.{kind}={file}"
        for kind, file in files.items()
    ]
    versions = [
        "--target-kube",
        "1.16+",
        "--crd-api-version",
        "v1",
        "--api-versions",
        "v1",
        "--storage-version",
        "v1",
    ]
    classes = os.pathsep.join(f"{jar}/*" for jar in jars)
    _said(
        [java, "-cp", classes, "io.strimzi.crdgenerator.CrdGenerator", *versions, "--yaml", *wanted]
    )
    return list(files.values())


def _keda() -> list[Path]:
    try:
        sources = go_sources(f"github.com/kedacore/keda/v2@v{KEDA}")
    except GoError as error:
        raise MissingTool(str(error)) from error
    found = sorted((sources / "config" / "crd" / "bases").glob("keda.sh_*.yaml"))
    assert found, sources
    return found


def _go_tool(versioned: str) -> Path:
    try:
        return go_program(versioned)
    except GoError as error:
        raise MissingTool(str(error)) from error


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout

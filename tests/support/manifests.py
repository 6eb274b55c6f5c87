"""What is asked of every manifest: a pod that may do little, and a command that the command line takes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import typer.main
from support import crds
from support.crds import Document, Manifests

from tutelage.cli.main import app
from tutelage.cli.secrets import is_secret

K8S = Path(__file__).resolve().parents[2] / "deploy" / "k8s"


def with_component(overlay: str, component: str, folder: Path) -> Manifests:
    """An overlay with a component, which is added as deploy/k8s/README.md says."""
    copied = shutil.copytree(K8S, folder / overlay)
    with (copied / "overlays" / overlay / "kustomization.yaml").open("a") as file:
        file.write(f"components:\n  - ../../components/{component}\n")
    return crds.built(copied / "overlays" / overlay)


def unguarded(pod: Document) -> list[str]:
    """What a pod lacks."""
    spec, found = pod["spec"], []
    outer = spec["securityContext"]
    if not (
        outer["runAsNonRoot"]
        and outer["runAsUser"] == 10001
        and outer["seccompProfile"] == {"type": "RuntimeDefault"}
    ):
        found.append("it runs as whom it likes")
    if spec["automountServiceAccountToken"] is not False:
        found.append("it has a token")
    for each in spec["containers"] + spec.get("initContainers", []):
        inner = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        ports = {port["name"] for port in each["ports"]}
        probes = [each.get(f"{kind}Probe") or {} for kind in ("startup", "liveness", "readiness")]
        limits, requests = (
            each["resources"].get("limits") or {},
            each["resources"].get("requests") or {},
        )
        checks = {
            "rights": each["securityContext"] == inner,
            "probes": all(probe.get("httpGet", {}).get("port") in ports for probe in probes),
            "limits": {"cpu", "memory"} <= set(limits) and {"cpu", "memory"} <= set(requests),
            "image": re.fullmatch(
                r"tutelage:\d+\.\d+\.\d+|apicurio/apicurio-registry:\d+\.\d+\.\d+@sha256:[0-9a-f]{64}",
                str(each["image"]),
            )
            is not None,
            # In no environment, not by reference either: what a process starts with, its children and its crash dumps show.
            "secret": not any(
                is_secret(one["name"].lower().replace("_", ".")) and not is_a_place(one)
                for one in each["env"]
            ),
        }
        found += [name for name, well in checks.items() if not well]
    return found


def is_a_place(variable: Document) -> bool:
    """Whether a variable says which mounted file holds a secret."""
    return str(variable.get("value")).startswith("\\${mounted:/etc/")


def parsed(args: list[str]) -> Document:
    """What the command line makes of arguments."""
    commands: Any = typer.main.get_command(app)
    values: Document = commands.commands[args[0]].make_context(args[0], args[1:]).params
    return values

"""The secrets that deploy/k8s/registry-secrets.sh makes, by the script itself, with a `kubectl` that keeps them in folders."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "k8s" / "registry-secrets.sh"

# kubectl --namespace N create secret generic NAME [--type=T] --from-file=[KEY=]FILE ...; what is there already is an error.
_KUBECTL = """\
#!/bin/sh
test "$1 $3 $4 $5" = "--namespace create secret generic" || exit 9
mkdir "$SECRETS/$6" || exit 1
name=$6
shift 6
for flag; do
    case $flag in
    --from-file=*=*) rest=${flag#*=}; cp "${rest#*=}" "$SECRETS/$name/${rest%%=*}" ;;
    --from-file=*) cp "${flag#*=}" "$SECRETS/$name/" ;;
    --type=*) ;;
    *) exit 9 ;;
    esac
done
"""


def make_secrets(
    folder: Path,
    names: str | None = None,
    *,
    teachers: str | None = None,
    students: str | None = None,
) -> Path:
    """Run the script; a folder with a folder for each secret, with its keys as files."""
    secrets = folder / "secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    kubectl = folder / "kubectl"
    kubectl.write_text(_KUBECTL, encoding="utf-8")
    kubectl.chmod(0o700)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SECRETS": str(secrets),
        "TMPDIR": str(folder),
    }
    given = {"NAMES": names, "TEACHERS": teachers, "STUDENTS": students}
    environment |= {name: value for name, value in given.items() if value is not None}
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return secrets

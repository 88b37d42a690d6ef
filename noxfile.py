#!/usr/bin/env python3
"""Every developer verb: `python3 noxfile.py -s NAME`, with arguments for the tool behind `--`.

Needs Python 3.11 or newer with pip, and nothing else: when nox is missing, it is installed into
`.nox-bootstrap/` first. Each session has an environment of its own under `.nox/`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def _has_tools() -> bool:
    """Say whether this interpreter has a nox that is new enough, and uv for its environments."""
    try:
        from importlib.metadata import PackageNotFoundError, version

        import uv

        return tuple(map(int, version("nox").split(".")[:2])) >= (2026, 10) and bool(uv)
    except (ImportError, PackageNotFoundError, ValueError):
        return False


if __name__ == "__main__" and not _has_tools():
    home = ROOT / ".nox-bootstrap"
    python = home / "bin" / "python"
    # A marker rather than the interpreter: an installation that was interrupted is done anew.
    marker = home / "ready"
    if not marker.exists():
        print(f"installing nox into {home} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        requirement = "nox[uv]>=2026.10,<2027"
        subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)
        marker.touch()
    os.chdir(ROOT)
    os.execv(python, [str(python), __file__, *sys.argv[1:]])

import nox  # noqa: E402  # Only now is it certain that it is there.

PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
SOURCES = ("noxfile.py", "packages", "scripts", "tests")

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests", "lint", "types", "imports"]
nox.options.error_on_missing_interpreters = True


def _sync(session: nox.Session, *groups: str) -> None:
    """Install all packages and the given groups, exactly as locked, into the session."""
    session.run_install(
        "uv",
        "sync",
        "--locked",
        "--all-packages",
        "--no-default-groups",
        *(f"--group={group}" for group in groups),
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location, "UV_PYTHON": sys.executable},
    )


@nox.session(default=False)
def serve(session: nox.Session) -> None:
    """Start a server on port 9173 with its data in ./default.vaylix."""
    _sync(session)
    client = Path(session.bin).relative_to(ROOT) / "vaylix-client"
    print(f"\nTalk to it from another terminal:  {client}\nStop it with Ctrl-C.\n", flush=True)
    session.run("vaylix", *session.posargs, interrupt_timeout=30, terminate_timeout=5)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests on all cores."""
    _sync(session, "test")
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check formatting and style."""
    _sync(session, "lint")
    session.run("ruff", "format", "--check", *SOURCES)
    session.run("ruff", "check", *SOURCES)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, in sources and tests."""
    _sync(session, "types")
    for package in PACKAGES:
        session.run("mypy", f"packages/{package}/src", f"packages/{package}/tests")
    session.run("mypy", "tests", "scripts")


@nox.session
def imports(session: nox.Session) -> None:
    """Check who imports whom."""
    _sync(session, "imports")
    session.run("lint-imports")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks of all packages, or those whose path holds a given word."""
    _sync(session)
    for script in sorted(ROOT.glob("packages/*/benchmarks/[a-z]*.py")):
        if not session.posargs or any(word in str(script) for word in session.posargs):
            session.run("python", str(script.relative_to(ROOT)))


@nox.session(default=False)
def simulate(session: nox.Session) -> None:
    """Simulate whole clusters: `-- --minutes N` for fresh seeds, `-- --seed N` to replay one."""
    _sync(session)
    session.run("python", "-m", "vaylix_replication.testing.simulate", *session.posargs)


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that the packages allow."""
    editable = [f"--editable=packages/{package}" for package in PACKAGES]
    session.install("--resolution=lowest-direct", *editable)
    session.install("hypothesis", "pytest>=9", "pytest-timeout", "pytest-xdist", "trustme")
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build every wheel, install each alone into a clean environment, run its README example."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run_install("uv", "build", "--all-packages", "--wheel", "--out-dir=dist")
    tools = Path(session.create_tmp())
    for package in PACKAGES:
        home = tools / package
        session.run_install("uv", "venv", "--clear", f"--python={sys.executable}", str(home))
        python = str(home / "bin" / "python")
        session.run_install(
            "uv", "pip", "install", f"--python={python}", "--find-links=dist", package
        )
        # The example of the client needs a server to talk to, which is not in its environment.
        server = str(tools / "vaylix-server" / "bin" / "vaylix")
        if package == "vaylix-client":
            session.run_install("uv", "venv", "--clear", str(tools / "vaylix-server"))
            session.run_install(
                "uv",
                "pip",
                "install",
                f"--python={tools / 'vaylix-server' / 'bin' / 'python'}",
                "--find-links=dist",
                "vaylix-server",
            )
        readme = f"packages/{package}/README.md"
        session.run(python, "scripts/run_readme.py", readme, server, external=True)


if __name__ == "__main__":
    nox.main()

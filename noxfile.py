#!/usr/bin/env python3
"""Every developer verb: `python3 noxfile.py -s NAME`, with arguments for the tool behind `--`.

Needs Python 3.11 or newer with pip, and nothing else: when nox is missing, it is installed into
`.nox-bootstrap/` first. Each session has an environment of its own under `.nox/`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
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
# Those with hot modules, which run quicker when mypyc has compiled them, and before each what it
# needs to be type-checked.
COMPILED = ("vaylix-protocol", "vaylix-storage", "vaylix-server")
WHEELS = ("vaylix-protocol", "vaylix-storage", "vaylix-replication", "vaylix-server")
# Tests of modules that are never compiled: the log, its files, and the tools that read them.
NEVER_COMPILED = "crash or damage or format3 or migration or offline or pitr or kept or log_model"
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


def _can_compile() -> bool:
    """Say whether there is a C compiler, and the headers of this interpreter."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.exists() and any(map(shutil.which, ("cc", "gcc", "clang")))


def _compile(session: nox.Session) -> None:
    """Put compiled wheels in the place of the packages with hot modules.

    They are kept until a source changes, beside the environments, which nox makes anew each time.
    """
    digest = hashlib.sha256(sys.version.encode())
    for package in WHEELS:
        source = ROOT / "packages" / package
        for path in (source / "pyproject.toml", *sorted(source.glob("src/**/*.py"))):
            digest.update(path.read_bytes())
    home = session.cache_dir / "compiled" / digest.hexdigest()[:16]
    if not home.exists():
        session.log("compiling the hot modules, once: up to a minute ...")
        home.parent.mkdir(exist_ok=True)
        # Elsewhere at first: an interrupted build, or that of another session, is not to be used.
        with tempfile.TemporaryDirectory(dir=session.cache_dir) as work:
            wheels = _build_compiled(session, Path(work).resolve())
            for old in set(home.parent.iterdir()) - {home}:
                shutil.rmtree(old, ignore_errors=True)
            if not home.exists():
                wheels.rename(home)
    session.run_install(
        *("uv", "pip", "install", "--quiet", "--no-deps", "--reinstall"),
        *(f"--python={session.bin}/python", *map(str, sorted(home.glob("*.whl")))),
    )


def _build_compiled(session: nox.Session, work: Path) -> Path:
    """Build the wheels from copies, since the build moves files about; return where they are."""
    wheels = work / "wheels"
    wheels.mkdir()
    for package in WHEELS:
        unwanted = shutil.ignore_patterns("tests", "__pycache__")
        shutil.copytree(ROOT / "packages" / package, work / package, ignore=unwanted)
        session.run_install(
            *("uv", "build", "--quiet", "--wheel", "--no-sources", f"--find-links={wheels}"),
            *(f"--python={sys.executable}", f"--out-dir={wheels}", str(work / package)),
            env={"HATCH_BUILD_HOOK_ENABLE_MYPYC": "1"},
        )
    return wheels


def _compile_if_possible(session: nox.Session) -> None:
    if not _can_compile():
        session.log("no C compiler, or no headers of this Python: all modules run as written")
        return
    try:
        _compile(session)
    except (nox.command.CommandFailed, OSError):
        session.warn("the hot modules could not be compiled and run as they are written")


# The environment is kept: a second server must not take it away from under the first.
@nox.session(default=False, reuse_venv=True)
def serve(session: nox.Session) -> None:
    """Start a server on port 9173 with its data in ./default.vaylix."""
    _sync(session)
    _compile_if_possible(session)
    client = Path(session.bin).relative_to(ROOT) / "vaylix-client"
    print(f"\nTalk to it from another terminal:  {client}\nStop it with Ctrl-C.\n", flush=True)
    session.run("vaylix", *session.posargs, interrupt_timeout=30, terminate_timeout=5)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests on all cores."""
    _sync(session, "test")
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session(default=False)
def compiled(session: nox.Session) -> None:
    """Run the tests of the packages with the hot modules compiled, as far as they use them."""
    if not _can_compile():
        session.skip("there is no C compiler, or no header of this Python: apt-get install -y gcc")
    _sync(session, "test")
    _compile(session)
    for package in COMPILED:
        module = package.replace("-", "_")
        session.run("python", "-c", f"import {module}; assert {module}.IS_COMPILED")
    tests = session.posargs or [f"packages/{package}/tests" for package in COMPILED]
    wanted = () if session.posargs else ("-k", f"not ({NEVER_COMPILED})")
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *wanted, *tests)


@nox.session
def lint(session: nox.Session) -> None:
    """Check formatting and style."""
    _sync(session, "lint")
    session.run("ruff", "format", "--check", *SOURCES)
    session.run("ruff", "check", *SOURCES)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, in sources, tests and benchmarks."""
    _sync(session, "types")
    for package in PACKAGES:
        parts = [Path("packages", package, part) for part in ("src", "tests", "benchmarks")]
        session.run("mypy", *(str(part) for part in parts if part.is_dir()))
    session.run("mypy", "tests", "scripts")


@nox.session
def imports(session: nox.Session) -> None:
    """Check who imports whom."""
    _sync(session, "imports")
    session.run("lint-imports")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks of all packages, or those whose path holds a given word."""
    # Some use the pairs and disks that packages offer for tests.
    _sync(session, "test")
    _compile_if_possible(session)
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

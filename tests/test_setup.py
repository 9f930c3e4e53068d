"""Do the files that set the project up agree with one another?

pyproject.toml alone decides about versions; the others are held to it, and the pages to what
there is.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import haproxy_config, pages
from tests.nginx_config import command, render
from wsdemo import __version__
from wsdemo.addresses import Form, RedisAddress
from wsdemo.gateway.__main__ import parser, settings_of
from wsdemo.gateway.descriptors import RESERVE

ROOT = Path(__file__).resolve().parents[1]

THE_KIT = {"websockets", "redis", "jupyter", "nest-asyncio", "matplotlib", "pandas", "pytest"}
"""The packages that people come for, and look for by name."""

CONDA_NAMES = {"matplotlib-base": "matplotlib"}
"""What conda-forge calls differently. `matplotlib` there brings a whole Qt."""

ONLY_CONDA = {"python", "pip", "valkey-server"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


@functools.cache
def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads(text_of("pyproject.toml"))["project"]
    return document


@functools.cache
def requirements(*extras: str) -> dict[str, Requirement]:
    lines = list(project()["dependencies"])
    for extra in extras:
        lines += project()["optional-dependencies"][extra]
    return {canonicalize_name((item := Requirement(line)).name): item for line in lines}


def environment() -> tuple[dict[str, SpecifierSet], list[str]]:
    """Return the conda packages with their bounds, and the lines for pip."""
    conda: dict[str, SpecifierSet] = {}
    pip: list[str] = []
    for line in yaml.safe_load(text_of("environment.yml"))["dependencies"]:
        if isinstance(line, dict):
            pip += line["pip"]
        else:
            name, _, bounds = line.partition(" ")
            conda[name] = SpecifierSet(bounds)
    return conda, pip


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(text_of("docker-compose.yml"))
    return document


# --- packages ----------------------------------------------------------------------------------


def test_pyproject_requires_every_package_of_the_kit() -> None:
    """The packages that the kit is made of are dependencies, or in the lab and test extras."""
    assert set(requirements("lab", "test")) >= THE_KIT


def test_environment_names_every_package_of_the_kit() -> None:
    """environment.yml shows by name what the kit is made of."""
    conda, pip = environment()
    named = {CONDA_NAMES.get(name, name) for name in conda} | set(pip)
    assert named >= THE_KIT


def test_environment_installs_the_project_with_its_extras() -> None:
    """pip installs the checkout itself, so environment.yml cannot forget a dependency."""
    _, pip = environment()
    editable = [line for line in pip if line.startswith("-e")]
    assert len(editable) == 1
    found = re.fullmatch(r"-e \.\[([\w,]+)\]", editable[0])
    assert found and set(found[1].split(",")) == {"lab", "test"}


def test_environment_has_the_bounds_of_pyproject() -> None:
    """What environment.yml says about a version, pyproject.toml says too."""
    conda, pip = environment()
    bounds = {CONDA_NAMES.get(name, name): bound for name, bound in conda.items()}
    for line in pip:
        if not line.startswith("-"):
            bounds[canonicalize_name(Requirement(line).name)] = Requirement(line).specifier
    known = requirements("lab", "test")
    for name in bounds.keys() - ONLY_CONDA:
        assert name in known, f"{name} is in environment.yml only"
        if bounds[name]:
            assert bounds[name] == known[name].specifier, name


def test_all_files_require_the_same_python() -> None:
    """pyproject.toml, environment.yml, the README and the Makefile have one oldest Python."""
    oldest = project()["requires-python"].removeprefix(">=")
    conda, _ = environment()
    assert f">={oldest}" in str(conda["python"]).split(",")
    assert f"Python {oldest} or newer" in " ".join(text_of("README.md").split())
    major, minor = oldest.split(".")
    assert f"sys.version_info < ({major}, {minor})" in text_of("Makefile")
    assert f"--python-version {oldest} " in text_of("Makefile")


def test_readme_activates_the_environment_by_its_name() -> None:
    """`conda activate` in the README names the environment that environment.yml makes."""
    names = set(re.findall(r"conda activate ([\w-]+)", text_of("README.md")))
    assert names == {yaml.safe_load(text_of("environment.yml"))["name"]}


def pins() -> dict[str, list[Requirement]]:
    result: dict[str, list[Requirement]] = {}
    for line in text_of("constraints.txt").splitlines():
        pin = Requirement(line)
        result.setdefault(canonicalize_name(pin.name), []).append(pin)
    return result


def test_constraints_are_pins_and_nothing_else() -> None:
    """constraints.txt holds a version a line: no addresses, no options, no extras."""
    text = text_of("constraints.txt")
    assert "://" not in text and "@" not in text and "#" not in text
    for line in text.splitlines():
        assert re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.]+( ; .+)?", line), line


def test_constraints_pin_every_direct_dependency() -> None:
    """Each dependency of pyproject.toml is pinned at a version that pyproject.toml allows."""
    pinned = pins()
    for name, requirement in requirements("lab", "test").items():
        assert name in pinned, f"{name} is not pinned: make constraints"
        for pin in pinned[name]:
            (version,) = pin.specifier
            assert requirement.specifier.contains(Version(version.version)), (
                f"{pin} contradicts {requirement}: make constraints"
            )


# --- what is shipped ---------------------------------------------------------------------------


PACKED = {".lua", ".js", ".css", ".html", ".json"}


@pytest.mark.slow
def test_wheel_has_the_scripts_and_the_type_marker(tmp_path: Path) -> None:
    """The wheel has every script and page of the sources, py.typed, and the licence."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)])
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "wsdemo").rglob("*") if path.suffix in PACKED]
    scripts = {str(path.relative_to(ROOT)) for path in files}
    assert len([name for name in scripts if name.endswith(".lua")]) >= 5
    assert "wsdemo/client/wsdemo.js" in scripts
    assert names >= scripts | {"wsdemo/py.typed", "wsdemo/gateway/__main__.py"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if not re.match(r"wsdemo[/-]", name)]
    assert wheel.name.startswith(f"wsdemo-{__version__}-"), "one source of the version"


PLACES = re.compile(
    # A path of somebody's machine,
    r"(?<![\w./~+-])/(?:home|Users|root|work)(?!\w)"
    # or the host of a package registry. Brackets, since this file is searched as well.
    r"|pypi[.]org|pythonhosted[.]org|npmjs[.]org|anaconda[.]org",
)


def test_nothing_names_a_machine_or_a_registry() -> None:
    """No tracked file has a path of the machine that it was written on, or a registry's host."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    # git does not trust a checkout that belongs to another user without a setting.
    listed = run(["git", "-c", "safe.directory=*", "ls-files", "-z"]).stdout
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in listed.split("\0")
        if name and (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), 1)
        if PLACES.search(line)
    ]
    assert not found, "\n".join(found)


# --- make --------------------------------------------------------------------------------------


def documented_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", text_of("Makefile"), flags=re.MULTILINE))


def test_contributing_lists_exactly_the_targets_of_the_makefile() -> None:
    """The table of targets has all that `make help` shows, and no other."""
    rows = re.findall(r"^\| `make ([\w-]+)`", text_of("CONTRIBUTING.md"), flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == documented_targets()


@pytest.mark.parametrize("page", pages.PAGES)
def test_no_page_invents_a_target(page: str) -> None:
    """Wherever a page says `make something`, there is such a target."""
    mentioned = re.findall(r"`make ([\w-]+)", pages.PAGES[page])
    mentioned += re.findall(r"^make ([\w-]+)", pages.PAGES[page], flags=re.MULTILINE)
    if page != "CHANGELOG.md":  # It tells of targets that there were.
        assert set(mentioned) <= documented_targets()


def test_hooks_before_a_commit_use_the_environment_and_no_network() -> None:
    """Each is a command of `.venv`; nothing is fetched from elsewhere."""
    repositories = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


# --- containers --------------------------------------------------------------------------------


@pytest.mark.slow
def test_compose_file_is_valid() -> None:
    """docker-compose.yml is what the compose specification's schema says it must be."""
    schema = ("--builtin-schema", "vendor.compose-spec")
    run([sys.executable, "-m", "check_jsonschema", *schema, "docker-compose.yml"])


def test_bare_compose_starts_redis_only() -> None:
    """Without a profile there is Redis and nothing else; others are asked for by name."""
    services = compose()["services"]
    assert [name for name, service in services.items() if not service.get("profiles")] == ["redis"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", [])}
    assert profiles == {"cluster", "cluster-redis", "ha"}
    assert set(re.findall(r"--profile ([\w-]+)", text_of("docs/operating.md"))) == profiles


def test_compose_opens_ports_on_loopback_only() -> None:
    """No port is open to the network: Redis has no password."""
    services = compose()["services"].values()
    ports = [port for service in services for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def gateway_services() -> dict[str, dict[str, Any]]:
    services = compose()["services"]
    return {name: item for name, item in services.items() if name.startswith("gateway-")}


def test_compose_starts_gateways_with_flags_that_they_have() -> None:
    """Each gateway's command is understood, and names it as its service is named."""
    services = gateway_services()
    assert len(services) == 3
    for name, service in services.items():
        settings = settings_of(parser().parse_args(service["command"]))
        assert settings.gateway_id == name
        assert (settings.host, settings.port) == ("0.0.0.0", 8080)
        assert "redis:6379" in settings.redis_url


def test_compose_starts_a_gateway_on_a_cluster_of_redis() -> None:
    """It names servers of the cluster, which has a replica for each primary."""
    services = compose()["services"]
    command = services["sharded-gateway"]["command"]
    settings = settings_of(parser().parse_args(command))
    address = RedisAddress.parse(settings.redis_url)
    assert address.form is Form.CLUSTER
    assert {seed.host for seed in address.seeds} < set(services)
    shards = [name for name in services if name.startswith("shard-")]
    assert len(shards) == 6
    assert all("no" in services[name]["command"] for name in shards)


def test_compose_gateways_of_the_profile_ha_name_all_sentinels() -> None:
    """And the service that these watch over; a failover needs a majority of them."""
    services = compose()["services"]
    commands = {name: str(service.get("command")) for name, service in services.items()}
    sentinels = {name for name, command in commands.items() if "sentinel.conf" in command}
    gateways = [one for name, one in services.items() if name.startswith("ha-gateway-")]
    assert len(sentinels) == 3 and len(gateways) == 2
    for gateway in gateways:
        settings = settings_of(parser().parse_args(gateway["command"]))
        address = RedisAddress.parse(settings.redis_url)
        assert {seed.host for seed in address.seeds} == sentinels
        assert settings.limits.drain_notice_s == 5
        for name in sentinels:
            assert f"sentinel monitor {address.service} " in services[name]["command"][-1]


DRAIN_S = 10.0
"""What a drain may take, by docs/operating.md."""


def test_compose_lets_a_gateway_drain() -> None:
    """A gateway has longer to stop than its notice and the 10 s that its drain may take."""
    for service in gateway_services().values():
        grace_s = float(service["stop_grace_period"].removesuffix("s"))
        limits = settings_of(parser().parse_args(service["command"])).limits
        assert limits.drain_notice_s == 5
        assert grace_s > limits.drain_notice_s + DRAIN_S
        assert limits.drain_s < DRAIN_S


def test_image_drains_as_the_compose_file_does() -> None:
    """With the same notice; it says how long `docker stop` has to wait."""
    dockerfile = text_of("deploy/Dockerfile").replace("\\\n", "")
    found = re.search(r"^CMD (\[.*\])$", dockerfile, flags=re.MULTILINE)
    assert found
    limits = settings_of(parser().parse_args(json.loads(found[1]))).limits
    assert limits.drain_notice_s == 5
    wait = re.search(r"docker stop -t (\d+)", dockerfile)
    assert wait and float(wait[1]) > limits.drain_notice_s + DRAIN_S


def test_image_holds_the_bytecode_of_all_that_a_start_imports(tmp_path: Path) -> None:
    """Of the gateway and of its health check: neither compiles anything, as nobody may write it."""
    dockerfile = text_of("deploy/Dockerfile")
    found = re.search(r"^RUN (PYTHONDONTWRITEBYTECODE=.*)$", dockerfile, flags=re.MULTILINE)
    assert found
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPYCACHEPREFIX": str(tmp_path),
    }
    subprocess.run(["sh", "-c", found[1]], env=environment, check=True, timeout=60)
    gateway = [
        "-m",
        "wsdemo.gateway",
        "--id",
        "gateway-01",
        "--port",
        "0",
        "--redis",
        "localhost:1",
    ]
    for arguments in (gateway, ["-c", "import http.client"]):
        done = subprocess.run(
            [sys.executable, "-v", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert f"code object from '{tmp_path}" in done.stderr, "it tells where code comes from"
        assert re.findall(r"code object from (/.*\.py)$", done.stderr, flags=re.MULTILINE) == []


# --- systemd -----------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """Return what the settings of a unit are set to."""
    found: dict[str, list[str]] = {}
    for line in text_of(f"deploy/systemd/{name}").splitlines():
        if re.match(r"\w+=", line):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_starts_a_gateway_with_flags_that_it_has() -> None:
    """Its command is understood, lets the gateway drain, and gives it files enough."""
    service = unit("wsdemo-gateway.service")
    python, _, module, *arguments = service["ExecStart"][0].replace("%H", "host").split()
    assert (Path(python).name, module) == ("python", "wsdemo.gateway")
    limits = settings_of(parser().parse_args(arguments)).limits
    assert float(service["TimeoutStopSec"][0]) > limits.drain_notice_s + DRAIN_S
    assert int(service["LimitNOFILE"][0]) > 2 * limits.max_connections + RESERVE


def test_the_socket_unit_opens_what_a_gateway_can_take() -> None:
    """One process takes all connections, and the port is that of the service."""
    opened = unit("wsdemo-gateway.socket")
    assert opened["Accept"] == ["no"]
    (arguments,) = unit("wsdemo-gateway.service")["ExecStart"]
    assert f"--port {opened['ListenStream'][0]} " in arguments


def test_systemd_accepts_the_shipped_units(tmp_path: Path) -> None:
    """systemd itself finds nothing wrong with them, but that nothing is installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    names = ("wsdemo-gateway.service", "wsdemo-gateway.socket")
    for name in names:
        text = text_of(f"deploy/systemd/{name}").replace("/opt/wsdemo/bin/python", "/bin/true")
        (tmp_path / name).write_text(text)
    arguments = ["systemd-analyze", "verify", *(str(tmp_path / name) for name in names)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=50, check=False)
    complaints = [line for line in done.stderr.splitlines() if "wsdemo" in line]
    assert not complaints, done.stderr


class _Readiness(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        self.send_response(server.status if self.path == "/ready" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def readiness() -> Iterator[Any]:
    """Something that answers /ready with the status that a test sets."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Readiness) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_image_is_healthy_when_its_gateway_is_ready(
    readiness: Any, status: int, exit_code: int
) -> None:
    """The image's health check asks /ready, and follows its answer."""
    dockerfile = text_of("deploy/Dockerfile").replace("\\\n", "")
    found = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", dockerfile, flags=re.MULTILINE)
    assert found
    python, *arguments = json.loads(found[1].replace("8080", str(readiness.server_port)))
    assert python == "python"
    readiness.status = status
    done = subprocess.run([sys.executable, *arguments], timeout=20, check=False)
    assert done.returncode == exit_code


# --- nginx -------------------------------------------------------------------------------------


def test_nginx_accepts_the_shipped_configuration(tmp_path: Path) -> None:
    """nginx itself finds nothing wrong with deploy/nginx.conf."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    config = tmp_path / "nginx.conf"
    config.write_text(render([18081, 18082, 18083], 18080, tmp_path))
    told = run(command(config, "-t")).stderr
    assert "test is successful" in told
    assert "[emerg]" not in told and "[alert]" not in told


def test_rendered_configuration_contains_nothing_of_this_machine(tmp_path: Path) -> None:
    """A test's nginx knows only the ports and the directory that the test gave it."""
    text = render([18081, 18082], 18080, tmp_path)
    code = re.sub(r"#.*", "", text)
    assert re.findall(r"\bserver ([\w.:-]+);", code) == ["127.0.0.1:18081", "127.0.0.1:18082"]
    assert re.findall(r"\blisten (\S+);", code) == ["127.0.0.1:18080"]
    paths = re.findall(r'"(/[^"]+)"', code)
    assert paths and all(Path(path).parent == tmp_path.resolve() for path in paths)
    unquoted = re.sub(r'"[^"]*"', "", code)
    assert "/tmp/" not in unquoted and "/dev/" not in unquoted


def test_nginx_balances_over_the_gateways_of_the_compose_file() -> None:
    """The upstreams in deploy/nginx.conf are the compose file's gateways, port included."""
    upstreams = re.findall(r"^ *server ([\w-]+:\d+)", text_of("deploy/nginx.conf"), re.MULTILINE)
    services = gateway_services()
    expected = [
        f"{name}:{settings_of(parser().parse_args(service['command'])).port}"
        for name, service in services.items()
    ]
    assert upstreams == expected
    assert set(compose()["services"]["nginx"]["depends_on"]) == set(services)


# --- HAProxy -----------------------------------------------------------------------------------


def test_haproxy_accepts_the_shipped_configuration(tmp_path: Path) -> None:
    """HAProxy itself finds nothing wrong with deploy/haproxy.cfg."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    config = tmp_path / "haproxy.cfg"
    config.write_text(haproxy_config.render([18081, 18082, 18083], 18080, tmp_path / "stats"))
    assert "[WARNING]" not in run(haproxy_config.command(config, "-c")).stderr


def test_haproxy_balances_over_the_gateways_of_the_compose_file() -> None:
    """The servers in deploy/haproxy.cfg are the compose file's gateways, port included."""
    servers = re.findall(r"^ *server (\S+) (\S+)$", text_of("deploy/haproxy.cfg"), re.MULTILINE)
    assert servers == [
        (name, f"{name}:{settings_of(parser().parse_args(service['command'])).port}")
        for name, service in gateway_services().items()
    ]


def test_haproxy_notices_a_drain_before_the_notice_ends() -> None:
    """Its checks are due, and have all failed, within the notice of the compose file; and it cuts
    nobody then."""
    shipped = re.sub(r"#.*", "", text_of("deploy/haproxy.cfg"))
    found = re.search(r"default-server .*\binter (\d+)s fall (\d+)", shipped)
    assert found
    for service in gateway_services().values():
        limits = settings_of(parser().parse_args(service["command"])).limits
        assert int(found[1]) * (int(found[2]) + 1) < limits.drain_notice_s
    assert "shutdown-sessions" not in shipped


def test_manual_quotes_the_shipped_nginx_configuration() -> None:
    """Every directive that docs/operating.md shows stands in deploy/nginx.conf."""
    manual = text_of("docs/operating.md")
    blocks = re.findall(r"^```nginx\n(.*?)^```", manual, re.DOTALL | re.MULTILINE)
    assert blocks
    shipped = {" ".join(line.split()) for line in text_of("deploy/nginx.conf").splitlines()}
    for block in blocks:
        for line in block.splitlines():
            assert " ".join(line.split()) in shipped, line


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run in the checkout; fail with what it said."""
    done = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done

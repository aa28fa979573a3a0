"""The action upload: it reaches a host as Ansible does, with bastions and passwords, and says what went wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ssh_hosts
from ssh_hosts import Hosts
from stub_inventory import OTHER_CONNECTION

pytestmark = pytest.mark.skipif(bool(ssh_hosts.missing()), reason=f"this machine lacks: {ssh_hosts.missing()}")
LOCAL = {"ansible_connection": "local"}


@pytest.fixture(scope="module")
def started() -> Iterator[Hosts]:
    with ssh_hosts.start() as hosts:
        yield hosts


@pytest.fixture
def hosts(started: Hosts) -> Iterator[Hosts]:
    """The hosts with a source directory, and no target."""
    source = started.directory / "a source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("text\n")
    (source / "file").chmod(0o640)
    (source / "sub" / "program").write_text("#!/bin/sh\n")
    (source / "sub" / "program").chmod(0o755)
    (source / "sub" / "link").symlink_to("program")
    yield started
    started.end_connections()
    for directory in (source, target(started)):
        shutil.rmtree(directory, ignore_errors=True)


def target(hosts: Hosts) -> Path:
    return hosts.directory / "a target"


def upload(hosts: Hosts, **options: Any) -> dict[str, Any]:
    """Return a task of the action."""
    keywords = {key: options.pop(key) for key in list(options) if key.startswith("become")}
    arguments = {"src": str(hosts.directory / "a source"), "dest": str(target(hosts)), **options}
    return {"upload": arguments, **keywords}


def files(directory: Path) -> dict[str, str]:
    """Return what a directory holds: the paths, and contents of files."""
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else "" for path in directory.rglob("*")
    }


def succeeded(done: subprocess.CompletedProcess[str], hosts: Hosts) -> bool:
    """Return whether the target is what the source is."""
    assert done.returncode == 0, done.stdout
    assert files(target(hosts)) == files(hosts.directory / "a source")
    return True


def test_a_bastion_a_port_a_password_for_sudo_and_known_hosts(hosts: Hosts) -> None:
    """The way that a site with rules reaches its hosts, all at once."""
    user = hosts.users["asked"]
    variables = hosts.variables("asked", ansible_become_password=hosts.password)
    variables["ansible_ssh_common_args"] = f"-F {bastion_config(hosts, user)} -o ProxyJump=bastion"
    task = upload(hosts, become=True, owner=hosts.users["other"], group="0", delete=True)
    done = hosts.play([task, task], variables, "--diff")
    assert succeeded(done, hosts) and "changed=1" in done.stdout and "ok=2" in done.stdout, done.stdout
    assert "+ sub/program" in done.stdout and hosts.password not in done.stdout
    assert {(path.owner(), path.group()) for path in target(hosts).rglob("*")} == {(hosts.users["other"], "root")}
    assert f"Accepted publickey for {user}" in hosts.servers["bastion"].log.read_text()


def bastion_config(hosts: Hosts, user: str) -> Path:
    """Write an ssh configuration that knows the bastion, and return its path."""
    config = hosts.directory / "ssh_config"
    config.write_text(
        f"Host bastion\n  HostName 127.0.0.1\n  Port {hosts.servers['bastion'].port}\n  User {user}\n"
        f"  IdentityFile {hosts.directory}/key\nHost *\n  UserKnownHostsFile {hosts.known_hosts}\n"
        "  StrictHostKeyChecking yes\n"
    )
    return config


@pytest.mark.long
def test_a_long_command_and_a_module_go_the_same_way(hosts: Hosts) -> None:
    """sudo's lecture, before each prompt here, is no part of their output."""
    variables = hosts.variables("asked", ansible_become_password=hosts.password)
    variables["ansible_ssh_common_args"] = f"-F {bastion_config(hosts, hosts.users['asked'])} -o ProxyJump=bastion"
    command = {"argv": ["sh", "-c", "echo step: $(id -u) lines; exit 3"], "show": "step:"}
    tasks = [{"show_command": command, "become": True, "ignore_errors": True}]
    tasks += [{"modelserve_host_facts": {"home": str(hosts.directory)}, "become": True}]
    done = hosts.play(tasks, variables)
    assert done.returncode == 0 and "gpu_1: step: 0 lines" in done.stdout and "ok=2" in done.stdout, done.stdout


@pytest.mark.long
@pytest.mark.parametrize("environment", [{}, {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}], ids=["shared", "alone"])
@pytest.mark.parametrize("mechanism", ["ssh_askpass", "sshpass"])
def test_a_password_for_ssh_and_for_sudo(hosts: Hosts, environment: dict[str, str], mechanism: str) -> None:
    """The passwords come from where -k and -K put them."""
    variables = hosts.variables("asked", ansible_ssh_password_mechanism=mechanism)
    del variables["ansible_ssh_private_key_file"]
    (hosts.directory / "password").write_text(hosts.password)
    options = ["--connection-password-file", "password", "--become-password-file", "password"]
    done = hosts.play([upload(hosts, become=True)], variables, *options, **environment)
    if mechanism == "sshpass" and not shutil.which("sshpass"):
        assert "you must install the sshpass program" in done.stdout
        return
    assert succeeded(done, hosts)
    assert f"Accepted password for {hosts.users['asked']}" in hosts.servers["host"].log.read_text()


@pytest.mark.long
@pytest.mark.parametrize("pipelining", ["true", "false"])
def test_sudo_without_a_password_and_no_shared_connection(hosts: Hosts, pipelining: str) -> None:
    environment = {"ANSIBLE_SSH_ARGS": "-C", "ANSIBLE_PIPELINING": pipelining}
    assert succeeded(hosts.play([upload(hosts, become=True)], hosts.variables("free"), **environment), hosts)


@pytest.mark.long
@pytest.mark.parametrize("connection", ["ssh", "local"])
def test_su_with_a_password(hosts: Hosts, connection: str) -> None:
    other = hosts.users["other"]
    target(hosts).mkdir()
    shutil.chown(target(hosts), other)
    variables = hosts.variables("free", ansible_become_password=hosts.password, ansible_connection=connection)
    task = upload(hosts, become=True, become_method="su", become_user=other)
    assert succeeded(hosts.play([task], variables), hosts)
    assert {path.owner() for path in target(hosts).rglob("*")} == {other}


@pytest.mark.long
@pytest.mark.parametrize(
    ("user", "method", "password", "cause"),
    [
        ("asked", "sudo", "wrong", "wrong password for sudo"),
        ("asked", "sudo", None, "sudo wants a password. Run 'ansible-playbook -K'"),
        ("other", "sudo", "right", "sudo did not start rsync"),
        ("free", "su", "wrong", "wrong password for su"),
        ("free", "su", None, "su wants a password"),
    ],
)
def test_a_refused_privilege_is_one_line(
    hosts: Hosts, user: str, method: str, password: str | None, cause: str
) -> None:
    given = {"wrong": "not-the-password", "right": hosts.password}
    variables = hosts.variables(user) | ({"ansible_become_password": given[password]} if password else {})
    task = upload(hosts, become=True, become_method=method, become_user=hosts.users["other"])
    if user == "other":
        task["become_user"] = "root"
    done = hosts.play([task], variables)
    assert done.returncode == 2 and f"gpu_1: {cause}" in done.stdout, done.stdout
    assert not target(hosts).exists() and hosts.password not in done.stdout


@pytest.mark.long
def test_the_first_task_that_lacks_a_password_is_followed_by_what_to_do(hosts: Hosts) -> None:
    task = {"ansible.builtin.command": {"argv": ["true"]}, "become": True}
    done = hosts.play([task], hosts.variables("asked"))
    assert "Missing sudo password" in done.stdout and "gpu_1: run with -K, or set" in done.stdout, done.stdout


@pytest.mark.long
def test_a_connection_that_breaks_off_is_named(hosts: Hosts) -> None:
    """A shell that ends its connection once rsync runs stands for the network."""
    shell = hosts.directory / "cut"
    shell.write_text('#!/bin/sh\ncase $2 in *UPLOAD-*) echo "${2#echo }" | cut -d";" -f1; kill -9 $PPID;; esac\n')
    shell.chmod(0o755)
    environment = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}
    variables = hosts.variables("free", ansible_shell_executable=str(shell))
    done = hosts.play([upload(hosts)], variables, **environment)
    assert "gpu_1: the connection broke off during the transfer" in done.stdout, done.stdout
    assert "unreachable=1" in done.stdout, done.stdout


@pytest.mark.long
def test_a_host_that_hangs_is_given_up(hosts: Hosts) -> None:
    shell = hosts.directory / "hang"
    shell.write_text('#!/bin/sh\ncase $2 in *UPLOAD-*) echo "${2#echo }" | cut -d";" -f1; exec sleep 20;; esac\n')
    shell.chmod(0o755)
    variables = hosts.variables("free", ansible_shell_executable=str(shell))
    done = hosts.play([upload(hosts, timeout_s=1)], variables)
    assert "gpu_1: no byte came through for 1 s. Run this again" in done.stdout, done.stdout


@pytest.mark.long
@pytest.mark.parametrize("state", ["unknown", "changed"])
def test_a_host_whose_key_is_not_the_known_one_is_refused(hosts: Hosts, state: str) -> None:
    known = hosts.directory / f"known_{state}"
    other = (hosts.directory / "bastion_key.pub").read_text()
    known.write_text(f"[127.0.0.1]:{hosts.servers['host'].port} {other}" if state == "changed" else "")
    arguments = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes"
    done = hosts.play([upload(hosts, become=True)], hosts.variables("free", ansible_ssh_common_args=arguments))
    assert "Host key verification failed" in done.stdout and "unreachable=1" in done.stdout, done.stdout
    hint = "If it was installed anew: ssh-keygen -R HOST" if state == "changed" else "Log in once by hand with ssh"
    assert (
        f"gpu_1: the {'host' if state == 'changed' else 'SSH key of the host'}, or" in done.stdout
        and hint in done.stdout
    )
    assert not target(hosts).exists()


@pytest.mark.long
def test_check_mode_names_the_files_and_changes_none(hosts: Hosts) -> None:
    task = upload(hosts, become=True, delete=True)
    done = hosts.play([task], hosts.variables("free"), "--check", "--diff")
    assert "changed=1" in done.stdout and "+ sub/program" in done.stdout, done.stdout
    assert not target(hosts).exists()

    hosts.play([task], hosts.variables("free"))
    (hosts.directory / "a source" / "file").unlink()
    (hosts.directory / "a source" / "sub" / "program").write_text("#!/bin/sh\nsecret\n")
    done = hosts.play([task], hosts.variables("free"), "--check", "--diff")
    assert "- file" in done.stdout and "~ sub/program" in done.stdout and "secret" not in done.stdout, done.stdout
    assert (target(hosts) / "file").exists()
    assert succeeded(hosts.play([task], hosts.variables("free")), hosts)


@pytest.mark.long
def test_what_is_chosen_is_sent_and_the_rest_is_left_alone(hosts: Hosts) -> None:
    source = hosts.directory / "a source"
    (source / "sub" / "__pycache__").mkdir()
    (source / "sub" / "__pycache__" / "cache").touch()
    for path in ("file", "sub/old/__pycache__/cache", "sub/__pycache__/kept"):
        (target(hosts) / path).parent.mkdir(parents=True, exist_ok=True)
        (target(hosts) / path).write_text("the host's\n")
    options = {"only": ["/sub/***"], "exclude": ["__pycache__"], "delete": True}
    done = hosts.play([upload(hosts, **options)], LOCAL)
    assert done.returncode == 0, done.stdout
    assert set(files(target(hosts))) == {
        "file", "sub", "sub/link", "sub/program", "sub/__pycache__", "sub/__pycache__/kept"
    }  # fmt: skip
    assert (target(hosts) / "file").read_text() == "the host's\n"


def test_links_to_another_disk_are_followed(hosts: Hosts, tmp_path: Path) -> None:
    source = hosts.directory / "a source"
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config").write_text("{}")
    (tmp_path / "x.bin").write_text("weights")
    (tmp_path / "bert" / "weights").symlink_to("../x.bin")
    (source / "x.bin").symlink_to(tmp_path / "x.bin")
    (source / "bert").symlink_to(tmp_path / "bert")
    interrupted = target(hosts) / "bert" / ".rsync-partial"
    interrupted.mkdir(parents=True)
    (interrupted / "weights").write_text("wei")
    options = {"follow": True, "resume": True, "delete": True}
    done = hosts.play([upload(hosts, **options), upload(hosts, **options)], LOCAL)
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    assert not [path for path in target(hosts).rglob("*") if path.is_symlink()]
    assert not interrupted.exists()
    expected = {"x.bin": "weights", "bert/config": "{}", "bert/weights": "weights", "sub/link": "#!/bin/sh\n"}
    assert expected.items() <= files(target(hosts)).items()


@pytest.mark.long
@pytest.mark.parametrize("keep", [True, False])
def test_modes(hosts: Hosts, keep: bool) -> None:
    (hosts.directory / "a source" / "file").chmod(0o666)
    done = hosts.play([upload(hosts, keep_modes=keep)], LOCAL)
    assert done.returncode == 0, done.stdout
    assert oct((target(hosts) / "file").stat().st_mode & 0o777) == ("0o666" if keep else "0o644")
    assert (target(hosts) / "sub" / "program").stat().st_mode & 0o111 == 0o111


@pytest.mark.long
def test_no_process_and_no_output_shows_a_password(hosts: Hosts) -> None:
    rsync, seen = hosts.directory / "bin" / "rsync", hosts.directory / "processes"
    rsync.parent.mkdir()
    rsync.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {shutil.which("rsync")} --version\n'
        f'{shutil.which("rsync")} "$@" & while kill -0 $! 2>/dev/null; do\n'
        f"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' >>{seen}; done; wait $!\n"
    )
    rsync.chmod(0o755)
    path = f"{rsync.parent}:{Path(shutil.which('sh') or '').parent}:/usr/bin:/usr/sbin:/bin:/sbin"
    variables = hosts.variables("asked", ansible_password=hosts.password, ansible_become_password=hosts.password)
    del variables["ansible_ssh_private_key_file"]
    environment = {"PATH": path, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}
    done = hosts.play([upload(hosts, become=True)], variables, "-vvvv", **environment)
    assert succeeded(done, hosts)
    assert "sudo" in seen.read_text() and "upload_relay.py" in seen.read_text()
    assert hosts.password not in seen.read_text() + done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "variables", "cause"),
    [
        ({"src": "/nowhere"}, LOCAL, "src: /nowhere is not a directory of the machine that Ansible runs on"),
        ({"dest": "relative"}, LOCAL, "dest: relative is not an absolute path"),
        ({"dest": "/proc/nothing"}, LOCAL, "gpu_1: rsync to /proc/nothing failed: rsync: "),
        ({}, {"ansible_connection": "other"}, "gpu_1: files are sent over ssh, or to the operator's own machine"),
    ],
)
def test_a_mistake_is_one_line(hosts: Hosts, options: dict[str, Any], variables: dict[str, Any], cause: str) -> None:
    (hosts.directory / "other.py").write_text(OTHER_CONNECTION)
    environment = {"ANSIBLE_CONNECTION_PLUGINS": str(hosts.directory)}
    done = hosts.play([upload(hosts, **options)], variables, **environment)
    assert done.returncode == 2 and cause in done.stdout, done.stdout


@pytest.mark.long
def test_the_operator_s_own_machine_without_rsync(hosts: Hosts, tmp_path: Path) -> None:
    done = hosts.play([upload(hosts)], LOCAL, PATH=str(tmp_path))
    assert "rsync where Ansible runs: found none. GNU's rsync 3.1 or later is needed" in done.stdout, done.stdout


@pytest.mark.long
def test_a_host_without_rsync(hosts: Hosts) -> None:
    """A shell whose PATH has nothing stands for the host."""
    empty = hosts.directory / "sh"
    empty.write_text('#!/bin/sh\nPATH=/nowhere exec /bin/sh "$@"\n')
    empty.chmod(0o755)
    variables = hosts.variables("free", ansible_shell_executable=str(empty))
    done = hosts.play([upload(hosts)], variables)
    assert "gpu_1: rsync is missing there. Install it" in done.stdout, done.stdout
    done = hosts.play([upload(hosts)], variables, "--check")
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout


@pytest.mark.long
def test_who_may_not_write_there_learns_it(hosts: Hosts) -> None:
    target(hosts).mkdir(mode=0o755)
    done = hosts.play([upload(hosts)], hosts.variables("free"))
    assert "Permission denied" in done.stdout and "The play needs become: true" in done.stdout, done.stdout


@pytest.mark.long
def test_a_full_disk_is_named(hosts: Hosts) -> None:
    target(hosts).mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", target(hosts)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine mounts no file systems")
    try:
        (hosts.directory / "a source" / "big").write_bytes(bytes(1 << 20))
        done = hosts.play([upload(hosts, become=True)], hosts.variables("free"))
    finally:
        subprocess.run(["umount", target(hosts)], check=True)
    assert f"no space is left at {target(hosts)}" in done.stdout, done.stdout

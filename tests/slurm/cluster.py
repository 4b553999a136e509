"""A real SLURM cluster on this machine, for tests: three nodes, four GPUs that do not exist.

Everything that it needs lies in one directory of its own and ends with it; root is not needed.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

GPU_NODES = ("gpu1", "gpu2")
NODES = (*GPU_NODES, "cpu1")
GPUS_PER_NODE = 2
CPUS_PER_NODE = 16
MB_PER_NODE = 16000

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr")

# What squeue and scontrol call the states after which a job does not run again.
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}

SLURM_CONF = """\
ClusterName=deepmr
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
# A requeued job waits cred_expire seconds (120 by default) before it starts again.
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_seconds}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log

# No cgroups: they need root and a machine of one's own.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
DefMemPerCPU=1000
# Nodes may be larger than this machine.
SlurmdParameters=config_overrides
GresTypes=gpu

ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
OverTimeLimit=0
KillWait=3
# Snakemake asks squeue about jobs that have ended, and tests do much later.
MinJobAge=7200
MaxJobCount=50000
{more}
"""


def available() -> str | None:
    """Why no cluster can be started here, or None."""
    missing = [name for name in DAEMONS if shutil.which(name, path=_system_path()) is None]
    return f"no {', '.join(missing)} (apt-get install slurm-wlm munge)" if missing else None


class Cluster:
    """munged, slurmctld and a slurmd for each of `NODES`.

    Parameters
    ----------
    account_cpu
        Record what every job step costs, for `cpu_seconds`.
    requeue_seconds
        How long SLURM holds back a job whose node died (its own default is 120). Also the lifetime
        of a job's credential, so not less than a busy machine needs to start a job.
    """

    def __init__(self, account_cpu: bool = False, requeue_seconds: int = 10) -> None:
        self._account_cpu = account_cpu
        self._requeue_seconds = requeue_seconds
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until all nodes take jobs."""
        # Not pytest's tmp_path: the path of a Unix socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        try:
            self._write_files()
            self._start_munge()
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self.wait_until(
                lambda: all(self.node_states().get(node) == "IDLE" for node in NODES),
                seconds=30,
                what="idle nodes",
            )
        except BaseException as error:
            error.add_note(self.logs())
            self.stop()
            raise

    def stop(self) -> None:
        """Kill all daemons and jobs and remove the directory."""
        # The nodes first, or they would start what is still pending.
        for name in sorted(self._daemons, key=lambda name: name in ("munged", "slurmctld")):
            self._kill(name)
        # Twice: what is killed first may just have started a child.
        for _ in range(2):
            for pid in self.job_processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # Killed processes may still be writing a last line.
        for _ in range(10):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)
        raise OSError(f"cannot remove {self.folder}")

    def environment(self) -> dict[str, str]:
        """Variables with which sbatch, squeue, Snakemake … find this cluster."""
        # Of a cluster on which the tests themselves may run nothing must be left.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not re.match(r"(SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SCANCEL|SINFO)_", name)
        }
        return {
            **kept,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{_system_path()}",
        }

    def run(self, *command: str) -> str:
        """Run a SLURM command and return what it prints."""
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def submit(self, command: str, *options: str) -> str:
        """Submit a shell command as a job of the directory `jobs` and return the job's id."""
        where = ("--chdir", str(self.folder / "jobs"))
        return self.run("sbatch", "--parsable", *where, *options, "--wrap", command)

    def start_controller(self) -> None:
        """Start slurmctld, which goes on with the jobs that it remembers."""
        self._spawn("slurmctld", "slurmctld", "-D")
        self.wait_until(self._controller_answers, seconds=30, what="slurmctld")

    def stop_controller(self) -> None:
        """Stop slurmctld as for maintenance: it remembers everything."""
        daemon = self._daemons.pop("slurmctld")
        daemon.terminate()
        daemon.wait(timeout=60)

    def kill_controller(self) -> None:
        """Kill slurmctld as a crash would: it may forget what it learnt in the last 5 seconds."""
        self._kill("slurmctld")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self._spawn(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """Kill the slurmd of a node; its jobs go on without it, as behind a cut cable."""
        self._kill(name)

    def notice_dead_node(self, name: str) -> None:
        """Tell slurmctld what it finds out by itself after 25 to 30 seconds."""
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=dead")

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, ended ones too: what was asked for and what became of them."""
        records = self.run("scontrol", "show", "job").split("\n\n")
        return [_job(record) for record in records if record.startswith("JobId=")]

    def job(self, job: str) -> dict[str, Any]:
        """One of `jobs`, by id."""
        return next(row for row in self.jobs() if row["id"] == job)

    def node_states(self) -> dict[str, str]:
        """State of each node; a * means that it does not answer."""
        rows = self.run("sinfo", "--noheader", "--Node", "--format", "%N %T").splitlines()
        return {node: state.upper() for node, state in map(str.split, rows)}

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds of all that each job ran, by id; steps that were killed may be missing."""
        steps: dict[tuple[str, str], float] = defaultdict(float)
        for line in (self.folder / "cpu").read_text().splitlines():
            job, step, *ticks = line.split()
            # The times of a slurmstepd grow with each of its tasks.
            steps[job, step] = max(steps[job, step], sum(map(int, ticks)))
        seconds: dict[str, float] = defaultdict(float)
        for (job, _), ticks in steps.items():
            seconds[job] += ticks / os.sysconf("SC_CLK_TCK")
        return dict(seconds)

    def wait_until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait until the condition holds, and return its value."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except RuntimeError as error:
                # While the controller is down no command answers.
                what_else = f" ({error})"
            else:
                what_else = ""
            if time.monotonic() > end:
                raise TimeoutError(f"no {what} after {seconds} s{what_else}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """Last lines of what each daemon said; with times it stands in `folder`."""
        files = sorted(self.folder.glob("*.out"))
        return "\n".join(
            f"== {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-15:])
            for file in files
        )

    def job_processes(self) -> list[int]:
        """Process ids of all job steps and of what they run."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        children: dict[int, list[int]] = defaultdict(list)
        mine = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # The second field, the name, may hold spaces and brackets.
                name, _, fields = (process / "stat").read_text().rpartition(")")
                variables = (process / "environ").read_bytes().split(b"\0")
                where = (process / "cwd").readlink()
            except OSError:  # it has ended, or is not ours to look into
                continue
            pid = int(process.name)
            children[int(fields.split()[1])].append(pid)
            # slurmstepd overwrites its environment, but stays where slurmd was started.
            step = name.endswith("(slurmstepd") and where == self.folder
            in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
            if step or (in_job and mark in variables):
                mine.append(pid)
        # A job may clear its environment; it is a descendant all the same.
        for pid in mine:
            mine.extend(child for child in children[pid] if child not in mine)
        return mine

    def _write_files(self) -> None:
        for name in ("state", "bin", "jobs", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        # slurmd wants a device for every GPU, and takes its number from the name.
        for gpu in range(GPUS_PER_NODE):
            (self.folder / f"gpu{gpu}").symlink_to("/dev/null")
        devices = f"{self.folder}/gpu[0-{GPUS_PER_NODE - 1}]"
        (self.folder / "gres.conf").write_text(
            f"NodeName={','.join(GPU_NODES)} Name=gpu File={devices}\n"
        )
        self._write_configuration()
        # Snakemake's job step plugin takes SLURM_CONF from srun.
        for name in CLIENTS:
            command = shutil.which(name, path=_system_path()) or name
            self._write_script(
                f"bin/{name}", f'SLURM_CONF={self.folder}/slurm.conf exec {command} "$@"'
            )
        # It runs in the slurmstepd, which has waited for the task.
        self._write_script(
            "account_cpu",
            "read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ children_user children_system _ "
            "</proc/$PPID/stat\n"
            'echo "$SLURM_JOB_ID" "$SLURM_STEP_ID.$PPID" "$children_user" "$children_system" '
            f">>{self.folder}/cpu",
        )
        (self.folder / "cpu").touch()

    def _write_configuration(self) -> None:
        size = f"CPUs={CPUS_PER_NODE} RealMemory={MB_PER_NODE} State=UNKNOWN"
        host = socket.gethostname().partition(".")[0]
        controller_port, *ports = free_ports(1 + len(NODES))
        more = [f"TaskEpilog={self.folder}/account_cpu"] if self._account_cpu else []
        for node, port in zip(NODES, ports, strict=True):
            gpus = f"Gres=gpu:{GPUS_PER_NODE} " if node in GPU_NODES else ""
            more.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {gpus}{size}"
            )
        times = "MaxTime=UNLIMITED DefaultTime=60"
        more.append(f"PartitionName=gpu Nodes={','.join(GPU_NODES)} {times}")
        more.append(f"PartitionName=cpu Nodes=cpu1 Default=YES {times}")
        (self.folder / "slurm.conf").write_text(
            SLURM_CONF.format(
                folder=self.folder,
                host=host,
                # A user in a container may have no name.
                user=os.getuid(),
                controller_port=controller_port,
                requeue_seconds=self._requeue_seconds,
                more="\n".join(more),
            )
        )

    def _write_script(self, name: str, body: str) -> None:
        script = self.folder / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o600)
        self._spawn(
            "munged",
            "munged",
            "--foreground",
            # The directory is private, munged would like others to reach its socket.
            "--force",
            f"--key-file={key}",
            f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munge.seed",
        )
        socket_file = self.folder / "munge.socket"
        self.wait_until(socket_file.exists, seconds=30, what="munged")

    def _spawn(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the tests; they stop the cluster.
                start_new_session=True,
            )

    def _kill(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def _controller_answers(self) -> bool:
        if self._daemons["slurmctld"].poll() is not None:
            raise OSError("slurmctld ended")
        return "UP" in self.run("scontrol", "ping")


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens, below those that the kernel gives to clients."""
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no free ports")


def _system_path() -> str:
    """PATH with the folders in which the daemons lie, which an ordinary user's may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _job(record: str) -> dict[str, Any]:
    """One record of `scontrol show job`."""
    lines = [line.strip() for line in record.splitlines()]
    # Text of the user's has a line of its own and may hold spaces; all else has none.
    whole = dict(line.split("=", 1) for line in lines if "=" in line)
    # What SLURM itself says stands first and wins over a = in such a text.
    words = [word for line in reversed(lines) for word in line.split() if "=" in word]
    fields = dict(word.split("=", 1) for word in words)
    return {
        "id": fields["JobId"],
        "name": fields["JobName"],
        "comment": whole.get("Comment", ""),
        "state": fields["JobState"],
        "reason": fields["Reason"],
        "partition": fields["Partition"],
        "nodes": fields["NodeList"].replace("(null)", ""),
        "cpus": int(fields["NumCPUs"]),
        "memory_mb": _memory_mb(fields["TRES"]),
        "gpus": _gpus(fields),
        "minutes": _minutes(fields["TimeLimit"]),
        "restarts": int(fields["Restarts"]),
        "exit_code": fields["ExitCode"],
        "folder": whole["WorkDir"],
        "log": whole["StdOut"],
    }


def _memory_mb(resources: str) -> int:
    """Memory of, say, cpu=1,mem=1.50G,node=1,billing=1."""
    found = re.search(r"\bmem=([\d.]+)([MGT])", resources)
    return int(float(found[1]) * {"M": 1, "G": 1024, "T": 1024**2}[found[2]]) if found else 0


def _gpus(fields: Mapping[str, str]) -> int:
    """GPUs of, say, TresPerJob=gres:gpu:1 (--gpus) or TresPerNode=gres:gpu:a100:1 (--gres)."""
    asked = [value for key, value in fields.items() if key.startswith("TresPer")]
    return sum(int(found) for value in asked for found in re.findall(r"gpu(?::\w*)?:(\d+)", value))


def _minutes(text: str) -> int | None:
    """Minutes of a time like 1-02:30:00; None for UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes

"""torchrun as simulated by npuops: starts the workers with torchrun's environment, ends as torchrun ends."""

import os
import signal
import socket
import subprocess
import sys
import time

USAGE = (
    "usage: torchrun [--nproc_per_node N] [--nnodes N] [--node_rank R] [--master_addr A] [--master_port P] [--standalone] [-m] program ... "
    "(simulated by npuops)"
)
WITH_VALUE = {
    "nproc_per_node": "1",
    "nnodes": "1",
    "node_rank": "0",
    "master_addr": "127.0.0.1",
    "master_port": "29500",
    "max_restarts": "0",
    "rdzv_backend": "static",
    "rdzv_endpoint": "",
    "rdzv_id": "none",
    "rdzv_conf": "",
    "monitor_interval": "0.1",
    "start_method": "spawn",
    "role": "default",
    "log_dir": "",
    "redirects": "0",
    "tee": "0",
    "local_addr": "",
    "local_ranks_filter": "",
}
FLAGS = ("standalone", "m", "module", "no_python", "run_path")


class ChildFailedError(Exception):
    """Bears torchrun's report."""


def parse(arguments):
    options, index = dict(WITH_VALUE, module=False, no_python=False, standalone=False), 0
    while index < len(arguments) and arguments[index].startswith("-"):
        name, equals, value = arguments[index].lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name in ("h", "help"):
            print(USAGE)
            sys.exit(0)
        if name in WITH_VALUE:
            if not equals:
                index += 1
                if index == len(arguments):
                    refuse("argument --%s: expected one argument" % name)
                value = arguments[index]
            options[name] = value
        elif name in FLAGS and not equals:
            options["module" if name == "m" else name] = True
        else:
            refuse("unrecognized arguments: %s" % arguments[index])
        index += 1
    if index == len(arguments):
        refuse("the following arguments are required: training_script, training_script_args")
    return options, arguments[index:]


def refuse(text):
    sys.stderr.write("%s\ntorchrun: error: %s\n" % (USAGE, text))
    sys.exit(2)


def workers(options):
    wanted = options["nproc_per_node"]
    if wanted in ("auto", "cpu"):
        return os.cpu_count() or 1
    try:
        return int(wanted)
    except ValueError:
        raise ValueError("Unsupported nproc_per_node value: %s" % wanted)


def listen(address, port):
    """The store's socket, held while the workers run, so that a port that is taken fails as it does there.

    Unlike the real one it waits a little first (NPUOPS_SIMULATOR_PORT_WAIT, seconds): two simulated nodes on one computer share its ports.
    """
    store = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    deadline = time.time() + float(os.environ.get("NPUOPS_SIMULATOR_PORT_WAIT", "20"))
    while True:
        try:
            store.bind((address, port))
            store.listen(8)
            return store
        except OSError as problem:
            error = problem
        if time.time() < deadline:
            time.sleep(0.2)
            continue
        raise RuntimeError(
            "The server socket has failed to listen on any local network address. useIpv6: 0, code: -98, name: EADDRINUSE, message: address already in use "
            "(port %d: %s)" % (port, error.strerror)
        )


def run(options, program):
    count = workers(options)
    command = program[:1] if options["no_python"] else [sys.executable, "-u"] + (["-m"] if options["module"] else []) + program[:1]
    if count > 1 and "OMP_NUM_THREADS" not in os.environ:
        sys.stderr.write(
            "\n*****************************************\nSetting OMP_NUM_THREADS environment variable for each process to be 1 in default, "
            "to avoid your system being overloaded, "
            "please further tune the variable for optimal performance in your application as needed. \n*****************************************\n"
        )
        os.environ["OMP_NUM_THREADS"] = "1"
    port = int(options["master_port"])
    store = listen(options["master_addr"] if options["master_addr"] not in ("", "localhost") else "127.0.0.1", port)
    children = []
    try:
        for rank in range(count):
            environment = dict(
                os.environ,
                LOCAL_RANK=str(rank),
                RANK=str(rank),
                GROUP_RANK="0",
                ROLE_RANK=str(rank),
                LOCAL_WORLD_SIZE=str(count),
                WORLD_SIZE=str(count),
                GROUP_WORLD_SIZE="1",
                ROLE_WORLD_SIZE=str(count),
                MASTER_ADDR=options["master_addr"],
                MASTER_PORT=str(port),
                TORCHELASTIC_RESTART_COUNT="0",
                TORCHELASTIC_MAX_RESTARTS="0",
                TORCHELASTIC_RUN_ID=options["rdzv_id"],
                TORCHELASTIC_USE_AGENT_STORE="False",
            )
            children.append(subprocess.Popen(command + program[1:], env=environment))
        watch(children, program[0])
    finally:
        store.close()


def watch(children, program):
    def stop(number, _frame):
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.time() + 30
        while time.time() < deadline and any(child.poll() is None for child in children):
            time.sleep(0.05)
        for child in children:
            if child.poll() is None:
                child.kill()
        sys.stderr.write("torch.distributed.elastic.multiprocessing.api.SignalException: Process %d got signal: %d\n" % (os.getpid(), number))
        sys.exit(1)

    signal.signal(signal.SIGTERM, stop)
    # Ctrl-C reaches the workers from the terminal; a SIGINT sent to torchrun alone is passed on.
    signal.signal(signal.SIGINT, lambda number, _frame: [child.send_signal(signal.SIGINT) for child in children if child.poll() is None])
    while True:
        states = [child.poll() for child in children]
        failed = [rank for rank, state in enumerate(states) if state not in (None, 0)]
        if failed:
            for child in children:
                if child.poll() is None:
                    child.terminate()
            for child in children:
                child.wait()
            raise ChildFailedError(report(program, failed[0], children[failed[0]]))
        if all(state == 0 for state in states):
            return
        time.sleep(0.05)


def report(program, rank, child):
    code = child.returncode
    name = signal.Signals(-code).name if code < 0 else ""
    line, thin = "=" * 60, "-" * 60
    sys.stderr.write(
        "E%s torch/distributed/elastic/multiprocessing/api.py:826] failed (exitcode: %d) local_rank: %d (pid: %d) of binary: %s\n"
        % (time.strftime("%m%d %H:%M:%S.000000"), code, rank, child.pid, sys.executable)
    )
    return "\n".join(
        [
            "",
            line,
            "%s FAILED" % program,
            thin,
            "Failures:",
            "  <NO_OTHER_FAILURES>",
            thin,
            "Root Cause (first observed failure):",
            "[0]:",
            "  time      : %s" % time.strftime("%Y-%m-%d_%H:%M:%S"),
            "  host      : %s" % socket.gethostname(),
            "  rank      : %d (local_rank: %d)" % (rank, rank),
            "  exitcode  : %d (pid: %d)" % (code, child.pid),
            "  error_file: <N/A>",
            "  traceback : %s"
            % ("Signal %d (%s) received by PID %d" % (-code, name, child.pid) if code < 0 else "To enable traceback see: torch's page on elastic errors"),
            line,
        ]
    )


def main(arguments=None):
    options, program = parse(list(sys.argv[1:] if arguments is None else arguments))
    try:
        run(options, program)
    except ChildFailedError as error:
        sys.stderr.write(
            "Traceback (most recent call last):\n  (simulated by npuops)\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: %s\n" % error
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

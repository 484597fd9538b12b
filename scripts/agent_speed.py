#!/usr/bin/env python3
"""How fast an agent takes in the output of a command, without a dashboard and
with one that has stopped to read, and what memory it needs for that.

    cargo build --release && scripts/deps --test
    PYTHONPATH=.tools/python python3 scripts/agent_speed.py target/release/signalbox [--mib 1024] [--rounds 3]

Starts `up` and an agent with directories of their own, and ends them. The limits
of both are lifted. A round is a command without and one with the stalled
dashboard; the ratio of their medians is to be at least 0.9.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import websocket

UNLIMITED = [f"--fleet-{what}=0" for what in (
    "output-per-minute", "output-per-hour", "messages-per-minute", "messages-per-hour", "burst",
    "requests-per-minute", "requests-per-hour")]
UNPACED = [f"--{what}=0" for what in (
    "output-per-minute", "output-per-hour", "messages-per-minute", "messages-per-hour", "burst")]
MIB = 1024 * 1024


def wait_for(what, condition, patience=120):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    sys.exit(f"no {what} within {patience} s")


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


class Watch(threading.Thread):
    """Samples the memory of a process."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.samples, self.running = pid, [], True

    def run(self):
        while self.running:
            self.samples.append(resident(self.pid))
            time.sleep(0.1)


def dashboard(url, key, stalled=False):
    options = []
    if stalled:
        # What the kernel takes is not what the dashboard has read.
        options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)]
    client = websocket.create_connection(
        url, header=[f"Authorization: Bearer {key}"], timeout=60, sockopt=options)
    client.send(json.dumps({"type": "dashboard:connect", "dashboardId": "speed"}))
    return client


def run(url, key, work, mib, stalled):
    """Runs a command; gives the seconds that writing took."""
    times = os.path.join(work, "times")
    if os.path.exists(times):
        os.remove(times)
    asking = dashboard(url, key)
    command = f"a=$(date +%s.%N); yes | head -c {mib}M; echo $a $(date +%s.%N) > times.new; mv times.new times"
    asking.send(json.dumps({"type": "command:request", "agentId": "speed", "command": command}))
    while json.loads(asking.recv())["type"] != "command:queued":
        pass
    watching = dashboard(url, key, stalled=True) if stalled else None
    asking.close()
    wait_for("end of the command", lambda: os.path.exists(times), 1200)
    with open(times) as file:
        begin, end = (float(word) for word in file.read().split())
    # The next one begins when this one is handed over.
    last = dashboard(url, key)
    while True:
        message = json.loads(last.recv())
        if message["type"] == "agent:list" and not message["agents"][0]["running"]:
            break
        if message["type"] == "agent:list":
            time.sleep(0.2)
            last.close()
            last = dashboard(url, key)
    last.close()
    if watching:
        watching.sock.close()
    return end - begin


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("signalbox")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    program = os.path.abspath(asked.signalbox)
    # What was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as directory:
        data, work = os.path.join(directory, "data"), os.path.join(directory, "work")
        os.mkdir(work)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        up = subprocess.Popen([program, "up", "--data-dir", data, "--listen", "127.0.0.1:0",
                               "--admin", "127.0.0.1:0", "--grpc", "127.0.0.1:0", *UNLIMITED], **quiet)
        agent = None
        try:
            runtime = os.path.join(data, "runtime.json")
            wait_for("runtime.json", lambda: os.path.exists(runtime))
            with open(runtime) as file:
                url = f"ws://{json.load(file)['listeners'][0]}/ws"
            with open(os.path.join(data, "credentials.json")) as file:
                key = json.load(file)["keys"]["operator"]
            log = open(os.path.join(directory, "agent.log"), "w+")
            agent = subprocess.Popen([program, "agent", "--data-dir", data, "--id", "speed", "--shell",
                                      "--workdir", work, *UNPACED], stdout=log, stderr=log)
            wait_for("agent", lambda: "serving" in open(log.name).read())
            watch = Watch(agent.pid)
            watch.start()
            took = {False: [], True: []}
            for number in range(asked.rounds):
                for stalled in (False, True):
                    seconds = run(url, key, work, asked.mib, stalled)
                    took[stalled].append(seconds)
                    print(f"round {number + 1} {'stalled dashboard' if stalled else 'no dashboard     '}"
                          f" {asked.mib / seconds:7.1f} MiB/s  agent {watch.samples[-1]:.0f} MiB", flush=True)
            watch.running = False
            without, with_one = statistics.median(took[False]), statistics.median(took[True])
            print(f"without {asked.mib / without:.1f} MiB/s, with {asked.mib / with_one:.1f} MiB/s,"
                  f" ratio {without / with_one:.3f}; memory of the agent: first {watch.samples[0]:.0f},"
                  f" most {max(watch.samples):.0f}, last {watch.samples[-1]:.0f} MiB")
        finally:
            for process in (agent, up):
                if process:
                    process.terminate()
                    process.wait(90)


main()

"""Answers calls of the tool `lookup_host`: what a host is and whose.

    pip install nats-py
    python3 docs/examples/lookup_host.py

It finds the bus of a running `signalbox up` through `.signalbox/runtime.json`, or
is told by the variable NATS_URL. Several may run at once: each call goes to one.
"""

import asyncio
import json
import os
import signal
import time

import nats

TOOL = "lookup_host"
# Where a real one would ask its inventory.
HOSTS = {
    "web-1": {"owner": "shop team", "role": "web server", "critical": True},
    "build-7": {"owner": "platform team", "role": "build machine", "critical": False},
}


def look_up(arguments):
    """What the tool does: gives a result, or raises with a sentence for the model."""
    host = arguments["host"]
    if host not in HOSTS:
        raise LookupError(f"there is no host {host} in the inventory")
    return {"host": host, **HOSTS[host]}


async def answer(message):
    call = json.loads(message.data)
    # Nobody waits for this answer any more.
    if time.time() * 1000 > call["deadline_ms"]:
        return
    print(f"{call['call_id']}: {json.dumps(call['arguments'])}", flush=True)
    try:
        reply = {"result": look_up(call["arguments"])}
    except LookupError as error:
        reply = {"error": str(error)}
    await message.respond(json.dumps(reply).encode())


def bus_url():
    if "NATS_URL" in os.environ:
        return os.environ["NATS_URL"]
    with open(".signalbox/runtime.json", encoding="utf-8") as file:
        return json.load(file)["responder_url"]


async def main():
    bus = await nats.connect(bus_url(), name=TOOL)
    await bus.subscribe(f"tools.{TOOL}", queue=TOOL, cb=answer)
    await bus.flush()
    print(f"answering tools.{TOOL}", flush=True)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    # Answers what has come, and takes nothing more.
    await bus.drain()


asyncio.run(main())

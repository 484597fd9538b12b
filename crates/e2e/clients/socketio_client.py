"""A Socket.IO client that does what it is told: one command per line on stdin,
what happens as one JSON value per line on stdout. Bytes are written as
{"bytes": [...]} both ways.

  {"join": ["/ns"], "options": {...}}       connects
  {"ns": "/ns", "emit": [name, argument]}   emits; with "ack": s, waits for the
                                            acknowledgement
  {"ns": "/ns", "cut": true}                breaks the transport
"""

import json
import sys
import threading

import socketio

URL = json.loads(sys.argv[1])["url"]
LOCK = threading.Lock()
# Without a spread: with one, the library may return before it has cleared away
# the connection that ended, and then clears away the new one.
client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=0.1, randomization_factor=0)


def outward(value):
    return {"bytes": list(value)} if isinstance(value, bytes) else value


def inward(value):
    if isinstance(value, dict) and "bytes" in value:
        return bytes(value["bytes"])
    return value


def say(**value):
    with LOCK:
        print(json.dumps(value), flush=True)


def listen(ns):
    client.on("connect", lambda: say(event="connect", ns=ns, transport=client.transport()), namespace=ns)
    client.on("connect_error", lambda data=None: say(event="connect_error", ns=ns, data=data), namespace=ns)
    client.on("disconnect", lambda reason: say(event="disconnect", ns=ns, reason=reason), namespace=ns)

    def anything(name, *args):
        say(event="message", ns=ns, name=name, args=[outward(argument) for argument in args])
        return ("answer", *args)

    client.on("*", anything, namespace=ns)


def obey(command):
    if "join" in command:
        for ns in command["join"]:
            listen(ns)
        try:
            client.connect(URL, namespaces=command["join"], **command.get("options", {}))
        except socketio.exceptions.ConnectionError as error:
            say(event="failed", message=str(error))
        return
    ns = command["ns"]
    if "emit" in command:
        name, argument = command["emit"]
        if "ack" not in command:
            client.emit(name, inward(argument), namespace=ns)
            return
        try:
            answer = client.call(name, inward(argument), namespace=ns, timeout=command["ack"])
            say(event="ack", ns=ns, answer=outward(answer))
        except socketio.exceptions.TimeoutError:
            say(event="ack", ns=ns, error="timeout")
    elif "cut" in command:
        client.eio.disconnect(abort=True)


say(event="ready")
for line in sys.stdin:
    obey(json.loads(line))

"""Many python-socketio clients in one process, which take no part in recovery:
each resumes by the last position that it has of every room. Settings, commands
and output are those of crowd.mjs.
"""

import json
import sys
import threading

import engineio
import socketio

LOCK = threading.RLock()
READY = 0


def say(**value):
    with LOCK:
        print(json.dumps(value), flush=True)


class Engine(engineio.Client):
    """Hands messages over in the order in which they come: the library starts a
    thread for each, and threads overtake each other.
    """

    def _trigger_event(self, event, *args, **kwargs):
        if event == "message":
            kwargs["run_async"] = False
        return super()._trigger_event(event, *args, **kwargs)


class Client(socketio.Client):
    def _engineio_client_class(self):
        return Engine


class Member:
    """One client. Its handlers run in threads of the library."""

    def __init__(self, number, url, token, rooms):
        self.id = number
        self.url = url
        self.token = token
        self.rooms = rooms
        self.connects = 0
        self.recovered = 0
        self.troubles = []
        self.lanes = {}
        self.since = {}
        self.confirmed = set()
        self.lock = threading.Lock()
        # Without a spread the library has cleared away what ended before it
        # returns.
        self.client = Client(
            reconnection_delay=0.3, reconnection_delay_max=0.3, randomization_factor=0
        )
        self.client.on("connection_established", self.on_established, namespace="/ws")
        self.client.on("disconnect", self.on_disconnect, namespace="/ws")
        self.client.on("*", self.on_event, namespace="/ws")

    def auth(self):
        auth = {"token": self.token}
        with self.lock:
            if "personal" in self.since:
                auth["since"] = self.since["personal"]
        return auth

    def start(self):
        self.client.connect(
            self.url, namespaces=["/ws"], auth=self.auth, retry=True, wait_timeout=30
        )

    def on_disconnect(self, reason):
        if reason == self.client.reason.SERVER_DISCONNECT:
            self.troubles.append(reason)

    def on_established(self, event):
        data = event["data"]
        self.connects += 1
        with self.lock:
            if "personal" in self.since:
                self.recovered += data.get("recovered") is True
            else:
                self.since["personal"] = data["seq"]
        self.confirm("personal")
        for room in self.rooms:
            with self.lock:
                ask = {"room": room}
                if room in self.since:
                    ask["since"] = self.since[room]
            self.client.emit("subscribe", ask, namespace="/ws", callback=self.joined(room))

    def joined(self, room):
        def answer(answer):
            if answer.get("status") != "success":
                self.troubles.append(f"subscribe: {answer}")
                return
            with self.lock:
                self.since.setdefault(room, answer["seq"])
            self.confirm(room)

        return answer

    def on_event(self, name, body, *rest):
        if rest:
            self.troubles.append(f"{name} came with another argument: {rest}")
        data = body.get("data", {}) if isinstance(body, dict) else {}
        if "lane" not in data:
            if name.endswith("_error"):
                self.troubles.append(f"{name}: {body}")
            return
        lane = data["lane"]
        with self.lock:
            self.lanes.setdefault(lane, []).append(data["n"])
            # The room "both" goes to as well is the project's; the other is
            # another user's.
            place = self.rooms[0] if lane in (*self.rooms, "both") else "personal"
            self.since[place] = body["seq"]

    def confirm(self, what):
        global READY
        with self.lock:
            done = len(self.confirmed) > len(self.rooms)
            self.confirmed.add(what)
            newly = not done and len(self.confirmed) > len(self.rooms)
        if newly:
            # Told in order: whoever waits for the last is told nothing behind it.
            with LOCK:
                READY += 1
                say(event="ready", count=READY)

    def report(self):
        with self.lock:
            return {
                "id": self.id,
                "connects": self.connects,
                "recovered": self.recovered,
                "troubles": list(self.troubles),
                "lanes": {lane: list(numbers) for lane, numbers in self.lanes.items()},
            }


def main():
    given = json.loads(sys.argv[1])
    members = [
        Member(client["id"], client["url"], given["token"], client.get("rooms", []))
        for client in given["clients"]
    ]
    for member in members:
        threading.Thread(target=member.start, daemon=True).start()
    for line in sys.stdin:
        if json.loads(line).get("report"):
            say(event="report", clients=[member.report() for member in members])


main()

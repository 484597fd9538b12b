"""A dashboard on dialect mesh, on the library websocket-client: connects with
the token on the URL, subscribes, says what it hears and when it is closed."""

import json
import sys
import threading

import websocket

SETTINGS = json.loads(sys.argv[1])
LOCK = threading.Lock()


def say(**value):
    with LOCK:
        print(json.dumps(value), flush=True)


class Dashboard:
    """Calls whoever asked for messages of a type."""

    def __init__(self, url, token):
        self.handlers = {}
        self.socket = websocket.WebSocketApp(
            f"{url}?token={token}",
            on_open=self.opened,
            on_message=self.heard,
            on_close=lambda _socket, code, reason: say(event="close", code=code, reason=reason),
        )

    def on(self, kind, handler):
        self.handlers.setdefault(kind, []).append(handler)

    def opened(self, _socket):
        say(event="open")
        for channel in SETTINGS["channels"]:
            self.send(type="subscribe", channel=channel)

    def heard(self, _socket, text):
        message = json.loads(text)
        for handler in self.handlers.get(message["type"], []):
            handler(message)

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def run(self):
        thread = threading.Thread(target=self.socket.run_forever)
        thread.start()
        thread.join()


dashboard = Dashboard(SETTINGS["url"], SETTINGS["token"])
for kind in ["subscribed", "unsubscribed", "error", "pong", *SETTINGS["events"]]:
    dashboard.on(kind, lambda message: say(frame=message))
dashboard.on("subscribed", lambda _message: dashboard.send(type="ping"))
dashboard.run()

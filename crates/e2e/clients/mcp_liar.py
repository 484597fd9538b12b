"""A tool server without the SDK, which would not let it lie: what it lists and says
is wrong in every way that a line of JSON can be. Its first argument is a JSON
object with `journal`, a file that is appended a line to for all that happens."""

import json
import os
import sys

SETTINGS = json.loads(sys.argv[1])
OBJECT = {"type": "object"}


def loop(value):
    return {"type": "object", "properties": {"a": value}}


TOOLS = [
    {"name": "fine", "inputSchema": OBJECT},
    {"name": "nonsense", "inputSchema": loop({"type": "strong"})},
    {"name": "endless", "inputSchema": loop({"$ref": "#/properties/a"})},
    {"name": "outside", "inputSchema": loop({"$ref": "file:///etc/passwd"})},
    {"name": "list", "inputSchema": {"type": "array"}},
    {"name": "twice", "inputSchema": OBJECT, "description": "The first."},
    {"name": "twice", "inputSchema": OBJECT, "description": "The second."},
    {"name": "a/b", "inputSchema": OBJECT},
    {"name": "a b", "inputSchema": OBJECT},
    {"name": "n" * 80, "inputSchema": OBJECT},
    {"name": "number", "inputSchema": 7},
    "no tool at all",
    {"name": "large", "inputSchema": {"type": "object", "description": "x" * 20000}},
]


def say(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


with open(SETTINGS["journal"], "a") as file:
    file.write(f"up {os.getpid()}\n")
for line in sys.stdin:
    message = json.loads(line)
    which, method = message.get("id"), message.get("method")
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        server = {"name": "liar\x1b[2J", "version": "0"}
        say({"id": which, "result": {
            "protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server,
        }})
    elif method == "tools/list":
        # Answers to nothing, and nonsense.
        say({"id": 4711, "result": {"tools": []}})
        say({"id": None, "error": {"code": -1, "message": "no"}})
        say({"method": "notifications/nonsense", "params": {"a": ["b"]}})
        print("[[[[", "null", "7", '"x"', "{}", "[]", sep="\n", flush=True)
        sys.stdout.buffer.write(b"\xff\xfe\x00\n")
        sys.stdout.flush()
        say({"id": which, "result": {"tools": TOOLS}})
    elif method == "tools/call":
        # What is no result of a tool.
        say({"id": which, "result": {"content": "nothing of the kind"}})

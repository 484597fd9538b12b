// A Socket.IO client that does what it is told: one command per line on stdin, what happens as one
// JSON value per line on stdout. Bytes are written as {"bytes": [...]} both ways.
//
//   {"join": "/ns", "options": {...}}          connects a namespace
//   {"ns": "/ns", "emit": [name, ...]}          emits; with "ack": ms, waits for the acknowledgement
//   {"ns": "/ns", "cut": true}                  breaks the transport, as a network does
//   {"ns": "/ns", "leave": true}                leaves the namespace
//   {"ns": "/ns", "secret": true}               tells what the library remembers for its recovery
//   {"ns": "/ns", "move": url}                  uses another server from its next attempt on

import process from "node:process";
import readline from "node:readline";
import { io } from "socket.io-client";

import { emit, settings } from "./lib.mjs";

const { url } = settings();
const sockets = new Map();

function outward(value) {
  if (Buffer.isBuffer(value)) {
    return { bytes: [...value] };
  }
  return value;
}

function inward(value) {
  return Array.isArray(value?.bytes) ? Buffer.from(value.bytes) : value;
}

function join(ns, options = {}) {
  const socket = io(url + ns, { reconnectionDelay: 20, reconnectionDelayMax: 50, ...options });
  const transport = () => socket.io.engine?.transport.name;
  sockets.set(ns, socket);
  socket.on("connect", () => {
    emit({ event: "connect", ns, id: socket.id, recovered: socket.recovered === true, transport: transport() });
    const { engine } = socket.io;
    if (transport() === "polling") {
      engine.once("upgrade", () => emit({ event: "upgrade", ns, transport: transport() }));
    }
  });
  socket.on("connect_error", (err) =>
    emit({ event: "connect_error", ns, message: err.message, data: err.data, active: socket.active }),
  );
  socket.on("disconnect", (reason) =>
    emit({ event: "disconnect", ns, reason, active: socket.active }),
  );
  socket.onAny((name, ...args) => {
    const answer = typeof args.at(-1) === "function" ? args.pop() : undefined;
    emit({ event: "message", ns, name, args: args.map(outward) });
    answer?.("answer", ...args);
  });
}

async function obey(command) {
  if (command.join !== undefined) {
    join(command.join, command.options);
    return;
  }
  const { ns } = command;
  const socket = sockets.get(ns);
  if (command.emit && command.ack !== undefined) {
    try {
      const args = command.emit.map(inward);
      const answer = await socket.timeout(command.ack).emitWithAck(...args);
      emit({ event: "ack", ns, answer: outward(answer) });
    } catch (error) {
      emit({ event: "ack", ns, error: error.message });
    }
  } else if (command.emit) {
    socket.emit(...command.emit.map(inward));
  } else if (command.cut) {
    socket.io.engine.close();
  } else if (command.leave) {
    socket.disconnect();
  } else if (command.secret) {
    emit({ event: "secret", ns, pid: socket._pid });
  } else if (command.move) {
    socket.io.uri = command.move;
  }
}

emit({ event: "ready" });
for await (const line of readline.createInterface({ input: process.stdin })) {
  obey(JSON.parse(line));
}
process.exit(0);

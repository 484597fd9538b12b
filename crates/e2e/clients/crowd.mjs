// Many stock Socket.IO clients in one process. Each keeps a list of what it received, lane by lane: events
// carry {"lane": NAME, "n": NUMBER} in their data.
//
// Settings: {"url": any, "token", "clients": [{"id", "url", "dialect", "rooms", "options"}]}
// Commands on stdin, one JSON value per line:
//   {"report": true}    prints {"event": "report", "clients": [...]}
// Prints {"event": "ready", "count": N} whenever more clients have everything confirmed.

import process from "node:process";
import readline from "node:readline";
import { io } from "socket.io-client";

import { emit, settings } from "./lib.mjs";

const given = settings();
const { token } = given;
const clients = given.clients.map(begin);
let told = 0;

function begin({ id, url, dialect, rooms = [], options = {} }) {
  const client = { id, connects: 0, recovered: 0, confirmed: false, troubles: [], ends: [], lanes: {}, left: rooms.length };
  const auth = dialect === "workspace" ? { token } : {};
  const socket = io(`${url}/ws`, {
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 500,
    auth,
    ...options,
  });
  const confirm = () => {
    if (!client.confirmed && client.left === 0) {
      client.confirmed = true;
      tell();
    }
  };
  socket.on("connect", () => {
    client.connects += 1;
    client.recovered += socket.recovered ? 1 : 0;
    if (dialect === "pipeline") {
      socket.emit("authenticate", { token });
    }
  });
  socket.on("connect_error", (error) => {
    // The gateway may be away; what counts is a refusal by it.
    if (!socket.active || error.data !== undefined) {
      client.troubles.push(`connect_error: ${error.message}`);
    }
  });
  socket.on("disconnect", (reason) => {
    if (reason === "io server disconnect") {
      client.troubles.push(reason);
    }
  });
  // Every end of a transport, also of one that never got as far as a connect.
  socket.io.on("close", (reason, details) => {
    const { status } = details?.context ?? {};
    const buffered = socket.receiveBuffer.length;
    client.ends.push({ reason, details: details?.description?.message ?? details?.message, status, buffered });
  });
  socket.on("authenticated", () => {
    client.left = 0;
    confirm();
  });
  if (dialect === "pipeline") {
    client.left = 1;
  }
  // Once, as clients do: what was subscribed to comes back with the session.
  socket.once("connection_established", () => {
    confirm();
    for (const room of rooms) {
      socket.emit("subscribe", { room }, (answer) => {
        if (answer.status !== "success") {
          client.troubles.push(`subscribe: ${JSON.stringify(answer)}`);
        }
        client.left -= 1;
        confirm();
      });
    }
  });
  socket.onAny((name, body) => {
    const lane = body?.data?.lane;
    if (lane !== undefined) {
      (client.lanes[lane] ??= []).push(body.data.n);
    } else if (name.endsWith("_error") || name === "error") {
      client.troubles.push(`${name}: ${JSON.stringify(body)}`);
    }
  });
  client.socket = socket;
  return client;
}

function tell() {
  told += 1;
  emit({ event: "ready", count: told });
}

function report() {
  const list = clients.map(({ id, connects, recovered, troubles, ends, lanes, socket }) => {
    return { id, connects, recovered, troubles, ends, lanes, transport: socket.io.engine?.transport.name };
  });
  emit({ event: "report", clients: list });
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  if (JSON.parse(line).report) {
    report();
  }
}
process.exit(0);

// Somebody in an investigation, on the `ws` library: authenticates, subscribes,
// prints everything that comes, and sends every line of standard input as it is.
//
// Argument: { url, token, investigation_id, client_info?, since? }
// Output:   { frame } | { event: "error" } | { event: "close", code, reason }

import { createInterface } from "node:readline";

import { WebSocket } from "ws";

import { emit, settings } from "./lib.mjs";

const { url, token, investigation_id, client_info, since } = settings();
const socket = new WebSocket(url);
const send = (frame) => socket.send(JSON.stringify(frame));

socket.on("open", () => send({ type: "authenticate", token, client_info }));
socket.on("message", (data) => {
  const frame = JSON.parse(data);
  emit({ frame });
  if (frame.type === "auth_success") {
    send({ type: "subscribe", channel: "investigation_progress", investigation_id, since });
  }
});
socket.on("error", ({ message }) => emit({ event: "error", message }));
socket.on("close", (code, reason) => {
  emit({ event: "close", code, reason: String(reason) });
  process.exit(0);
});
createInterface({ input: process.stdin }).on("line", (line) => socket.send(line));

// A threat dashboard without a framework, as on a browser's global WebSocket:
// authenticates once the socket is open, subscribes once that has succeeded,
// and prints everything that comes.
//
// Argument: { url, token, client_info?, subscribe?: [frame, …], exit_after?: { type: number } }
// Output:   { event: "open" } | { frame } | { event: "error" } | { event: "close", code, reason }

import { WebSocket } from "ws";

import { Countdown, emit, settings } from "./lib.mjs";

globalThis.WebSocket = WebSocket;

const { url, token, client_info, subscribe = [{ channel: "threat_alerts" }], exit_after } = settings();
const countdown = new Countdown(exit_after);
const socket = new globalThis.WebSocket(url);
const send = (frame) => socket.send(JSON.stringify(frame));

socket.onopen = () => {
  emit({ event: "open" });
  send({ type: "authenticate", token, client_info });
};

socket.onmessage = ({ data }) => {
  const frame = JSON.parse(data);
  emit({ frame });
  if (frame.type === "auth_success") {
    for (const wanted of subscribe) {
      send({ type: "subscribe", ...wanted });
    }
  }
  if (countdown.count(frame.type)) {
    socket.close(1000);
  }
};

socket.onerror = ({ message }) => emit({ event: "error", message });
socket.onclose = ({ code, reason }) => emit({ event: "close", code, reason });

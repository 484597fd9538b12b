// A mesh dashboard without a framework: one listener list per message type,
// the token on the URL, one channel. The socket's own open and close are told
// to listeners of `connected` and `disconnected`, as dashboards like to do, so
// that no message of the server may have these types.
//
// Argument: { url, token, channel, exit_after?: { type: number } }
// Output:   { event: "connected" } | { frame } | { event: "disconnected", code, reason }

import { WebSocket } from "ws";

import { Countdown, emit, settings } from "./lib.mjs";

const { url, token, channel, exit_after } = settings();
const countdown = new Countdown(exit_after);
const listeners = new Map();
const on = (type, listener) => listeners.set(type, [...(listeners.get(type) ?? []), listener]);
const tell = (type, value) => (listeners.get(type) ?? []).forEach((listener) => listener(value));

const socket = new WebSocket(`${url}?token=${token}`);
socket.onopen = () => tell("connected", {});
socket.onclose = ({ code, reason }) => tell("disconnected", { code, reason });
socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  tell(message.type, message);
};

on("connected", () => {
  emit({ event: "connected" });
  socket.send(JSON.stringify({ type: "subscribe", channel }));
});
on("disconnected", (closed) => emit({ event: "disconnected", ...closed }));
for (const type of ["subscribed", "network_event", "consensus_event", "security_event", "monitoring_event", "error"]) {
  on(type, (frame) => {
    emit({ frame });
    if (countdown.count(type)) {
      socket.close(1000);
    }
  });
}

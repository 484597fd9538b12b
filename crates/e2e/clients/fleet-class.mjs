// A fleet dashboard as people write them: a class around one socket, a handler
// per message type, the token in a header or in the URL, a heartbeat, and a
// return with a growing pause.
//
// Argument: { url, token, where: "header" | "query", command?: { agentId, command, args }, heartbeat_ms?, exit_after? }
// Output:   { event: "open" } | { frame } | { event: "close", code, reason }

import { WebSocket } from "ws";

import { Countdown, emit, settings } from "./lib.mjs";

const given = settings();
const countdown = new Countdown(given.exit_after);

class Dashboard {
  #handlers = new Map();
  #attempts = 0;
  #timer;
  #ended = false;

  constructor(url, token, where) {
    this.url = url;
    this.token = token;
    this.where = where;
  }

  on(type, handler) {
    this.#handlers.set(type, handler);
  }

  connect() {
    this.socket =
      this.where === "query"
        ? new WebSocket(`${this.url}?token=${this.token}`)
        : new WebSocket(this.url, { headers: { Authorization: `Bearer ${this.token}` } });
    this.socket.onopen = () => {
      this.#attempts = 0;
      emit({ event: "open" });
      this.send({ type: "dashboard:connect", dashboardId: `dashboard-${Date.now()}` });
      this.#timer = setInterval(() => this.send({ type: "heartbeat:ping" }), given.heartbeat_ms ?? 30_000);
    };
    this.socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      this.#handlers.get(message.type)?.(message);
    };
    this.socket.onerror = () => {};
    this.socket.onclose = ({ code, reason }) => {
      clearInterval(this.#timer);
      emit({ event: "close", code, reason });
      if (!this.#ended && code !== 1008) {
        setTimeout(() => this.connect(), Math.min(1000 * 2 ** this.#attempts++, 30_000));
      }
    };
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ ...message, timestamp: new Date().toISOString() }));
    }
  }

  end() {
    this.#ended = true;
    this.send({ type: "dashboard:disconnect", dashboardId: "any" });
  }
}

const dashboard = new Dashboard(given.url, given.token, given.where);
const types = [
  "agent:list", "agent:status", "command:queued", "command:status", "command:complete", "command:error",
  "terminal:output", "heartbeat:pong", "connection:error", "validation:error",
];
for (const type of types) {
  dashboard.on(type, (frame) => {
    emit({ frame });
    if (type === "agent:list" && given.command) {
      dashboard.send({ type: "command:request", priority: "normal", ...given.command });
    }
    if (countdown.count(type)) {
      dashboard.end();
    }
  });
}
dashboard.connect();

// A threat dashboard in React: a hook keeps the connection and the list of
// threats, a component shows it, and jsdom stands in for the browser.
//
// Argument: { url, token, subscribe?: [frame, …], exit_after?: { type: number } }
// Output:   { state: { connected, threats, shown } } after every change of state, threats
//           newest first and `shown` as read from the page, and
//           { event: "close", code, reason }

import { JSDOM } from "jsdom";
import { WebSocket } from "ws";

import { Countdown, emit, settings } from "./lib.mjs";

const page = new JSDOM('<!doctype html><div id="root"></div>', { url: "http://localhost/" });
for (const name of ["window", "document", "navigator"]) {
  // Newer versions of node have a navigator that cannot be assigned to.
  Object.defineProperty(globalThis, name, { value: page.window[name], configurable: true });
}
globalThis.IS_REACT_ACT_ENVIRONMENT = true;
window.WebSocket = WebSocket;

// Loaded only now: React looks for a browser when it is loaded.
const { act, createElement, useEffect, useRef, useState } = await import("react");
const { createRoot } = await import("react-dom/client");

const { url, token, subscribe = [{ channel: "threat_alerts" }], exit_after } = settings();
const countdown = new Countdown(exit_after);

/** Outside of `act`, React would postpone what a message changes. */
const acting = (handle) => (event) => act(() => handle(event));

function useThreats(address, credential, leave) {
  const [connected, setConnected] = useState(false);
  const [threats, setThreats] = useState([]);
  const socket = useRef(null);

  useEffect(() => {
    const current = new window.WebSocket(address);
    socket.current = current;
    const send = (frame) => current.send(JSON.stringify(frame));
    current.onopen = () => send({ type: "authenticate", token: credential });
    current.onmessage = acting(({ data }) => {
      const frame = JSON.parse(data);
      if (frame.type === "auth_success") {
        setConnected(true);
        subscribe.forEach((wanted) => send({ type: "subscribe", ...wanted }));
      } else if (frame.type === "threat_alert") {
        setThreats((earlier) => [frame.data, ...earlier]);
      }
      if (countdown.count(frame.type)) {
        leave();
      }
    });
    current.onclose = acting(({ code, reason }) => {
      setConnected(false);
      emit({ event: "close", code, reason });
    });
    current.onerror = () => {};
    return () => current.close();
  }, [address, credential, leave]);

  return { connected, threats };
}

function Dashboard({ leave }) {
  const { connected, threats } = useThreats(url, token, leave);

  useEffect(() => {
    const shown = [...document.querySelectorAll("li")].map((item) => item.textContent);
    emit({ state: { connected, threats, shown } });
  }, [connected, threats]);

  const items = threats.map((threat) =>
    createElement("li", { key: threat.incident_id }, `${threat.severity} ${threat.threat_type}`),
  );
  return createElement("ul", null, items);
}

const root = createRoot(document.getElementById("root"));
/** Leaves once the current change has been shown, as closing the tab would. */
const leave = () => setImmediate(() => act(() => root.unmount()));
await act(() => root.render(createElement(Dashboard, { leave })));

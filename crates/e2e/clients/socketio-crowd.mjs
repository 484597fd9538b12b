// Many Socket.IO clients in one process that count what they get. Each comes
// back by itself, whatever breaks.
//
// Argument: { url, clients, auth, event, transports: [[name, …], …] }, the
// transports taken in turn.
// Output:   { event: "established", clients } when all are in for the first time
// Commands, one per line on stdin:
//   {"await": last}     answers { event: "done", clients: [...] } once each has
//                       had the event with the id `last`
// Of each client: { ids: [...], connects, recovered, lost, transport, upgrades }

import process from "node:process";
import readline from "node:readline";
import { io } from "socket.io-client";

import { emit, settings } from "./lib.mjs";

const { url, clients, auth, event, transports } = settings();
const crowd = [];
let established = 0;
let last;

function look() {
  if (last === undefined || crowd.some(({ ids }) => ids.at(-1) !== last)) {
    return;
  }
  last = undefined;
  emit({
    event: "done",
    clients: crowd.map(({ socket, ...record }) => ({ ...record, transport: socket.io.engine?.transport?.name })),
  });
}

for (let number = 0; number < clients; number += 1) {
  const socket = io(`${url}/ws`, {
    auth,
    transports: transports[number % transports.length],
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
  });
  const member = { socket, ids: [], connects: 0, recovered: 0, lost: 0, upgrades: 0 };
  crowd.push(member);
  socket.on("connect", () => {
    member.connects += 1;
    member.recovered += socket.recovered ? 1 : 0;
    socket.io.engine.once("upgrade", () => (member.upgrades += 1));
  });
  socket.on("connection_established", ({ data }) => {
    if (data.recovered === false) {
      member.lost += 1;
    }
    if (member.connects === 1) {
      established += 1;
      if (established === clients) {
        emit({ event: "established", clients });
      }
    }
  });
  socket.on(event, ({ id }) => {
    member.ids.push(id);
    look();
  });
}

emit({ event: "ready" });
for await (const line of readline.createInterface({ input: process.stdin })) {
  last = JSON.parse(line).await;
  look();
}
process.exit(0);

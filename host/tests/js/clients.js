// The clients that the tests speak through, made alike: same calls, same answers, whoever wrote them.

import * as phoenix from "phoenix";
import WebSocket from "ws";

import * as bennu from "../../assets/bennu.js";
import { phoenix1_2, phoenix1_7 } from "./old-phoenix.js";
import { DEADLINE_MS, within } from "./server.js";

/** No test waits longer than it must for a client to come back. */
const QUICKLY = { reconnectAfterMs: () => 20, rejoinAfterMs: () => 20 };

/**
 * A client: its `socket` for an address, and what it is like where it is not like phoenix.js of today over WebSocket.
 *
 * `mount` is where it connects. `sendsBytes` and `hearsBytes` say what it can besides JSON. `refusal` is the status of a
 * refused join; without `givesReasons` its dialect does not say why. It is not `inOrder` if it has several POSTs under way
 * at a time. Not `anyName` means that its Presence cannot have somebody called `__proto__`.
 */
const client = (name, { Socket, Presence }, options, traits = {}) => ({
  name,
  socket: (url) => new Socket(url, { ...QUICKLY, ...options }),
  Presence,
  mount: "/socket",
  sendsBytes: true,
  hearsBytes: true,
  refusal: "error",
  givesReasons: true,
  inOrder: true,
  anyName: true,
  ...traits,
});

const overWebSocket = { transport: WebSocket };
/** Writes bytes over long polling, but does not read them. */
const deaf = { hearsBytes: false };
const old = { anyName: false };
/** Speaks version 1, which has no binary messages. */
const oldest = { ...old, sendsBytes: false, hearsBytes: false };
/** It joins again and again until it is answered, and takes only the answer to the last of these joins. */
const slowly = { reconnectAfterMs: () => 500 };
const withManyPosts = { ...oldest, inOrder: false };
const phoenix0_11 = { mount: "/ws", sendsBytes: false, hearsBytes: false, refusal: "ignore", givesReasons: false };

export const clients = [
  client("phoenix.js over WebSocket", phoenix, overWebSocket),
  client("phoenix.js over long polling", phoenix, { transport: phoenix.LongPoll }, deaf),
  client("phoenix.js 1.7 over WebSocket", phoenix1_7, overWebSocket, old),
  client("phoenix.js 1.7 over long polling", phoenix1_7, { transport: phoenix1_7.LongPoll }, { ...old, ...deaf }),
  client("phoenix.js 1.2 over WebSocket", phoenix1_2, { ...overWebSocket, ...slowly }, oldest),
  client("phoenix.js 1.2 over long polling", phoenix1_2, { transport: phoenix1_2.LongPoll, ...slowly }, withManyPosts),
  client("bennu.js over WebSocket", bennu, overWebSocket),
  client("bennu.js over long polling", bennu, { transport: "longpoll" }),
  client("bennu.js in 0.11 over WebSocket", bennu, { ...overWebSocket, dialect: "0.11" }, phoenix0_11),
  client("bennu.js in 0.11 over long polling", bennu, { transport: "longpoll", dialect: "0.11" }, phoenix0_11),
];

/** Beside which the others are heard. */
export const [witness] = clients;

const fallback = { ...overWebSocket, longPollFallbackMs: DEADLINE_MS };

/** Those that know what to do without a WebSocket, where there is none. */
export const fallingBack = [
  client("phoenix.js", phoenix, fallback, { mount: "/polled" }),
  client("bennu.js", bennu, fallback, { mount: "/polled" }),
];

/** A connected socket, disconnected when the test is over. Counts how often it was opened. */
export function connect(t, client, server) {
  const socket = client.socket(server.at(client.mount));
  const connection = { socket, opens: 0 };
  socket.onOpen(() => (connection.opens += 1));
  socket.connect();
  t.after(() => socket.disconnect());
  return connection;
}

/** What a push was answered with: `{status, response}`. */
export function answer(push) {
  const answered = new Promise((resolve) => {
    for (const status of ["ok", "error", "ignore", "timeout"]) {
      push.receive(status, (response) => resolve({ status, response }));
    }
  });
  return within(`answer to ${push.event}`, answered);
}

/** A joined channel and the answer to its join. */
export async function join(socket, topic, params = {}) {
  const channel = socket.channel(topic, params);
  const { status, response } = await answer(channel.join());
  if (status !== "ok") throw new Error(`join of ${topic}: ${status} ${JSON.stringify(response)}`);
  return { channel, response };
}

/** Keeps what it is given, and lets a test wait until there is enough of it. */
export class Inbox {
  all = [];
  #waiting = [];

  /** An inbox for an event of a channel. */
  static of(channel, event) {
    const inbox = new Inbox();
    channel.on(event, (payload) => inbox.put(payload));
    return inbox;
  }

  put(item) {
    this.all.push(item);
    this.#waiting = this.#waiting.filter(({ enough, resolve }) => {
      if (!enough(this.all)) return true;
      resolve(this.all);
      return false;
    });
  }

  /** Everything, as soon as `enough` is true of it. */
  when(what, enough) {
    if (enough(this.all)) return Promise.resolve(this.all);
    return within(what, new Promise((resolve) => this.#waiting.push({ enough, resolve })));
  }

  /** Item number `count`, counted from 1. */
  async nth(count) {
    const all = await this.when(`item ${count}`, ({ length }) => length >= count);
    return all[count - 1];
  }
}

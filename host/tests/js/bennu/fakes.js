// What the tests of bennu.js by itself need: a transport made of nothing, requests answered by hand, a clock turned by hand.

import { beforeEach, mock } from "node:test";

import { Socket } from "../../../assets/bennu.js";

/** What this text says in hexadecimal digits, as bytes. */
export const hex = (text) => new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex")).buffer;

export const bytes = (...values) => new Uint8Array(values).buffer;

/** What a WebSocket would be. Keeps what is sent, and hands over what it is given. */
export class FakeTransport {
  static all = [];
  static get last() {
    return FakeTransport.all.at(-1);
  }
  readyState = 0;
  sent = [];

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
    FakeTransport.all.push(this);
  }
  send(frame) {
    this.sent.push(typeof frame === "string" ? JSON.parse(frame) : frame);
  }
  close() {
    this.readyState = 3;
  }
  open() {
    this.readyState = 1;
    this.onopen({});
  }
  lose(code = 1012) {
    this.readyState = 3;
    this.onclose({ code });
  }
  receive(...message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
  reply([joinRef, ref, topic], status = "ok", response = {}) {
    this.receive(joinRef, ref, topic, "phx_reply", { status, response });
  }
}

export function connect(options = {}) {
  const socket = new Socket("ws://127.0.0.1/socket", {
    transport: FakeTransport,
    reconnectAfterMs: () => 10,
    rejoinAfterMs: () => 10,
    ...options,
  });
  socket.connect();
  return socket;
}

/** A socket whose one channel is joined, with join_ref "1". */
export function joined(options) {
  const socket = connect(options);
  FakeTransport.last.open();
  const channel = socket.channel("room:a");
  channel.join();
  FakeTransport.last.reply(["1", "1", "room:a"]);
  return { socket, channel, transport: FakeTransport.last };
}

beforeEach(() => {
  FakeTransport.all = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

/** Requests as `fetch` would make them, each answered by hand. */
export class Requests {
  all = [];

  constructor(t) {
    t.mock.method(globalThis, "fetch", (url, { method, headers, body, signal }) => {
      const request = { url: new URL(url), method, type: headers["content-type"], body, signal };
      this.all.push(request);
      return new Promise((resolve, reject) => {
        request.answer = (json) => resolve({ json: async () => json });
        request.fail = () => reject(new TypeError("fetch failed"));
        signal.onabort = () => reject(signal.reason);
      });
    });
  }

  /** The newest of a kind. */
  last(method) {
    return this.all.findLast((request) => request.method === method);
  }

  async answer(method, json) {
    this.last(method).answer(json);
    await this.settle();
  }

  /** What was answered is taken note of, and the events that come of it have happened. */
  async settle() {
    await new Promise(setImmediate);
    mock.timers.tick(0);
    await new Promise(setImmediate);
  }
}

/** A channel that is joined over long polling. */
export async function polled(t, options = {}) {
  const requests = new Requests(t);
  const socket = connect({ transport: "longpoll", ...options });
  await requests.answer("GET", { status: 410, token: "t0", sig: options.sig, messages: [] });
  const channel = socket.channel("room:a");
  channel.join();
  await requests.settle();
  await requests.answer("POST", { status: 200 });
  return { requests, socket, channel };
}

export const reply = (...ids) => JSON.stringify([...ids, "room:a", "phx_reply", { status: "ok", response: {} }]);

// Supabase's own clients, and the server as `config/realtime.toml` sets it up for them.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

import { createClient as newest } from "@supabase/supabase-js";
import { createClient as before2_90 } from "supabase-js-2-89";
import WebSocket from "ws";

import { Inbox } from "./clients.js";
import { Bench, within } from "./server.js";

const SHIPPED = fileURLToPath(new URL("../../../config/realtime.toml", import.meta.url));
const SECRET = "super-secret-jwt-token-with-at-least-32-characters-long";
const YEARS_S = 10 * 365 * 24 * 60 * 60;
const { resolve } = createRequire(import.meta.url);

/** A token as Supabase makes them, good for so many seconds. */
export function token(claims, seconds, secret = SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1_000) + seconds;
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ iss: "supabase", ...claims, exp })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

export const ANON_KEY = token({ role: "anon" }, YEARS_S);
export const SERVICE_KEY = token({ role: "service_role" }, YEARS_S);
export const FORGED_KEY = token({ role: "service_role" }, YEARS_S, "another secret, which has 32 bytes, too");

/** The token of a user who has signed in. */
export const userToken = (sub, seconds = 3_600) => token({ role: "authenticated", sub, aud: "authenticated" }, seconds);

/** Both speak what they speak by default: 2.0.0 with binary broadcasts, and 1.0.0, which has no bytes. */
export const versions = [
  { name: "supabase-js newest", create: newest, umd: resolve("@supabase/supabase-js/dist/umd/supabase.js"), hasBytes: true },
  { name: "supabase-js 2.89", create: before2_90, umd: resolve("supabase-js-2-89/dist/umd/supabase.js"), hasBytes: false },
];

/** The plugin with the configuration as shipped, but for the port, the place of the library, and what `more` adds. */
export class Realtime extends Bench {
  constructor(build = "realtime") {
    super({ realtime: build });
  }

  run({ port = 0, more = "", plugin = "" } = {}) {
    const config = readFileSync(SHIPPED, "utf8")
      .replace("[plugins.realtime]\n", `[plugins.realtime]\n${plugin}\n`)
      .replace("127.0.0.1:4000", `127.0.0.1:${port}`)
      .replace("../target/release/librealtime.so", "librealtime.so");
    return this.serveAs(config + more, { BENNU_JWT_SECRET: SECRET });
  }
}

/** A server for one test. */
export async function serve(t, { build, ...options } = {}) {
  const bench = new Realtime(build);
  t.after(() => bench.close());
  return { bench, server: await bench.run(options) };
}

/**
 * A client as an app makes it, with a user if there is one: `sign(token)` signs in another, or out. Only Node before 22 needs the
 * package `ws`; no test waits longer than it must.
 */
export function client(t, version, server, { key = ANON_KEY, user, ...realtime } = {}) {
  let shown = user ?? key;
  const supabase = version.create(server.url, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    accessToken: async () => shown,
    realtime: { transport: WebSocket, reconnectAfterMs: () => 20, ...realtime },
  });
  supabase.sign = (token) => {
    shown = token;
    return supabase.realtime.setAuth();
  };
  t.after(() => supabase.realtime.disconnect());
  return supabase;
}

/** Subscribes as Supabase documents it for private channels, and keeps what the channel tells: `states` of `[state, error]`. */
export async function subscribe(channel) {
  await channel.socket.setAuth();
  const states = new Inbox();
  const system = new Inbox();
  channel.on("system", {}, (payload) => system.put(payload));
  channel.subscribe((state, error) => states.put([state, error?.message]));
  const [state, error] = await states.nth(1);
  return { channel, states, system, state, error };
}

/** A channel that is subscribed, or an error. */
export async function subscribed(channel) {
  const all = await subscribe(channel);
  if (all.state !== "SUBSCRIBED") throw new Error(`${all.state}: ${all.error}`);
  return all;
}

/** What a channel hears of an event of its users. */
export function hearing(channel, event = "said") {
  const inbox = new Inbox();
  channel.on("broadcast", { event }, (message) => inbox.put(message.payload));
  return inbox;
}

export const say = (channel, payload, event = "said") => channel.send({ type: "broadcast", event, payload });

/** How a request for a WebSocket ends: with a status, or open. */
export function knock(server, query, headers = {}) {
  const socket = new WebSocket(server.at(`/realtime/v1/websocket?${query}`), { headers });
  const ended = new Promise((resolve) => {
    socket.on("open", () => resolve(101));
    socket.on("unexpected-response", (_, response) => resolve(response.statusCode));
    socket.on("error", () => {});
  });
  return within("answer to the handshake", ended).finally(() => socket.terminate());
}

/** Has a channel of this user end with a token. A token that is over before the server has it is refused; then another tries. */
export async function expire(sub, states, renew) {
  for (const seconds of [2, 3, 4]) {
    await renew(userToken(sub, seconds));
    const ended = states.when("end of the channel", (all) => all.some(([state]) => state === "CLOSED"));
    if (await ended.then(() => true, () => false)) return;
  }
  throw new Error("the channel outlives its token");
}

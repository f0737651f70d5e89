/** Shows how a backend calls the API, for the topic and the event in the playground. */

import { $, setText } from "./dom.js";

/** The API of this server and its made-up key; `null`: there is none, or this browser is on another machine. */
let api = null;

export function offerApi(found) {
  api = found ?? null;
  $("backend").hidden = api === null;
  showApi();
}

export function showApi() {
  if (api === null) return;
  const topic = $("topic").value.trim() || "room:lobby";
  const event = $("event").value.trim() || "news";
  const message = { topic, event, payload: payloadOf($("payload").value) };
  setText($("backend-publish"), curl("broadcast", message));
  setText($("backend-ask"), curl("call", message));
}

function payloadOf(text) {
  try {
    return JSON.parse(text.trim() || "{}");
  } catch {
    return {};
  }
}

function curl(verb, body) {
  return [
    `curl ${api.url}/api/${verb} \\`,
    `  -H 'Authorization: Bearer ${api.key}' \\`,
    `  -d ${quoted(JSON.stringify(body))}`,
  ].join("\n");
}

/** As a shell takes it. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

for (const field of ["topic", "event", "payload"]) $(field).addEventListener("input", showApi);

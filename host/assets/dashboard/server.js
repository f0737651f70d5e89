/** Asks the server. Nothing is ever stored in the browser but the cookie that the server sets, which scripts cannot read. */

/** How long an answer may take. */
const PATIENCE_MS = 10_000;

/** The server has refused, or has not answered: `status` is 0 then. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** In a cluster: the nodes, and the one that is looked at. */
export const cluster = { nodes: [], chosen: undefined };

/** All nodes of the cluster, as `ask` takes them. */
export const everywhere = () => (cluster.nodes.length > 0 ? "*" : undefined);

/** Sends a request, to the node that is looked at if no other is named. Gives what the answer has: JSON, text, or nothing. */
export async function ask(page, { method = "GET", secret, body, node = cluster.chosen } = {}) {
  const path = node === undefined || page === "session" ? page : `${page}${page.includes("?") ? "&" : "?"}${query({ node })}`;
  const headers = {};
  if (secret !== undefined) headers.authorization = `Bearer ${secret}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method, headers, body: body && JSON.stringify(body), cache: "no-store", credentials: "same-origin" };
  let response;
  let text;
  try {
    response = await fetch(`../${path}`, { ...options, signal: AbortSignal.timeout(PATIENCE_MS) });
    text = await response.text();
  } catch {
    throw new Refused(0, "the server does not answer");
  }
  if (!response.ok) throw new Refused(response.status, text.trim() || `the server answers ${response.status}`);
  return response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : text;
}

/** A query with these parameters; those that are empty are left out. */
export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
  return new URLSearchParams(given).toString();
}

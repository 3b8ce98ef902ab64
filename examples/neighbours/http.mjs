// HTTP as both neighbours speak it: answers with their own word, and requests that judge one.
import { createServer } from "node:http";

const RETRY_AFTER_SECONDS_MAX = 60; // a header of a gateway may say years, which is 1 ms to setTimeout

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Serve `handle(request, body)`, which returns {status, word, headers} or null for a broken line. */
export function serve(port, handle) {
  const server = createServer(async (request, response) => {
    const parts = [];
    let answer;
    try {
      for await (const part of request) parts.push(part);
    } catch {
      return; // the caller hung up: that must not end the process
    }
    try {
      answer = await handle(request, Buffer.concat(parts).toString("utf8"));
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof URIError)) throw error;
      answer = { status: 400, word: { outcome: "unknown" } }; // nobody can read it
    }
    if (answer === null) return request.socket.destroy();
    const { status, word, headers = {} } = answer;
    response.writeHead(status, {
      "Content-Type": status < 400 ? "application/json" : "application/problem+json",
      "Cache-Control": "no-store",
      ...headers,
    });
    response.end(JSON.stringify(word));
  });
  server.keepAliveTimeout = 75_000; // a stage keeps its end for 15 s, and must not meet the close
  server.listen(port, "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
}

/** Send once. `lost` is "never sent" or "unknown" where no answer came. */
export async function ask(url, { method = "POST", headers = {}, body, seconds }) {
  try {
    const answer = await fetch(url, {
      method,
      headers: method === "POST" ? { "Content-Type": "application/json", ...headers } : headers,
      body,
      redirect: "manual",
      signal: AbortSignal.timeout(seconds * 1000),
    });
    const text = await answer.text();
    return {
      status: answer.status,
      word: parsed(text),
      location: answer.headers.get("location"),
      retryAfter: secondsIn(answer.headers.get("retry-after")),
    };
  } catch (error) {
    const never = error?.cause?.code === "ECONNREFUSED";
    return { status: 0, word: {}, retryAfter: 0, lost: never ? "never sent" : "unknown" };
  }
}

/** The outcome that the neighbour itself states of that saga; undefined for anybody's word. */
export function ownWord(answer, id) {
  return (answer.word.saga_id ?? id) === id ? answer.word.outcome : undefined;
}

/** The seconds of a Retry-After; 0 for a date, for none, and for what is no number. */
function secondsIn(header) {
  return Math.min(Math.max(0, Number(header) || 0), RETRY_AFTER_SECONDS_MAX);
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}

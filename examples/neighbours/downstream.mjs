// A downstream of a stage, by section 3.6 of docs/neighbour.md. Node 18 or newer, no packages:
//   node downstream.mjs PORT NAME STAGE_URL BOOKS
// It misbehaves by `data.order_id`: refuse…, slow… (half a second), break… (the answer is lost),
// late… (it fails after its yes).
import { createHash } from "node:crypto";
import { Books } from "./books.mjs";
import { ask, ownWord, pause, serve } from "./http.mjs";

const [port, name, stage, path] = process.argv.slice(2);
const books = new Books(path);
const ID = /^(?!\.{1,2}$)[A-Za-z0-9._~:-]{1,128}$/;

const say = (status, outcome, id, more = {}) => ({
  status,
  word: { ...(id === undefined ? {} : { saga_id: id }), outcome, ...more },
  headers: status === 202 ? { "Retry-After": "1" } : {},
});

async function execute(request, body) {
  let envelope;
  try {
    envelope = JSON.parse(body);
  } catch {
    return say(400, "not_executed");
  }
  const { saga_id: id, data } = envelope ?? {};
  if (typeof id !== "string" || !ID.test(id)) return say(422, "not_executed");
  const row = books.find(id);
  const hash = createHash("sha256").update(canonical(data) ?? "").digest("hex");
  if (row?.state === "compensated") return say(410, "compensated", id);
  if (row && row.hash !== hash) return say(422, row.answer ? "executed" : "in_progress", id);
  if (row?.answer) return { ...row.answer, headers: { "Idempotency-Replayed": "true" } };
  if (row) return say(202, "in_progress", id);
  if (typeof data?.order_id !== "string") return never(id, 422);
  if (late(request, envelope)) return never(id, 504);
  if (data.order_id.startsWith("refuse")) return never(id, 409);
  books.save(id, { state: "runs", hash, order: data.order_id });
  const working = work(id);
  if (data.order_id.startsWith("slow")) return say(202, "in_progress", id);
  await working;
  return data.order_id.startsWith("break") && !books.find(id).broken
    ? (books.save(id, { broken: true }), null)
    : (books.find(id).answer ?? say(410, "compensated", id));
}

/** It never runs here, also when the same request comes again. */
function never(id, status) {
  books.save(id, { state: "compensated" });
  return say(status, "not_executed", id);
}

function late(request, envelope) {
  const budget = request.headers["saga-budget-ms"];
  if (budget !== undefined) return Number(budget) <= 0;
  return envelope.deadline != null && Date.parse(envelope.deadline) <= Date.now();
}

async function work(id) {
  const { order } = books.find(id);
  if (order.startsWith("slow")) await pause(500);
  if (books.find(id).state !== "runs") return; // it was compensated meanwhile
  const parcel = `parcel-${id}`; // the effect and the answer are one line of the books
  const answer = say(200, "executed", id, { data: { [name]: { parcel } } });
  books.save(id, { state: "done", answer, parcel, shipped: (books.find(id).shipped ?? 0) + 1 });
  if (order.startsWith("late")) setTimeout(() => failLate(id), 300);
}

async function failLate(id) {
  books.save(id, { state: "compensated", parcel: null, tells: true });
  const body = JSON.stringify({ requested_by: name, reason: "lost", outcome: "compensated" });
  for (let wait = 200; ; wait = Math.min(2 * wait, 5000)) {
    const answer = await ask(`${stage}/sagas/${id}/compensate`, { body, seconds: 15 });
    const outcome = ownWord(answer, id);
    if (outcome !== undefined && [200, 202, 409, 410].includes(answer.status)) {
      books.save(id, { tells: false, told: answer.status }); // a 409 needs a person
      return;
    }
    await pause(Math.max(wait, answer.retryAfter * 1000));
  }
}

function compensate(id, body) {
  if (!ID.test(id)) return say(422, "not_executed");
  const sent = Date.parse(JSON.parse(body || "{}")?.first_sent_at);
  if (books.find(id) === undefined && sent < books.began) {
    console.error(`${id} was sent before these books began: look what stands of it`);
    return say(503, "unknown", id); // a tombstone would say that nothing does
  }
  books.save(id, { state: "compensated", parcel: null }); // a tombstone where it was never seen
  return say(200, "compensated", id);
}

function look(id) {
  const row = books.find(id);
  if (row === undefined) return say(404, "not_executed", id);
  const outcomes = { runs: "in_progress", done: "executed", compensated: "compensated" };
  return say(200, outcomes[row.state], id);
}

/** The same text for the same data, whatever the order of its members. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical)}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value).sort();
  return `{${members.map((member) => `${JSON.stringify(member)}:${canonical(value[member])}`)}}`;
}

for (const row of books.rows()) {
  if (row.state === "runs") work(row.id); // nobody else ends what a crash cut off
  if (row.tells || (row.state === "done" && row.order.startsWith("late"))) failLate(row.id);
}
serve(Number(port), (request, body) => {
  const [, sagas, id, verb, more] = request.url.split("?")[0].split("/");
  const one = more === undefined && sagas === "sagas" && id;
  if (request.method === "GET" && request.url === "/books") return { status: 200, word: books.rows() };
  if (request.method === "POST" && request.url === "/sagas") return execute(request, body);
  if (request.method === "POST" && one && verb === "compensate") return compensate(decodeURIComponent(id), body);
  if (request.method === "GET" && one && verb === undefined) return look(decodeURIComponent(id));
  return say(404, "unknown");
});

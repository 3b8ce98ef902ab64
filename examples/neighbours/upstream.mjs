// An upstream of a stage, by section 3.7 of docs/neighbour.md. Node 18 or newer, no packages:
//   node upstream.mjs PORT NAME STAGE_URL BOOKS
// POST /orders {"id", "data", "budget_ms"} begins a saga; GET /books shows what became of each.
import { Books } from "./books.mjs";
import { ask, ownWord, pause, serve } from "./http.mjs";

const [port, name, stage, path] = process.argv.slice(2);
const books = new Books(path);
const WAIT_SECONDS = 5;
const NOES = [400, 409, 410, 413, 415, 422];

function begin({ id, data, budget_ms: budget }) {
  const at = new Date().toISOString();
  const ends = Date.now() + budget;
  const deadline = new Date(ends).toISOString();
  const body = JSON.stringify({ saga_id: id, protocol: 1, deadline, data, trail: [{ stage: name, at }] });
  books.save(id, { state: "active", at, ends, body, ordered: true });
}

const isActive = (id) => books.find(id).state === "active";
const undone = (id) => books.save(id, { state: "undone", ordered: false });

/** Run the saga to its end. After a crash of ours it may have been sent: `inDoubt`. */
async function run(id, inDoubt) {
  const { body, ends } = books.find(id);
  const left = () => ends - Date.now();
  while (isActive(id) && left() > 0) {
    const headers = {
      "Saga-Budget-Ms": String(left()),
      "Idempotency-Key": id,
      Prefer: `wait=${WAIT_SECONDS}`,
    };
    const answer = await ask(`${stage}/sagas`, { headers, body, seconds: WAIT_SECONDS + 5 });
    if (!isActive(id)) return; // asked to compensate meanwhile: a yes that comes now counts no more
    const { status } = answer;
    const said = `${status} ${ownWord(answer, id)}`;
    if (said === "200 executed") {
      books.save(id, { state: "done", data: answer.word.data });
      return;
    }
    const over = ["409 compensated", "409 not_executed", "410 compensated", "410 not_executed"];
    // What nobody could read names no saga, and a copy of it may have been read.
    const refusals = answer.word.saga_id === id ? [400, 413, 415, 422, 504] : [504];
    const rejected = refusals.map((code) => `${code} not_executed`);
    if ([...over, ...rejected].includes(said)) {
      if (!inDoubt) return undone(id);
      break;
    }
    if (["401 not_executed", "403 not_executed"].includes(said)) {
      console.error(`${id}: ${status}: an operator has to look at our token`);
    }
    if (answer.lost !== "never sent") {
      inDoubt = true; // 202, 401, 403, 429 and 503 too: it runs there, or a copy may be accepted
    }
    if (said === "202 in_progress") await ended(id, answer.location, left);
    else if (NOES.includes(status)) break;
    else await pause(Math.min(Math.max(200, answer.retryAfter * 1000), Math.max(0, left())));
  }
  if (!isActive(id)) return;
  if (!inDoubt) return undone(id);
  await haveCompensated(id);
}

/** Wait until the saga has ended at the stage, or the budget is gone. */
async function ended(id, location, left) {
  const address = new URL(location ?? `sagas/${id}`, `${stage}/sagas`);
  for (let wait = 200; isActive(id) && left() > 0; wait = Math.min(2 * wait, 5000)) {
    const headers = { Prefer: `wait=${WAIT_SECONDS}` };
    const answer = await ask(address, { method: "GET", headers, seconds: WAIT_SECONDS + 5 });
    if (ownWord(answer, id) !== "in_progress") return pause(200);
    // A saga that waits for a person is answered at once.
    await pause(Math.min(Math.max(wait, answer.retryAfter * 1000), Math.max(0, left())));
  }
}

/** Have the stage compensate before we do. */
async function haveCompensated(id) {
  books.save(id, { state: "undoing" });
  const body = JSON.stringify({ requested_by: name, reason: "in doubt", first_sent_at: books.find(id).at });
  const done = ["200 compensated", "200 not_executed", "410 compensated", "410 not_executed", "410 unknown"];
  for (let wait = 200; books.find(id).state === "undoing"; wait = Math.min(2 * wait, 5000)) {
    const answer = await ask(`${stage}/sagas/${id}/compensate`, { body, seconds: 30 });
    const said = `${answer.status} ${ownWord(answer, id)}`;
    if (done.includes(said)) return undone(id);
    if (["409 executed", "409 unknown"].includes(said)) {
      books.save(id, { stands: answer.word.stands ?? [] }); // a person has to look at it
      return undone(id);
    }
    await pause(Math.max(wait, answer.retryAfter * 1000));
  }
}

function compensate(id, body) {
  const asked = body === "" ? {} : JSON.parse(body);
  const row = books.find(id);
  const say = (status, outcome) => ({ status, word: { saga_id: id, outcome } });
  if (row === undefined) return say(409, "unknown"); // it was sent, so these books lost it
  if (asked.outcome === "compensated" || row.state === "undone") {
    undone(id);
    return say(200, "compensated");
  }
  if (row.state !== "undoing") {
    books.save(id, { state: "undoing" });
    setTimeout(() => haveCompensated(id), 10); // behind our answer: the stage may hold a lock
  }
  return say(202, "in_progress");
}

for (const { id, state } of books.rows()) {
  if (state === "active") run(id, true);
  if (state === "undoing") haveCompensated(id);
}
serve(Number(port), async (request, body) => {
  const compensated = /^\/sagas\/([A-Za-z0-9._~:-]{1,128})\/compensate$/.exec(request.url);
  if (request.method === "GET" && request.url === "/books") return { status: 200, word: books.rows() };
  if (request.method === "POST" && request.url === "/orders") {
    const order = JSON.parse(body);
    if (books.find(order.id) === undefined) {
      begin(order);
      await run(order.id, false);
    }
    return { status: 200, word: books.find(order.id) };
  }
  if (request.method === "POST" && compensated) return compensate(compensated[1], body);
  return { status: 404, word: { outcome: "unknown" } };
});

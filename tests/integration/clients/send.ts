// Sends one saga with the client that openapi-typescript generated, and prints the answer.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const [baseUrl, sagaId] = process.argv.slice(2);
if (baseUrl === undefined || sagaId === undefined) throw new Error("give a URL and a saga id");

const client = createClient<paths>({ baseUrl });
const data: components["schemas"]["Data"] = { order_id: "o-1", amount: 100, currency: "KRW" };

const { data: answer, error, response } = await client.POST("/sagas", {
  params: { header: { Prefer: "wait=10" } },
  body: { saga_id: sagaId, data },
});
if (error !== undefined) throw new Error(`${error.title}: ${error.outcome}`);
const { data: saga } = await client.GET("/sagas/{saga_id}", {
  params: { path: { saga_id: sagaId } },
});
if (saga === undefined || !("state" in saga)) throw new Error("no saga");
const state: string = saga.state;
console.log(JSON.stringify({ status: response.status, answer, state }));

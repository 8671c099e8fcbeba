// Limits and where their pace leads -> cards, the fullest first.
import { make, set } from "./dom.js";
import { count, dollars, moment } from "./formats.js";

const MOST = 60;
const WORDS = { requests: "requests", input_tokens: "input tokens", output_tokens: "output tokens", concurrency: "at one time" };
const FOREVER_S = 1e11;

const used = (limit) => limit.spent + limit.leased + limit.lost;
const share = (limit) => (limit.amount > 0 ? used(limit) / limit.amount : 1);

/** `limits` and `forecasts` as the API lists them. */
export function cardsOf(limits, forecasts) {
  const paces = new Map(forecasts.map((each) => [each.limit.id, each]));
  const sorted = [...limits].sort((one, other) => share(other) - share(one));
  const cards = sorted.slice(0, MOST).map((limit) => cardOf(limit, paces.get(limit.id)));
  if (sorted.length > MOST) cards.push(make("p", { class: "fine" }, `and ${sorted.length - MOST} emptier ones`));
  return cards;
}

function cardOf(limit, pace) {
  const money = limit.unit === "nanousd";
  const amount = money ? dollars : count;
  const [taken, full] = [used(limit), share(limit)];
  const tone = full >= 1 ? "over" : full >= 0.8 || pace?.used_up_s ? "near" : "";
  const part = (kind, value) => set(make("span", { class: kind }), { "--share": limit.amount > 0 ? Math.min(value / limit.amount, 1) : 1 });
  const meter = make("div", { class: "meter", "aria-hidden": "true" }, part("spent", limit.spent), part("reserved", limit.leased), part("lost", limit.lost));
  if (pace?.at_end && pace.at_end < limit.amount) meter.append(set(make("i", { title: "at this pace, at its end" }), { "--at": pace.at_end / limit.amount }));
  const facts = [`${amount(limit.spent)} settled`];
  if (limit.leased) facts.push(`${amount(limit.leased)} reserved`);
  if (limit.lost) facts.push(`${amount(limit.lost)} kept for workers that died`);
  facts.push(`${amount(Math.max(limit.amount - taken, 0))} left`);
  return make("article", { class: `card ${tone}` },
    make("h3", {}, make("span", { class: "fine" }, limit.scope), ` ${limit.subject}`),
    make("p", { class: "big" }, amount(taken), make("span", {}, ` of ${amount(limit.amount)}${money ? "" : ` ${WORDS[limit.unit] ?? limit.unit}`}`)),
    meter,
    make("p", { class: "facts" }, facts.join(" · ")),
    make("p", { class: "facts" }, [windowOf(limit), leads(limit, pace, amount)].filter(Boolean).join(" · ")),
  );
}

function windowOf(limit) {
  if (limit.unit === "concurrency") return "";
  const [kind, size] = limit.window.split(":");
  const name = kind === "rolling" ? `rolling ${count(Number(size))} s` : kind;
  const ends = limit.ends_s < FOREVER_S && kind !== "rolling" ? `until ${moment(limit.ends_s)}` : "";
  return [name, limit.zone, ends].filter(Boolean).join(", ");
}

function leads(limit, pace, amount) {
  if (limit.unit === "concurrency") return "";
  if (used(limit) >= limit.amount) return "used up";
  if (pace?.used_up_s) return `at this pace used up ${moment(pace.used_up_s)}`;
  if (pace?.at_end !== null && pace?.at_end !== undefined) return `at this pace ${amount(pace.at_end)} by its end`;
  return limit.spent ? "too early for a forecast" : "";
}

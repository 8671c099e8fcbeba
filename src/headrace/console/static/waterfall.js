// Spans of a request -> rows under one axis of time, each a bar from its beginning to its end.
import { make, set } from "./dom.js";
import { roundUp } from "./bars.js";
import { duration } from "./formats.js";

const TICKS = 4;

/** `spans` as explain lists them, the root first; `timings` for the mark of the first token. */
export function waterfall(spans, timings) {
  const end = Math.max(...spans.map((span) => span.end_s), 1e-6);
  const step = roundUp(end / TICKS);
  const part = (seconds) => Math.min(Math.max(seconds / end, 0), 1);
  const axis = make("div", { class: "axis", "aria-hidden": "true" });
  for (let at = 0; at <= end * 0.93; at += step) axis.append(set(make("span", {}, at ? duration(at) : "0"), { "--at": part(at) }));
  const children = new Map();
  for (const span of spans) children.set(span.parent, [...(children.get(span.parent) ?? []), span]);
  const known = new Set(spans.map((span) => span.id));
  const rows = [];
  const walk = (span, depth) => {
    rows.push(rowOf(span, depth, part));
    for (const child of (children.get(span.id) ?? []).sort((one, other) => one.start_s - other.start_s)) walk(child, depth + 1);
  };
  spans.filter((span) => !known.has(span.parent)).forEach((span) => walk(span, 0));
  const list = make("ol", { class: "spans" }, ...rows);
  const nodes = [axis, list];
  const first = timings.first_token_s;
  if (first !== null && first !== undefined) {
    nodes.push(set(make("div", { class: "first", title: `first token after ${duration(first)}`, "aria-hidden": "true" }), { "--at": part(first) }));
  }
  return make("div", { class: "waterfall" }, ...nodes);
}

function rowOf(span, depth, part) {
  const took = duration(span.end_s - span.start_s);
  const bar = set(make("span", { class: `bar ${span.error ? "bad" : kindOf(span)}` }), { "--from": part(span.start_s), "--share": part(span.end_s) - part(span.start_s) });
  return make("li", { title: `${span.name}: ${took}, from ${duration(span.start_s)}${span.error ? `, ${span.error}` : ""}` },
    set(make("span", { class: "name" }, span.name, span.error ? make("span", { class: "error" }, ` ${span.error}`) : null), { "--depth": depth }),
    make("span", { class: "track-of" }, bar),
    make("span", { class: "number" }, took));
}

function kindOf(span) {
  return ["queue", "prefill", "decode"].includes(span.name) ? span.name : "step";
}

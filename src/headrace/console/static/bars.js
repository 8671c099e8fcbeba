// Amounts by day and series -> stacked bars. One tab stop; arrow keys walk through the days, and
// what a bar is made of stands in a note beside it. The table below the picture has the numbers.
import { draw, make, set } from "./dom.js";
import { dayName } from "./formats.js";

const HEIGHT = 240;
const MARGIN = { top: 12, right: 8, bottom: 26, left: 64 };

/** The round number at or above a value: 1, 2, 2.5 or 5 times a power of ten; whole where asked. */
export function roundUp(value, { whole = false } = {}) {
  if (value <= 0 || (whole && value <= 1)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].filter((step) => !whole || Number.isInteger(step * power)).map((step) => step * power).find((step) => step >= value * 0.9999999);
}

export class Bars {
  #box;
  #note = make("div", { class: "note", hidden: true });
  #shown = null;

  constructor(box) {
    this.#box = box;
    // Drawn anew a frame later: what changes its own size while it is measured would never end.
    new ResizeObserver(() => requestAnimationFrame(() => this.#draw())).observe(box);
    box.addEventListener("pointerleave", () => (this.#note.hidden = true));
    box.addEventListener("focusout", () => (this.#note.hidden = true));
    box.addEventListener("keydown", (event) => this.#walk(event));
  }

  /** `days`: numbers since 1970; `series`: [{name, color, values}] with a value for each day; `whole`: of
   *  what there is no half. */
  show({ days, series, format, label, whole }) {
    this.#shown = { days, series, format, label, whole };
    this.#draw();
  }

  #draw() {
    if (!this.#shown || !this.#box.clientWidth) return;
    const { days, series, format, label, whole } = this.#shown;
    const width = this.#box.clientWidth;
    const [inner, tall] = [width - MARGIN.left - MARGIN.right, HEIGHT - MARGIN.top - MARGIN.bottom];
    const totals = days.map((_, day) => series.reduce((sum, each) => sum + each.values[day], 0));
    const step = roundUp(Math.max(...totals, 0) / 4, { whole });
    const top = step * Math.max(1, Math.ceil(Math.max(...totals, 0) / step));
    const y = (value) => MARGIN.top + tall - (value / top) * tall;
    const slot = inner / days.length;
    const bar = Math.max(1, Math.min(44, slot * 0.74));
    const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "group", "aria-label": label });
    for (let line = 0; line * step <= top * 1.0000001; line++) {
      const at = y(line * step);
      svg.append(
        draw("line", { class: line ? "grid" : "ground", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }),
        draw("text", { class: "tick", x: MARGIN.left - 8, y: at + 4, "text-anchor": "end" }, format(line * step)),
      );
    }
    const every = Math.ceil(58 / slot);
    days.forEach((number, day) => {
      const middle = MARGIN.left + slot * (day + 0.5);
      if ((days.length - 1 - day) % every === 0) {
        svg.append(draw("text", { class: "tick", x: Math.min(middle, width - 20), y: HEIGHT - 8, "text-anchor": "middle" }, dayName(number)));
      }
      svg.append(this.#bar({ day, number, middle, slot, bar, y, tall }));
    });
    svg.querySelector(".day:last-of-type")?.setAttribute("tabindex", "0");
    this.#note.hidden = true;
    this.#box.replaceChildren(svg, this.#note);
  }

  #bar({ day, number, middle, slot, bar, y, tall }) {
    const { series, format } = this.#shown;
    const parts = series.filter((each) => each.values[day] > 0);
    const total = parts.reduce((sum, each) => sum + each.values[day], 0);
    const words = parts.map((each) => `${each.name} ${format(each.values[day])}`).join(", ");
    const name = `${dayName(number, { long: true })}: ${format(total)}${words ? `; ${words}` : ""}`;
    const group = draw("g", { class: "day", tabindex: "-1", role: "img", "aria-label": name });
    group.append(draw("rect", { class: "reach", x: middle - slot / 2, width: slot, y: MARGIN.top, height: tall }));
    let under = 0;
    for (const each of parts) {
      const above = under + each.values[day];
      const height = Math.max(y(under) - y(above) - (parts.length > 1 ? 1 : 0), 0.5);
      group.append(draw("rect", { class: each.color, x: middle - bar / 2, width: bar, y: y(above), height, rx: 1.5 }));
      under = above;
    }
    const tell = () => this.#tell(number, parts, total, middle, day);
    group.addEventListener("pointerenter", tell);
    group.addEventListener("focus", tell);
    return group;
  }

  #tell(number, parts, total, middle, day) {
    const { format } = this.#shown;
    const row = (each) =>
      make("div", { class: "part" }, make("span", { class: `dot ${each.color}` }), make("span", { class: "name" }, each.name),
        make("span", { class: "amount" }, format(each.values[day])));
    this.#note.replaceChildren(
      make("div", { class: "part head" }, make("span", { class: "name" }, dayName(number, { long: true })), make("span", { class: "amount" }, format(total))),
      ...[...parts].reverse().map(row),
    );
    this.#note.hidden = false;
    const half = this.#note.offsetWidth / 2;
    set(this.#note, { left: `${Math.max(half, Math.min(middle, this.#box.clientWidth - half))}px` });
  }

  #walk(event) {
    const days = [...this.#box.querySelectorAll(".day")];
    const at = days.indexOf(event.target);
    if (at < 0) return;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: days.length - 1 }[event.key];
    if (event.key === "Escape") this.#note.hidden = true;
    if (!days[next]) return;
    event.preventDefault();
    days[at].setAttribute("tabindex", "-1");
    days[next].setAttribute("tabindex", "0");
    days[next].focus();
  }
}

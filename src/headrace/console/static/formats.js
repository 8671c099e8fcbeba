// Numbers of the API -> words for people. Money comes as whole nano-dollars and stays exact in
// `exactDollars`; what is shown is rounded.

const TRILLION = 1e12;
const NANO = 1_000_000_000n;

export function dollars(nano) {
  const value = nano / 1e9;
  const size = Math.abs(value);
  if (size === 0) return "$0";
  if (size < 0.01) return `${value < 0 ? "−" : ""}$${size.toFixed(9).replace(/(\.0*\d{1,3})\d*$/, "$1")}`;
  const digits = size >= 10_000 ? 0 : 2;
  const shown = size.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${value < 0 ? "−" : ""}$${shown}`;
}

/** All nine digits, for files. */
export function exactDollars(nano) {
  const whole = BigInt(nano);
  const size = whole < 0n ? -whole : whole;
  return `${whole < 0n ? "-" : ""}${size / NANO}.${String(size % NANO).padStart(9, "0")}`;
}

export function count(value) {
  if (Math.abs(value) >= TRILLION) return `${(value / TRILLION).toFixed(2)} T`;
  return Math.round(value).toLocaleString("en");
}

/** As few characters as say it: 950, 12.4 k, 3.1 M. */
export function short(value) {
  for (const [size, sign] of [[TRILLION, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    const unit = sign === "k" ? 1e3 : size;
    if (Math.abs(value) >= size) return `${(value / unit).toFixed(1).replace(/\.0$/, "")} ${sign}`;
  }
  return count(value);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.1) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 120) return `${seconds.toFixed(2)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** Day `number` since 1970, as the ledger counts them (UTC). */
export function dayName(number, { long = false } = {}) {
  const parts = long ? { day: "numeric", month: "short", year: "numeric" } : { day: "numeric", month: "short" };
  return new Date(number * 86_400_000).toLocaleDateString("en-GB", { ...parts, timeZone: "UTC" });
}

export function isoDay(number) {
  return new Date(number * 86_400_000).toISOString().slice(0, 10);
}

/** A moment on this machine's clock. */
export function moment(unixS, { seconds = false } = {}) {
  const parts = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
  return new Date(unixS * 1000).toLocaleString("en-GB", seconds ? { ...parts, second: "2-digit" } : parts);
}

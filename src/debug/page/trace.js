// The trace as the page's JSON has it (debug/page.rs), and how its numbers are told. Times are nanoseconds since the
// program's begin.

/** The marks of one vCPU, ascending by time. A mark is one exit, or several of one class. */
class Track {
  constructor(vcpu, size) {
    this.vcpu = vcpu;
    this.size = size;
    for (const name of ["at", "end", "guest", "host", "count"]) this[name] = new Float64Array(size);
    this.class = new Uint16Array(size);
    this.instruction = new Int32Array(size);
    this.value = new Array(size);
    this.longest = 0;
  }

  /** Position of the first mark that begins at `ns` or later. */
  firstFrom(ns) {
    let [low, high] = [0, this.size];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.at[middle] < ns) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

class Trace {
  constructor(data) {
    Object.assign(this, data);
    const { marks, classes } = data;
    this.tracks = Trace.tracks(marks);
    this.end = Math.max(data.ended_ns, 1, ...this.tracks.map((track) => track.end.reduce((a, b) => Math.max(a, b), 0)));
    this.firstEntry = data.milestones.find(([name]) => name === "first entry")?.[1] ?? 0;
    this.devices = [...new Set(classes.device)].sort();
    this.usedKinds = [...new Set(classes.kind)].sort((a, b) => a - b);
  }

  static tracks(marks) {
    const sizes = new Map();
    for (const vcpu of marks.vcpu) sizes.set(vcpu, (sizes.get(vcpu) ?? 0) + 1);
    const tracks = new Map();
    for (const vcpu of [...sizes.keys()].sort((a, b) => a - b)) tracks.set(vcpu, new Track(vcpu, sizes.get(vcpu)));
    const filled = new Map();
    let at = 0;
    marks.at_ns.forEach((difference, i) => {
      at += difference;
      const track = tracks.get(marks.vcpu[i]);
      const j = filled.get(track) ?? 0;
      filled.set(track, j + 1);
      const span = marks.width_ns ? marks.span_ns[i] : marks.host_ns[i];
      track.at[j] = at;
      track.end[j] = at + span;
      track.longest = Math.max(track.longest, span);
      track.guest[j] = marks.guest_ns[i];
      track.host[j] = marks.host_ns[i];
      track.count[j] = marks.width_ns ? marks.count[i] : 1;
      track.class[j] = marks.class[i];
      track.instruction[j] = marks.instruction[i] ?? -1;
      track.value[j] = marks.value[i];
    });
    return [...tracks.values()];
  }

  /** "pio-write". */
  kindOf(cls) {
    return this.kinds[this.classes.kind[cls]];
  }

  /** What an exit of this kind is, in a line. */
  explanationOf(cls) {
    return this.explanations[this.classes.kind[cls]].summary;
  }

  /** "COM1 THR", or the kind of an exit that is no access. */
  nameOf(cls) {
    return this.classes.name[cls] || this.kindOf(cls);
  }
}

const UNITS = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];

/** A duration with three digits: "12.3 µs". */
function duration(ns) {
  if (ns < 1) return "0";
  const [factor, unit] = UNITS.find(([factor]) => ns >= factor * 0.9995) ?? UNITS[3];
  const value = ns / factor;
  const digits = unit === "ns" || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${unit}`;
}

/** A point in time, as exact as `step` asks for. */
function moment(ns, step) {
  const [factor, unit] = UNITS.find(([factor]) => Math.abs(ns) >= factor) ?? UNITS[3];
  const digits = Math.max(0, Math.min(9, Math.ceil(Math.log10(factor / step) - 1e-9)));
  return `${(ns / factor).toFixed(digits)} ${unit}`;
}

function number(count) {
  return count.toLocaleString("en");
}

/** So many a second. */
function rate(perSecond) {
  return perSecond < 10 ? perSecond.toFixed(1) : number(Math.round(perSecond));
}

function hexadecimal(value) {
  return typeof value === "number" ? `0x${value.toString(16)}` : value;
}

/** An element with properties and children. Text comes in as text only. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A square in the colour of a kind. */
function swatch(kind) {
  const made = element("span", { className: "swatch" });
  made.style.setProperty("--swatch", `var(--${kind})`);
  return made;
}

// What is looked at: the window of time, the filters, the chosen exit. All parts of the page draw what it says.

/** Smallest window: a few instructions. */
const WINDOW_MIN_NS = 100;

class View extends EventTarget {
  constructor(trace) {
    super();
    this.trace = trace;
    this.from = 0;
    this.to = trace.end;
    /** Values that a filter shows; all of them at first. */
    this.shown = {
      kind: new Set(trace.usedKinds),
      device: new Set(trace.devices),
      vcpu: new Set(trace.tracks.map((track) => track.vcpu)),
    };
    this.all = Object.fromEntries(Object.entries(this.shown).map(([name, values]) => [name, [...values]]));
    /** The chosen exit as track and position, the chosen line of the console, and the one under the pointer. */
    this.chosen = null;
    this.line = null;
    this.pointedLine = null;
    this.filtered();
  }

  /** Tells everybody once, with the next frame. */
  changed() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.dispatchEvent(new Event("change"));
    });
  }

  get span() {
    return this.to - this.from;
  }

  /** Where exits share marks, the window stays long against them. */
  possible(span) {
    return Math.min(Math.max(span, WINDOW_MIN_NS, 20 * this.trace.marks.width_ns), this.trace.end);
  }

  show(from, to) {
    const span = this.possible(to - from);
    const middle = (from + to) / 2;
    this.from = Math.min(Math.max(middle - span / 2, 0), this.trace.end - span);
    this.to = this.from + span;
    this.changed();
  }

  /** From a little before the first entry to the end. */
  showGuest() {
    const { firstEntry, end } = this.trace;
    this.show(firstEntry - 0.02 * (end - firstEntry), end);
  }

  /** Makes the window `factor` times as long, around `ns`. */
  zoom(factor, ns = (this.from + this.to) / 2) {
    const span = this.possible(this.span * factor);
    const from = ns - ((ns - this.from) / this.span) * span;
    this.show(from, from + span);
  }

  move(ns) {
    this.show(this.from + ns, this.to + ns);
  }

  /** Has `from` to `to` in sight, without a jump where it is. */
  reveal(from, to) {
    if (from >= this.from && to <= this.to) return this.changed();
    const span = Math.max(this.span, (to - from) * 1.5);
    const middle = (from + to) / 2;
    this.show(middle - span / 2, middle + span / 2);
  }

  /** A click on a filter's value: from all it leaves this one; else it turns it on or off, and the last one off is all on. */
  toggle(filter, value) {
    const [shown, all] = [this.shown[filter], this.all[filter]];
    if (shown.size === all.length) shown.clear();
    if (!shown.delete(value)) shown.add(value);
    if (shown.size === 0) all.forEach((value) => shown.add(value));
    this.filtered();
    this.changed();
  }

  filtered() {
    const { kind, device } = this.trace.classes;
    this.visible = kind.map((value, i) => this.shown.kind.has(value) && this.shown.device.has(device[i]));
    this.tracks = this.trace.tracks.filter((track) => this.shown.vcpu.has(track.vcpu));
    this.filterVersion = (this.filterVersion ?? 0) + 1;
  }

  choose(track, position) {
    this.chosen = { track, position };
    this.reveal(track.at[position], track.end[position]);
  }

  /** Chooses the next mark that is shown, forth (1) or back (-1), of one vCPU, if `matches` says so. */
  step(direction, matches = () => true) {
    let track = this.chosen?.track ?? this.tracks[0];
    if (!this.tracks.includes(track)) track = this.tracks[0];
    if (!track) return;
    let position = this.chosen?.track === track ? this.chosen.position + direction : track.firstFrom(this.from);
    while (position >= 0 && position < track.size) {
      if (this.visible[track.class[position]] && matches(track, position)) return this.choose(track, position);
      position += direction;
    }
  }

  /** Chooses the next mark that `matches` on any vCPU; behind the last comes the first. */
  find(matches) {
    const start = this.chosen ? this.chosen.track.at[this.chosen.position] : -1;
    let [next, first] = [null, null];
    for (const track of this.tracks) {
      for (let position = 0; position < track.size; position++) {
        if (!this.visible[track.class[position]] || !matches(track, position)) continue;
        const at = track.at[position];
        if (!first || at < first.at) first = { track, position, at };
        if (at > start) {
          if (!next || at < next.at) next = { track, position, at };
          break;
        }
      }
    }
    const found = next ?? first;
    if (found) this.choose(found.track, found.position);
  }
}

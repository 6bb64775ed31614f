// What wheel, pointers, keys and buttons do to the timeline.

/** A press that moves less, in pixels, is a click; and how near to an exit a pointer has to be. */
const CLICK = 4;

class Gestures {
  constructor(timeline) {
    this.timeline = timeline;
    this.view = timeline.view;
    this.tip = document.getElementById("tip");
    /** Pointers that are down: where they are, by number. */
    this.down = new Map();
    const { canvas } = timeline;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", (event) => this.down.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("dblclick", (event) => this.view.zoom(0.25, timeline.ns(event.offsetX)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const button of document.querySelectorAll("[data-act]")) {
      button.addEventListener("click", () => this.act(button.dataset.act));
    }
  }

  act(name) {
    const { view } = this;
    const { end } = view.trace;
    const acts = {
      in: () => view.zoom(0.5),
      out: () => view.zoom(2),
      back: () => view.move(-0.25 * view.span),
      forth: () => view.move(0.25 * view.span),
      guest: () => view.showGuest(),
      fit: () => view.show(0, end),
      previous: () => view.step(-1),
      next: () => view.step(1),
    };
    acts[name]();
  }

  key(event) {
    const keys = {
      ArrowLeft: "back", ArrowRight: "forth", "+": "in", "=": "in", ArrowUp: "in", "-": "out", ArrowDown: "out", 0: "fit",
      Home: "fit", ",": "previous", ".": "next",
    };
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.act(act);
  }

  wheel(event) {
    event.preventDefault();
    const sideways = event.shiftKey ? event.deltaY : event.deltaX;
    if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) {
      this.view.move(sideways / this.timeline.scale);
    } else {
      this.view.zoom(2 ** Math.min(Math.max(event.deltaY / 200, -1), 1), this.timeline.ns(event.offsetX));
    }
  }

  press(event) {
    if (event.button !== 0) return;
    this.timeline.canvas.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, { x: event.offsetX, began: event.offsetX });
  }

  drag(event) {
    const { timeline, view } = this;
    const pressed = this.down.get(event.pointerId);
    if (!pressed) return this.hover(event);
    const before = [...this.down.values()].map((pointer) => pointer.x);
    pressed.x = event.offsetX;
    const after = [...this.down.values()].map((pointer) => pointer.x);
    if (after.length === 2) {
      const apart = ([a, b]) => Math.max(Math.abs(a - b), 8);
      view.zoom(apart(before) / apart(after), timeline.ns((after[0] + after[1]) / 2));
      pressed.moved = true;
    } else if (pressed.moved || Math.abs(pressed.x - pressed.began) > CLICK) {
      pressed.moved = true;
      timeline.canvas.classList.add("moves");
      this.leave();
      view.move((before[0] - after[0]) / timeline.scale);
    }
  }

  release(event) {
    const pressed = this.down.get(event.pointerId);
    this.down.delete(event.pointerId);
    this.timeline.canvas.classList.remove("moves");
    if (!pressed || pressed.moved) return;
    const found = this.exitAt(event.offsetX, event.offsetY);
    if (found) this.view.choose(found.track, found.position);
    const time = this.timeline.ns(event.offsetX);
    this.view.line = lineBefore(this.view.trace.console.from_ns, time);
    this.view.changed();
  }

  /** The nearest exit to a point, and how many are as near as a pixel. */
  exitAt(x, y) {
    const { timeline, view } = this;
    const track = view.tracks.find((_, index) => {
      return y >= timeline.lane(index) && y < timeline.lane(index) + timeline.laneHeight + GAP;
    });
    if (!track) return null;
    const [from, to] = [timeline.ns(x - CLICK), timeline.ns(x + CLICK)];
    let [position, near, here] = [-1, Infinity, 0];
    for (let i = track.firstFrom(from - track.longest); i < track.size && track.at[i] <= to; i++) {
      if (track.end[i] < from || !view.visible[track.class[i]]) continue;
      const distance = Math.max(timeline.x(track.at[i]) - x, x - timeline.x(track.end[i]), 0);
      if (distance < 1) here += track.count[i];
      if (distance < near) [position, near] = [i, distance];
    }
    return position < 0 ? null : { track, position, here };
  }

  hover(event) {
    const { timeline, tip } = this;
    timeline.pointer = event.offsetX >= timeline.gutter ? event.offsetX : null;
    const found = this.exitAt(event.offsetX, event.offsetY);
    const lines = [moment(timeline.ns(event.offsetX), timeline.view.span / 1000)];
    if (found) lines.push(...ChosenExit.summary(timeline.trace, found));
    tip.textContent = lines.join("\n");
    tip.hidden = timeline.pointer === null;
    const left = Math.min(event.offsetX + 14, timeline.width - tip.offsetWidth - 2);
    tip.style.left = `${Math.max(left, 0)}px`;
    tip.style.top = `${Math.max(event.offsetY - tip.offsetHeight - 12, 2)}px`;
    this.view.changed();
  }

  leave() {
    this.timeline.pointer = null;
    this.tip.hidden = true;
    this.view.changed();
  }
}

// Below the timeline: the whole run, with the window marked in it.

class Overview {
  constructor(timeline) {
    this.timeline = timeline;
    this.canvas = document.getElementById("overview");
    const jump = (event) => event.buttons & 1 && this.jump(event.offsetX);
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      jump(event);
    });
    this.canvas.addEventListener("pointermove", jump);
  }

  /** Moves the window's middle to where it is pressed. */
  jump(x) {
    const { view, gutter, width } = this.timeline;
    const ns = ((x - gutter) / (width - gutter)) * view.trace.end;
    view.show(ns - view.span / 2, ns + view.span / 2);
  }

  draw() {
    const { view, gutter, width } = this.timeline;
    const height = this.canvas.clientHeight;
    const pen = this.timeline.prepare(this.canvas, height);
    const scale = (width - gutter) / view.trace.end;
    const totals = new Float32Array(Math.ceil(width) + 1);
    for (const track of view.tracks) {
      for (let i = 0; i < track.size; i++) {
        if (view.visible[track.class[i]]) totals[Math.floor(gutter + track.at[i] * scale)] += track.count[i];
      }
    }
    const most = Math.log1p(totals.reduce((a, b) => Math.max(a, b), 0)) || 1;
    pen.fillStyle = this.timeline.colour("soft");
    totals.forEach((total, x) => {
      const high = total > 0 ? 3 + ((height - 6) * Math.log1p(total)) / most : 0;
      pen.fillRect(x, height - high, 1, high);
    });
    const [left, right] = [view.from, view.to].map((ns) => gutter + ns * scale);
    pen.fillStyle = this.timeline.colour("window");
    pen.fillRect(left, 0, Math.max(right - left, 2), height);
    pen.strokeStyle = this.timeline.colour("accent");
    pen.strokeRect(left + 0.5, 0.5, Math.max(right - left, 2) - 1, height - 1);
  }
}

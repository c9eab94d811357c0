"use strict";
// Masks, matches and pictures of instances: COCO's compressed RLE in, pixels on a canvas out. Knows nothing of the page.
const masks = (() => {
  /** Run lengths of COCO's compressed text (rleFrString in pycocotools' maskApi.c). */
  function runLengths(text) {
    const runs = [];
    let place = 0;
    while (place < text.length) {
      let value = 0, shift = 0, more = true;
      while (more && place < text.length) {
        const bits = text.charCodeAt(place++) - 48;
        value |= (bits & 31) << shift;
        shift += 5;
        more = (bits & 32) !== 0;
        if (!more && bits & 16 && shift < 32) value |= -1 << shift;
      }
      if (runs.length > 2) value += runs[runs.length - 2];
      runs.push(value);
    }
    return runs;
  }

  /** [start, end) of each run of ones, column-major, within height × width. */
  function spans(mask) {
    const end = mask.size[0] * mask.size[1], out = [];
    let place = 0;
    runLengths(mask.counts).forEach((length, i) => {
      const next = Math.min(end, place + Math.max(0, length));
      if (i % 2 && next > place) out.push([place, next]);
      place = next;
    });
    return out;
  }

  const area = (list) => list.reduce((sum, [from, to]) => sum + to - from, 0);

  function shared(a, b) {
    let i = 0, j = 0, sum = 0;
    while (i < a.length && j < b.length) {
      sum += Math.max(0, Math.min(a[i][1], b[j][1]) - Math.max(a[i][0], b[j][0]));
      if (a[i][1] < b[j][1]) i++; else j++;
    }
    return sum;
  }

  function boxOverlap(a, b) {
    const w = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
    const h = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
    return w > 0 && h > 0 ? w * h : 0;
  }

  /** IoU of two instances: of their masks where both have one of the same frame, else of their boxes. */
  function iou(a, b) {
    const boxes = boxOverlap(a.box, b.box);
    if (!boxes) return 0;
    if (a.mask && b.mask && String(a.mask.size) === String(b.mask.size)) {
      const left = spans(a.mask), right = spans(b.mask), both = shared(left, right);
      return both / (area(left) + area(right) - both || 1);
    }
    return boxes / (a.box[2] * a.box[3] + b.box[2] * b.box[3] - boxes || 1);
  }

  /** Pairs of one class with an IoU of at least 0.5, the best first, each instance used once: two maps to {other, iou}. */
  function match(ours, theirs) {
    const pairs = [];
    for (const a of ours) for (const b of theirs) {
      if (a.label !== b.label) continue;
      const overlap = iou(a, b);
      if (overlap >= 0.5) pairs.push([overlap, a, b]);
    }
    pairs.sort((p, q) => q[0] - p[0]);
    const left = new Map(), right = new Map();
    for (const [overlap, a, b] of pairs) {
      if (left.has(a) || right.has(b)) continue;
      left.set(a, { other: b, iou: overlap });
      right.set(b, { other: a, iou: overlap });
    }
    return { left, right };
  }

  const ids = new Map();
  /** Say which id each class has: colours go by it, so that a class has the same one in every view of a lake. */
  const setClasses = (classes) => classes.forEach(([label, , id]) => ids.set(label, id));

  /** One stable colour a class: [red, green, blue]. Ids that follow each other are far apart in hue (the golden section). */
  function colour(label) {
    let id = ids.get(label);
    if (id === undefined) { id = 2166136261; for (let i = 0; i < label.length; i++) id = Math.imul(id ^ label.charCodeAt(i), 16777619) >>> 0; }
    const hue = ((0.62 + id * 0.6180339887) % 1) * 6, light = [0.56, 0.68, 0.46][id % 3], strong = 0.9;
    const c = (1 - Math.abs(2 * light - 1)) * strong, x = c * (1 - Math.abs((hue % 2) - 1)), m = light - c / 2;
    const [r, g, b] = [[c, x, 0], [x, c, 0], [0, c, x], [0, x, c], [x, 0, c], [c, 0, x]][Math.floor(hue) % 6];
    return [r, g, b].map((v) => Math.round((v + m) * 255));
  }
  const css = (rgb) => `rgb(${rgb.join(",")})`;
  const inkOn = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 120 ? "#000" : "#fff");

  /** Paint one mask into RGBA `data` of width × height, which is `ratio` times the mask's frame: a tint and a contour. */
  function paint(data, width, height, ratio, mask, rgb) {
    const [H, W] = mask.size, columns = new Int32Array(W).fill(-1), set = new Uint8Array(width * height);
    for (let x = 0; x < width; x++) columns[Math.min(W - 1, Math.floor((x + 0.5) / ratio))] = x;
    let left = width, right = -1, top = height, bottom = -1;
    for (const [from, to] of spans(mask)) {
      for (let column = Math.floor(from / H); column * H < to; column++) {
        const x = columns[column];
        if (x < 0) continue;
        const y0 = Math.max(0, Math.ceil((Math.max(from, column * H) - column * H) * ratio - 0.5));
        const y1 = Math.min(height, Math.ceil((Math.min(to, column * H + H) - column * H) * ratio - 0.5));
        if (y1 <= y0) continue;
        for (let y = y0; y < y1; y++) set[y * width + x] = 1;
        left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y0); bottom = Math.max(bottom, y1 - 1);
      }
    }
    for (let y = top; y <= bottom; y++) for (let x = left; x <= right; x++) {
      const i = y * width + x;
      if (!set[i]) continue;
      const edge = x === 0 || y === 0 || x === width - 1 || y === height - 1
        || !(set[i - 1] && set[i + 1] && set[i - width] && set[i + width]);
      data[4 * i] = rgb[0]; data[4 * i + 1] = rgb[1]; data[4 * i + 2] = rgb[2]; data[4 * i + 3] = edge ? 255 : 105;
    }
  }

  /** Whether a keypoint is shown: a label's visibility, or a detection's logit, above 0. */
  const visible = (point) => point[3] > 0;

  /**
   * Draw instances onto a canvas that lies on the photo.
   * frame: [width, height] of the image; size: [width, height] of the canvas in device pixels; zoom: device pixels a CSS pixel;
   * marked(instance): a word beside the label, and dashes around the box; skeleton: pairs of keypoint names.
   */
  function draw(canvas, frame, size, zoom, instances, show, skeleton, marked) {
    canvas.width = size[0]; canvas.height = size[1];
    const context = canvas.getContext("2d"), k = size[0] / frame[0];
    const largeFirst = [...instances].sort((a, b) => b.box[2] * b.box[3] - a.box[2] * a.box[3]);
    const masked = show.masks ? largeFirst.filter((i) => i.mask && i.mask.size[0] > 0 && i.mask.size[1] > 0) : [];
    if (masked.length) {
      // A frame smaller than the canvas is painted as it is and enlarged smoothly.
      const ratio = Math.min(1, k), width = Math.max(1, Math.round(frame[0] * ratio)), height = Math.max(1, Math.round(frame[1] * ratio));
      const layer = document.createElement("canvas");
      layer.width = width; layer.height = height;
      const pixels = new ImageData(width, height);
      for (const i of masked) paint(pixels.data, width, height, ratio * frame[0] / i.mask.size[1], i.mask, colour(i.label));
      layer.getContext("2d").putImageData(pixels, 0, 0);
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      context.drawImage(layer, 0, 0, size[0], size[1]);
    }
    const line = (show.small ? 1.1 : 1.7) * zoom;
    if (show.boxes) for (const i of largeFirst) {
      context.setLineDash(marked && marked(i) ? [4 * zoom, 3 * zoom] : []);
      context.strokeStyle = css(colour(i.label));
      context.lineWidth = line;
      context.strokeRect(...i.box.map((v) => v * k));
    }
    context.setLineDash([]);
    if (show.keypoints) for (const i of largeFirst) drawKeypoints(context, i, k, zoom, skeleton, show.points);
    if (show.names) {
      const placed = [];
      context.font = `${Math.round((show.small ? 10.5 : 12.5) * zoom)}px system-ui, sans-serif`;
      context.textBaseline = "middle";
      [...instances].sort((a, b) => (b.score ?? 1) - (a.score ?? 1)).forEach((i) => drawName(context, i, k, zoom, size, placed, marked && !show.small && marked(i), show.small));
    }
  }

  function drawKeypoints(context, instance, k, zoom, skeleton, named) {
    const points = new Map((instance.keypoints || []).filter(visible).map((p) => [p[0], [p[1] * k, p[2] * k]]));
    const limbs = skeleton.filter(([a, b]) => points.has(a) && points.has(b)).map(([a, b]) => [points.get(a), points.get(b)]);
    for (const [style, width] of [["rgba(20,20,20,.85)", 4.4], [css(colour(instance.label)), 2.4]]) {
      context.strokeStyle = style; context.lineWidth = width * zoom; context.lineCap = "round";
      for (const [from, to] of limbs) { context.beginPath(); context.moveTo(...from); context.lineTo(...to); context.stroke(); }
    }
    context.font = `${Math.round(11 * zoom)}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    for (const [name, [x, y]] of points) {
      context.beginPath(); context.arc(x, y, 2.6 * zoom, 0, 7);
      context.fillStyle = "#fff"; context.fill(); context.strokeStyle = "#181818"; context.lineWidth = zoom; context.stroke();
      if (named) {
        context.lineWidth = 3 * zoom; context.strokeStyle = "rgba(20,20,20,.9)"; context.strokeText(name, x + 5 * zoom, y);
        context.fillText(name, x + 5 * zoom, y);
      }
    }
  }

  function drawName(context, instance, k, zoom, size, placed, mark, small) {
    let text = instance.label.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "\ufffd");
    if (text.length > 28) text = `${text.slice(0, 27)}…`;
    if (instance.score !== null) text += ` ${instance.score.toFixed(2)}`;
    if (mark) text += ` · ${mark}`;
    const pad = 3 * zoom, width = context.measureText(text).width + 2 * pad, height = (small ? 14 : 17) * zoom;
    const [x, y, w, h] = instance.box.map((v) => v * k);
    const inside = [[x, y - height], [x, y], [x + w - width, y - height], [x, y + h], [x, y + h - height], [x + w - width, y]]
      .map(([a, b]) => [Math.max(0, Math.min(a, size[0] - width)), Math.max(0, Math.min(b, size[1] - height))]);
    const free = inside.find(([a, b]) => !placed.some((p) => a < p[0] + p[2] && p[0] < a + width && b < p[1] + p[3] && p[1] < b + height));
    // Names hide what they name: where there is no room, the list beside the picture says it.
    if ((!free && (small || placed.length > 12)) || (small && (placed.length > 7 || w * h < 1.2 * width * height))) return;
    const [left, top] = free || inside[0];
    placed.push([left, top, width, height]);
    const rgb = colour(instance.label);
    context.fillStyle = css(rgb); context.fillRect(left, top, width, height);
    context.fillStyle = inkOn(rgb); context.fillText(text, left + pad, top + height / 2 + zoom / 2);
  }

  return { spans, area, iou, match, setClasses, colour, css, draw, visible };
})();

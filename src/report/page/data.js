'use strict';
// What the records say, unpacked: `report` (see page_data.h), its cells, and numbers as people read them.

// The series that packed() of src/report/packed.h made.
function unpack(text) {
  if (!text) return [];
  const [head, body] = text.split(';');
  const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
  if (head === 'f') return Array.from(new Float64Array(bytes.buffer));
  const [divisor, step] = head.split(',').map(Number);
  const values = [];
  let before = 0;
  for (let i = 0; i < bytes.length;) {
    let rest = 0, scale = 1;
    for (;;) {
      const byte = bytes[i++];
      rest += (byte & 127) * scale;
      if (byte < 128) break;
      scale *= 128;
    }
    before += rest % 2 === 1 ? -(rest + 1) / 2 : rest / 2;
    values.push(before * step / divisor);
  }
  return values;
}

const report = JSON.parse(document.getElementById('data').textContent);
const withSamples = report.detail === 'samples';

const cells = report.cells.map((raw, index) => {
  const text = (key) => key in raw ? report.strings[raw[key]] : '';
  const cell = {index, raw, file: raw.file, machine: raw.machine, metrics: {}};
  for (const key of ['model', 'precision', 'long', 'test', 'kind', 'device', 'engine', 'tuning', 'status', 'stamp',
    'error', 'stop', 'started', 'prompt', 'said']) cell[key] = text(key);
  [cell.promptTokens, cell.newTokens, cell.depth, cell.batch] = raw.size;
  cell.context = cell.depth + cell.promptTokens;
  cell.reasons = (raw.reasons || []).map((i) => report.strings[i]);
  for (const [which, runs, median, low, high, min, max, mad, samples] of raw.metrics) {
    cell.metrics[report.metrics[which].name] = {runs, median, low, high, min, max, mad, samples};
  }
  cell.quality = raw.quality && !raw.quality.error ? raw.quality : null;
  cell.usable = cell.status === 'ok' && cell.stamp !== 'INVALID';
  return cell;
});
const several = (key) => new Set(cells.map((c) => c[key])).size > 1;
// No more words than tell the cells of this report apart.
const placeKeys = ['device', 'engine'].filter(several);
const nameOf = (cell) => [cell.model, cell.precision, cell.test, ...placeKeys.map((key) => cell[key])].filter(Boolean)
    .join(' · ');
// For charts, where there is less room.
const labelOf = (cell) => nameOf(cell).replace(/^[^ /]*\//, '');

function metric(cell, name) {
  const m = cell.metrics[name];
  return m && m.median !== null ? m : null;
}
const speedOf = (cell) => cell.kind === 'prefill' ? 'prefill_tokens_per_second' : 'tokens_per_second';

function digits(value, count) {
  if (value === null || value === undefined || !isFinite(value)) return 'n/a';
  if (value === 0) return '0';
  const whole = Math.max(0, count - 1 - Math.floor(Math.log10(Math.abs(value))));
  return Math.abs(value) >= 1e-4 ? value.toFixed(Math.min(whole, 9)) : value.toExponential(count - 1);
}
function scaled(units, base) {
  return (value) => {
    if (value === null || value === undefined) return 'n/a';
    let i = 0, v = value;
    while (i + 1 < units.length && Math.abs(v) >= base) { v /= base; ++i; }
    return digits(v, 4) + ' ' + units[i];
  };
}
const format = {
  ns: scaled(['ns', 'µs', 'ms', 's'], 1000),
  bytes: scaled(['B', 'KiB', 'MiB', 'GiB', 'TiB'], 1024),
  rate: (v) => digits(v, 4),
  share: (v) => v === null || v === undefined ? 'n/a' : (100 * v).toFixed(1) + ' %',
  plain: (v) => digits(v, 4),
  joules: (v) => digits(v, 3),
};
// "512.3 [510.1, 514.9]"
function withInterval(m, show) {
  if (!m) return 'n/a';
  return show(m.median) + (typeof m.low === 'number' && typeof m.high === 'number' ?
    ' [' + show(m.low) + ', ' + show(m.high) + ']' : '');
}
